"""The synthetic corpus: unseen test speakers and sentences, the same bytes for the same seed."""

import hashlib
import sys
from itertools import chain

import pytest
import soundfile

from rayasr.config import CorpusConfig
from rayasr.corpora import espeak
from rayasr.corpora.espeak import Espeak, Line, speak_apart
from rayasr.corpora.read import read_corpora
from rayasr.corpora.synthetic import (
    DEV_VOICES,
    GRAMMAR,
    TEST_VOICES,
    TRAIN_VOICES,
    SyntheticSize,
    make_synthetic_corpus,
    plan_speakers,
)
from rayasr.errors import ConfigError, DataError

SMALL = SyntheticSize(
    train_speakers=2,
    train_sentences=1,
    train_phrases=1,
    dev_speakers=1,
    dev_sentences=1,
    test_speakers=1,
    test_sentences=2,
)


@pytest.fixture(scope="module")
def voices():
    pytest.importorskip("espeakng_loader")
    return Espeak()


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).hexdigest() for path in files
    }


def test_test_speakers_and_sentences_are_unseen_in_training():
    plan = plan_speakers(0, SyntheticSize())
    heard = {split: set() for split in ("train", "dev", "test")}
    said = {split: set() for split in heard}
    for speaker in plan:
        heard[speaker.split] |= {line.voice for line in speaker.lines}
        said[speaker.split] |= {line.text for line in speaker.lines}
    for sets in (heard, said):
        assert not sets["train"] & sets["test"]
        assert not sets["train"] & sets["dev"]
        assert not sets["dev"] & sets["test"]
    assert len({speaker.name for speaker in plan}) == len(plan)


def test_every_character_is_said_often_enough_in_training():
    plan = plan_speakers(0, SyntheticSize())
    text = "".join(line.text for s in plan if s.split == "train" for line in s.lines)
    characters = set("".join(chain.from_iterable(chain.from_iterable(GRAMMAR))))
    assert 75 <= len(characters) <= 90
    assert min(text.count(character) for character in characters) >= 12


def test_the_plan_follows_the_seed():
    assert plan_speakers(3, SMALL) == plan_speakers(3, SMALL)
    assert plan_speakers(3, SMALL) != plan_speakers(4, SMALL)


def test_voices_are_apart():
    everybody = TRAIN_VOICES + DEV_VOICES + TEST_VOICES
    assert len(everybody) == len(set(everybody))


def test_too_many_speakers():
    with pytest.raises(ConfigError, match=r"train speakers: 1 to 700, found 999"):
        plan_speakers(0, SyntheticSize(train_speakers=999))


def test_every_voice_exists(voices):
    for voice in TRAIN_VOICES + DEV_VOICES + TEST_VOICES:
        assert voices.phonemes("一", f"cmn+{voice}".rstrip("+"))


@pytest.mark.parametrize(
    ("characters", "pinyin"),
    [
        ("今天北京下雨", "jin1 tian1 bei3 jing1 xia4 yu3"),
        ("七三八", "qi1 san1 ba1"),
        ("听音乐", "ting1 yin1 yue4"),
        ("睡觉", "shui4 jiao4"),
        ("小李买了九本书", "xiao3 li3 mai3 le5 jiu3 ben3 shu1"),
        ("妈麻马骂", "ma1 ma2 ma3 ma4"),
    ],
)
def test_characters_are_read_as_mandarin(voices, characters, pinyin):
    read_as_pinyin = voices.phonemes(pinyin, "cmn-latn-pinyin").replace("j", "i")
    # The two voices write a glide before a vowel either as j or not at all.
    assert voices.phonemes(characters, "cmn").replace("j", "i").replace("ii", "i") == (
        read_as_pinyin.replace("ii", "i")
    )


def test_speech_of_a_fresh_process_is_always_the_same(voices):
    lines = [Line("一二三", "cmn+m1"), Line("七八", "cmn+f2", rate=200, pitch=60)]
    rate, first = speak_apart(lines)
    assert rate == voices.sample_rate
    assert speak_apart(lines) == (rate, first)
    assert all(len(samples) > rate // 2 for samples in first)


def test_unknown_voice(voices):
    with pytest.raises(ConfigError, match=r"no voice 'cmn\+nobody"):
        voices.speak(Line("一", "cmn+nobody"))
    with pytest.raises(ConfigError, match="no voice 'klingon-x'"):
        speak_apart([Line("一", "klingon-x")])


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ConfigError, match=r"pip install 'rayasr\[demo\]'"):
        Espeak()


@pytest.mark.usefixtures("voices")
def test_corpus_on_disk(tmp_path):
    calls = []
    summary = make_synthetic_corpus(
        tmp_path / "a", seed=5, size=SMALL, progress=lambda *values: calls.append(values)
    )
    assert summary["utterances"] == 7
    assert calls[-1] == (7, 7)
    notes: list[str] = []
    corpora = [CorpusConfig(path=str(tmp_path / "a"))]
    manifest = read_corpora(corpora, dev_fraction=0.1, seed=1, notes=notes.append)
    assert "train 4, dev 1, test 2" in notes[0]
    assert not manifest.rejects
    seconds = 0.0
    for item in manifest.utterances:
        info = soundfile.info(manifest.audio_path(item))
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        seconds += info.duration
    assert seconds == pytest.approx(summary["seconds"], abs=0.01)
    make_synthetic_corpus(tmp_path / "b", seed=5, size=SMALL)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


@pytest.mark.usefixtures("voices")
def test_rerun_skips_and_a_stopped_run_starts_again(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_synthetic_corpus(tmp_path, size=SMALL, progress=stop)
    assert not (tmp_path / "data_aishell").exists()
    made = make_synthetic_corpus(tmp_path, size=SMALL)
    monkeypatch.setattr("rayasr.corpora.synthetic.speak_apart", stop)
    assert make_synthetic_corpus(tmp_path, size=SMALL) == made
    with pytest.raises(DataError, match="made with seed 0, not 9; delete it"):
        make_synthetic_corpus(tmp_path, seed=9, size=SMALL)


def test_another_corpus_is_not_overwritten(tmp_path):
    (tmp_path / "data_aishell").mkdir()
    with pytest.raises(DataError, match="holds a corpus of another kind"):
        make_synthetic_corpus(tmp_path, size=SMALL)


@pytest.mark.usefixtures("voices")
def test_a_crash_of_the_library_is_one_sentence(monkeypatch):
    monkeypatch.setattr(espeak.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match="espeak-ng failed: code 1"):
        speak_apart([Line("一", "cmn")])
