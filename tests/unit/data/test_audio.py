"""Reading recordings of every kind, refusing bad ones with their reason, resampling."""

import csv
import pickle
import struct

import numpy as np
import pytest
import soundfile
import torch

from rayasr.data.audio import (
    AudioError,
    load_audio,
    mix_down,
    perturb_speed,
    perturbed_length,
    read_audio,
    resample,
)
from rayasr.data.manifest import REJECT_REASONS
from rayasr.errors import DataError
from tests.factories import write_wav

REFUSED = {"libri_1221_44k.m4a": "unreadable", "aishell_S0764W0122_truncated.wav": "truncated"}

PCM_GUID = bytes.fromhex("0100000000001000800000aa00389b71")


def reason_of(path, **segment):
    with pytest.raises(AudioError) as info:
        load_audio(path, 16000, **segment)
    assert info.value.reason in REJECT_REASONS
    assert str(path).rpartition("/")[2] in str(info.value)
    return info.value.reason


def wav_bytes(samples, rate=16000, *, data_size=None, tail=b"", extensible=False):
    """A hand-made 16-bit wav file; `samples` int16 (N,) or (N, channels)."""
    data = samples.astype("<i2").tobytes()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    tag = 0xFFFE if extensible else 1
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * 2 * channels, 2 * channels, 16)
    if extensible:
        fmt += struct.pack("<HHI", 22, 16, 0) + PCM_GUID
    size = len(data) if data_size is None else data_size
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", size)
    body += data + tail
    return b"RIFF" + struct.pack("<I", min(len(body), 0xFFFFFFFF)) + body


def test_all_samples_are_read_right_or_refused_with_the_right_reason(shared):
    folder = shared / "data" / "samples"
    with (folder / "samples.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 18
    for row in rows:
        path = folder / row["file"]
        if path.name in REFUSED:
            assert reason_of(path) == REFUSED[path.name]
            continue
        samples, rate = read_audio(path)
        assert rate == int(row["sample_rate"])
        assert samples.shape[0] == int(row["channels"])
        assert samples.shape[1] / rate == pytest.approx(float(row["seconds"]), abs=0.006)
        assert samples.dtype == torch.float32
        assert 0.01 < samples.abs().max() <= 1.0


def test_m4a_says_which_formats_and_how_to_convert(shared):
    with pytest.raises(DataError, match=r"wav, flac, ogg.*ffmpeg -i \S+\.m4a \S+\.wav"):
        read_audio(shared / "data" / "samples" / "libri_1221_44k.m4a")


def test_chunks_after_the_data_are_no_audio(shared, tmp_path):
    pcm = np.arange(-500, 500, dtype=np.int16)
    path = tmp_path / "tail.wav"
    path.write_bytes(wav_bytes(pcm, tail=b"LIST" + struct.pack("<I", 4) + b"INFO"))
    samples, _ = read_audio(path)
    assert torch.equal(samples[0], torch.from_numpy(pcm / np.float32(32768)))
    with_tail = shared / "data" / "samples" / "aishell_S0764W0121_trailing_chunk.wav"
    plain = soundfile.read(with_tail, dtype="float32")[0]
    assert torch.equal(read_audio(with_tail)[0][0], torch.from_numpy(plain))


@pytest.mark.parametrize("options", [{}, {"extensible": True}, {"data_size": 0xFFFFFFFF}])
@pytest.mark.parametrize("channels", [1, 2])
def test_plain_wav_as_libsndfile_reads_it(tmp_path, options, channels):
    pcm = np.random.default_rng(0).integers(-32768, 32767, (800, channels), dtype=np.int16)
    path = tmp_path / "x.wav"
    path.write_bytes(wav_bytes(pcm, 22050, **options))
    samples, rate = read_audio(path)
    assert rate == 22050
    assert torch.equal(samples, torch.from_numpy(pcm.T.astype(np.float32) / 32768))
    if not options.get("data_size"):
        assert np.array_equal(samples.T, soundfile.read(path, dtype="float32", always_2d=True)[0])


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff", "sph", "au"])
def test_files_cut_short(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 8000)
    soundfile.write(path, noise, 16000, format="NIST" if suffix == "sph" else None)
    whole, _ = read_audio(path)
    assert whole.shape == (1, 8000)
    content = path.read_bytes()
    for share in (0.99, 0.5):
        path.write_bytes(content[: int(share * len(content))])
        if suffix != "au":  # whose header is optional about it
            assert reason_of(path) == "truncated"


def test_reasons(tmp_path):
    path = tmp_path / "x.wav"
    assert reason_of(path) == "missing_audio"
    path.write_bytes(b"")
    assert reason_of(path) == "empty_audio"
    path.write_bytes(wav_bytes(np.zeros(0, np.int16)))
    assert reason_of(path) == "empty_audio"
    path.write_bytes(wav_bytes(np.zeros(1600, np.int16)))
    assert reason_of(path) == "silent"
    path.write_bytes(wav_bytes(np.full(1600, 7, np.int16)))
    assert reason_of(path) == "silent"
    path.write_bytes(b"this is a text file, not audio" * 200)
    assert reason_of(path) == "unreadable"
    path.write_bytes(b"RIFF\x24\x00\x00\x00WAVE")
    assert reason_of(path) == "unreadable"
    path.write_bytes(wav_bytes(np.zeros(1600, np.int16), rate=0))
    assert reason_of(path) == "unreadable"
    for bad in (np.nan, np.inf):
        soundfile.write(path, np.array([0.1, bad, 0.2]), 16000, subtype="FLOAT")
        assert reason_of(path) == "not_finite"
    assert reason_of(tmp_path) == "unreadable"  # a folder


def test_segments(tmp_path):
    for suffix in ("wav", "flac"):
        path = write_wav(tmp_path / f"x.{suffix}", 2.0)
        whole = load_audio(path, 16000)
        assert torch.equal(load_audio(path, 16000, 0.5, 1.25), whole[8000:20000])
        assert torch.equal(load_audio(path, 16000, 1.5), whole[24000:])
        assert torch.equal(load_audio(path, 16000, 1.5, 2.4), whole[24000:])  # a little over
        for start_s, end_s in ((1.5, 2.6), (2.0, 2.2), (1.0, 1.0), (1.0, 0.5), (-0.1, 1.0)):
            assert reason_of(path, start_s=start_s, end_s=end_s) == "bad_segment"


def test_channels_are_averaged_and_rates_changed(tmp_path):
    left, right = np.full(4410, 0.5), np.sin(np.arange(4410) / 9)
    soundfile.write(tmp_path / "x.flac", np.stack([left, right], 1), 44100)
    samples = load_audio(tmp_path / "x.flac", 16000)
    assert samples.shape == (1600,)
    mono = mix_down(read_audio(tmp_path / "x.flac")[0], "x.flac")
    torch.testing.assert_close(samples, resample(mono, 44100, 16000))


def test_error_survives_a_ray_worker():
    sent = pickle.loads(pickle.dumps(AudioError("x.wav is silent", "silent")))
    assert (type(sent), str(sent), sent.reason) == (AudioError, "x.wav is silent", "silent")
    assert AudioError("x").reason == "unreadable"


def test_resampling_is_torchaudios(shared):
    arrays = np.load(shared / "parity" / "features.npz")
    digit = torch.from_numpy(arrays["digit8k.int16"].astype(np.float32) / 32768)
    expected = torch.from_numpy(arrays["digit8k.resampled16k"])
    torch.testing.assert_close(resample(digit, 8000, 16000), expected, rtol=0, atol=1e-6)
    for speed in (0.9, 1.1):
        faster = perturb_speed(expected, 16000, speed)
        assert len(faster) == perturbed_length(len(expected), 16000, speed)
        first = torch.from_numpy(arrays[f"digit16k_float.speed{speed}"])
        torch.testing.assert_close(faster[: len(first)], first, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rates", [(44100, 16000), (16000, 44100), (15999, 16000), (16000, 7919)])
def test_resampling_keeps_a_tone(rates):
    """Also where the rates have no common divisor, which goes by another way."""
    old, new = rates
    tone, expected = (torch.sin(torch.arange(r // 2) * (2 * torch.pi * 440 / r)) for r in rates)
    out = resample(tone.expand(2, -1), old, new)
    assert out.shape == (2, -(-(old // 2) * new // old))
    middle = slice(200, len(expected) - 200)
    assert (out[:, middle] - expected[middle]).abs().max() < 2e-3


def test_lengths_are_vectorised():
    counts = np.arange(0, 50)
    lengths = perturbed_length(counts, 16000, 0.9)
    assert lengths.tolist() == [perturbed_length(int(n), 16000, 0.9) for n in counts]
    assert perturbed_length(48000, 16000, 1.0) == 48000
