"""rayasr/decode/transcribe.py: order, long recordings, bad files."""

import numpy as np
import pytest
import soundfile
import torch

from rayasr.decode import transcribe as module
from rayasr.decode.hypothesis import Hypothesis
from rayasr.decode.recognizer import Decoding, Reading, Recognizer
from rayasr.decode.transcribe import quiet_cut, transcribe
from tests.factories import write_wav


def run(loaded, files, mode="ctc_greedy_search"):
    return list(transcribe(Recognizer(loaded), files, mode, loaded.recipe))


def test_order_and_bad_files(tiny, tmp_path):
    files = [write_wav(tmp_path / f"{i}.wav", 0.3 + 0.7 * (i % 3), 8000, seed=i) for i in range(7)]
    files[3].write_bytes(b"no audio at all")
    files.insert(5, tmp_path / "missing.wav")
    found = run(tiny, files)
    assert [item.file for item in found] == [str(file) for file in files]
    assert [bool(item.error) for item in found] == [i in (3, 5) for i in range(8)]
    assert "missing.wav does not exist" in found[5].error
    for item in found:  # alone as in company
        (alone,) = run(tiny, [item.file])
        assert (alone.text, alone.error) == (item.text, item.error)
        ours, theirs = item.nbest[0].hypothesis, alone.nbest[0].hypothesis
        assert ours.times == theirs.times
        assert ours.score == pytest.approx(theirs.score, abs=1e-4)


def test_formats_and_rates(tiny, tmp_path):
    files = [
        write_wav(tmp_path / "a.wav", 1.0, 16000),
        write_wav(tmp_path / "b.flac", 1.0, 44100),
        write_wav(tmp_path / "c.ogg", 1.0, 8000),
    ]
    assert not any(item.error for item in run(tiny, files))


def test_short_and_silent_files_are_empty(tiny, tmp_path):
    short = write_wav(tmp_path / "short.wav", 0.03, 8000)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(8000, np.float32), 8000)
    for item in run(tiny, [short, silent]):
        assert item.error is None
        assert item.nbest == (Reading("", Hypothesis((), 0.0, ())),)


@pytest.fixture
def in_short_pieces(tiny):
    from dataclasses import replace

    store = tiny.recipe.store.model_copy(update={"max_seconds": 2.0})
    return replace(tiny, recipe=tiny.recipe.model_copy(update={"store": store}))


def test_a_long_recording_is_decoded_in_pieces(in_short_pieces, tmp_path, monkeypatch):
    path = write_wav(tmp_path / "long.wav", 9.5, 8000)
    sizes = []
    decode_batch = Recognizer.decode_batch

    def spy(self, features, modes):
        sizes.extend(len(item) for item in features)
        return decode_batch(self, features, modes)

    monkeypatch.setattr(Recognizer, "decode_batch", spy)
    monkeypatch.setattr(module, "MAX_BATCH_FRAMES", 500)
    (found,) = run(in_short_pieces, [path])
    assert len(sizes) > 4
    assert max(sizes) <= 200
    assert sum(sizes) > 900  # 950, less what windows lose at each cut
    assert found.error is None
    times = found.nbest[0].hypothesis.times
    assert list(times) == sorted(times)
    assert times[-1] > 7.0
    assert len(found.text.replace("<unk>", "x")) == len(times)


def test_nbest_of_a_long_recording_is_that_of_its_pieces_together(in_short_pieces, tmp_path):
    path = write_wav(tmp_path / "long.wav", 3.5, 8000)
    mode = "ctc_prefix_beam_search"

    def nbest(count):
        recognizer = Recognizer(in_short_pieces, Decoding(beam_size=4, nbest=count))
        (found,) = transcribe(recognizer, [path], mode, in_short_pieces.recipe)
        return found.nbest

    readings = nbest(4)
    assert len({item.hypothesis.units for item in readings}) == 4
    scores = [item.hypothesis.score for item in readings]
    assert scores == sorted(scores, reverse=True)
    assert readings[:2] == nbest(2)
    assert readings[:1] == nbest(1)


def test_silence_inside_and_at_the_end(in_short_pieces, tmp_path):
    rng = np.random.default_rng(1)
    speech = 0.1 * rng.standard_normal(8000)
    for name, parts in {
        "middle": (speech, np.zeros(8000 * 7), speech),
        "end": (speech, np.zeros(8000 * 7)),
        "whole pieces": (np.zeros(8000 * 6),),
    }.items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, np.concatenate(parts).astype(np.float32), 8000)
        (found,) = run(in_short_pieces, [path])
        assert found.error is None


def test_cut_is_in_the_quietest_place_of_the_second_half():
    samples = torch.ones(8000)
    samples[1000:2000] = 0.0
    samples[6000:6600] = 0.1
    cut = quiet_cut(samples, 1000)
    assert 6000 <= cut <= 6600
    assert quiet_cut(torch.ones(10), 1000) == 10
