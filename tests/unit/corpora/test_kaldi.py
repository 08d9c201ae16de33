"""Kaldi folders."""

import pytest

from rayasr.config import CorpusConfig
from rayasr.corpora.read import read_corpora
from rayasr.errors import DataError
from tests.factories import make_kaldi_corpus, write_lines, write_wav


def read(path):
    corpora = [CorpusConfig(path=str(path))]
    return read_corpora(corpora, dev_fraction=0.1, seed=1, notes=lambda _: None)


def append(path, *lines):
    with path.open("a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


def rejects(manifest):
    return {item.key: item.reason for item in manifest.rejects}


def test_one_folder_is_all_training_data(tmp_path):
    manifest = read(make_kaldi_corpus(tmp_path, {"": 10}))
    assert {item.split for item in manifest.utterances} == {"train", "dev"}
    first = manifest.utterances[0]
    assert (first.key, first.audio) == ("all-spk0-000", "audio/all-spk0-000.wav")
    assert first.speaker == "all-spk0"


def test_a_folder_per_split_under_any_name(tmp_path):
    make_kaldi_corpus(tmp_path / "data", {"train": 2, "dev": 1, "test_noisy": 1})
    manifest = read(tmp_path)
    assert manifest.splits() == ("train", "dev", "test_noisy")
    assert manifest.utterances[-1].audio.startswith("data/train/audio")


def test_paths_may_be_absolute_or_relative_to_the_corpus(tmp_path):
    outside = write_wav(tmp_path / "outside" / "x.wav")
    corpus = tmp_path / "corpus"
    write_wav(corpus / "wavs" / "y.wav")
    write_lines(corpus / "test" / "wav.scp", [f"x {outside}", "y wavs/y.wav"])
    write_lines(corpus / "test" / "text", ["x 一", "y 二"])
    manifest = read(corpus)
    assert [item.audio for item in manifest.utterances] == [str(outside), "wavs/y.wav"]
    assert [item.speaker for item in manifest.utterances] == ["x", "y"]


def test_segments_are_parts_of_recordings(tmp_path):
    write_wav(tmp_path / "test" / "long.wav", seconds=3.0)
    write_lines(tmp_path / "test" / "wav.scp", ["rec long.wav"])
    write_lines(tmp_path / "test" / "text", ["a 一", "b 二", "c 三", "d 四"])
    write_lines(tmp_path / "test" / "utt2spk", ["a s", "b s", "c s"])
    lines = ["a rec 0.5 1.5", "b rec 1.5 -1", "c rec 2 1", "d rec zero 1", "e gone 0 1", "f rec"]
    write_lines(tmp_path / "test" / "segments", lines)
    manifest = read(tmp_path)
    times = [(item.key, item.start_s, item.end_s) for item in manifest.utterances]
    assert times == [("a", 0.5, 1.5), ("b", 1.5, None)]
    assert rejects(manifest) == {
        "c": "bad_segment",
        "d": "bad_segment",
        "e": "missing_audio",
        "f": "bad_segment",
    }
    said = {item.key: (item.text, item.speaker) for item in manifest.rejects}
    assert said == {"c": ("三", "s"), "d": ("四", "d"), "e": (None, "e"), "f": (None, "f")}


def test_missing_audio_and_missing_text(tmp_path):
    make_kaldi_corpus(tmp_path, {"test": 3})
    append(tmp_path / "test" / "text", "only-text 一")
    append(tmp_path / "test" / "wav.scp", "only-audio audio/test-spk0-000.wav", "gone gone.wav")
    append(tmp_path / "test" / "text", "gone 二")
    manifest = read(tmp_path)
    assert len(manifest.utterances) == 3
    assert rejects(manifest) == {
        "only-text": "missing_audio",
        "only-audio": "missing_text",
        "gone": "missing_audio",
    }
    assert [item.text for item in manifest.rejects if item.text] == ["二"]


def test_a_command_is_rejected_and_never_run(tmp_path):
    make_kaldi_corpus(tmp_path, {"test": 3})
    witness = tmp_path / "witness"
    append(tmp_path / "test" / "wav.scp", f"evil touch {witness} |")
    append(tmp_path / "test" / "text", "evil 一")
    manifest = read(tmp_path)
    assert rejects(manifest) == {"evil": "command_in_wav_scp"}
    assert "write their output to wav or flac files" in manifest.rejects[0].detail
    assert not witness.exists()


def test_only_commands_is_an_error_that_says_how_to_convert(tmp_path):
    write_lines(tmp_path / "wav.scp", ["a sph2pipe -f wav a.sph |"])
    write_lines(tmp_path / "text", ["a 一"])
    with pytest.raises(DataError, match=r"only commands such as 'sph2pipe.*commands are never run"):
        read(tmp_path)


def test_duplicate_ids(tmp_path):
    make_kaldi_corpus(tmp_path, {"test": 3})
    append(tmp_path / "test" / "wav.scp", "test-spk0-000 audio/test-spk1-001.wav")
    append(tmp_path / "test" / "text", "test-spk1-001 九九")
    manifest = read(tmp_path)
    assert len(manifest.utterances) == 3
    assert rejects(manifest) == {
        "test-spk0-000": "duplicate_key",
        "test-spk1-001": "duplicate_key",
    }


def test_no_text_file(tmp_path):
    make_kaldi_corpus(tmp_path, {"test": 1})
    (tmp_path / "test" / "text").unlink()
    with pytest.raises(DataError, match=r"has a wav\.scp but no text"):
        read(tmp_path)


def test_byte_order_mark_and_windows_line_ends(tmp_path):
    make_kaldi_corpus(tmp_path, {"test": 2})
    text = tmp_path / "test" / "text"
    content = text.read_text(encoding="utf-8").replace("\n", "\r\n")
    text.write_bytes(b"\xef\xbb\xbf" + content.encode())
    manifest = read(tmp_path)
    assert not manifest.rejects
    assert all(item.text == item.text.strip() for item in manifest.utterances)
