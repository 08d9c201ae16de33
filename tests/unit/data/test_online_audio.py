"""Audio in pieces equals the whole: resampling, blocks of files of every kind, PCM from a pipe."""

import io
import itertools

import numpy as np
import pytest
import soundfile
import torch

from rayasr.data import online_audio
from rayasr.data.audio import AudioError, load_audio, read_audio, read_blocks, resample
from rayasr.data.online_audio import OnlineResampler, file_samples, pcm_samples
from tests.factories import write_wav

RATES = [
    (44100, 16000), (48000, 16000), (8000, 16000), (16000, 8000), (22050, 16000), (16000, 16000),
    (96000, 8000), (11025, 16000), (15999, 16000), (16000, 7919),
]  # fmt: skip


@pytest.mark.parametrize("rates", RATES)
def test_resampling_in_pieces(rates):
    rng = np.random.default_rng(0)
    samples = torch.randn(40000, generator=torch.Generator().manual_seed(1))
    for length in (0, 1, 17, 500, 40000):
        whole = resample(samples[:length], *rates)
        for count in (0, 3, 30):
            online = OnlineResampler(*rates)
            cuts = [0, *sorted(rng.integers(0, length + 1, count).tolist()), length]
            pieces = [online.accept(samples[a:b]) for a, b in itertools.pairwise(cuts)]
            found = torch.cat([*pieces, online.finish()])
            torch.testing.assert_close(found, whole, rtol=0.0, atol=2e-6)


def test_usual_rates_lag_by_a_few_milliseconds():
    for rates in RATES[:8]:
        online = OnlineResampler(*rates)
        found = online.accept(torch.zeros(rates[0] // 10))  # 100 ms
        assert len(found) >= 0.04 * rates[1]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "aiff"])
def test_blocks_of_a_file(tmp_path, suffix):
    path = write_wav(tmp_path / f"x.{suffix}", 1.23, 22050)
    whole, rate = read_audio(path)
    blocks = list(read_blocks(path, 0.25))
    assert {found for _, found in blocks} == {rate}
    assert [block.shape[1] for block, _ in blocks[:-1]] == [round(0.25 * rate)] * (len(blocks) - 1)
    assert torch.equal(torch.cat([block for block, _ in blocks], dim=1), whole)


def test_real_recordings_in_blocks(shared):
    folder = shared / "data" / "samples"
    for name in (
        "jfk_44k_stereo.mp3",
        "libri_1089_8k_ulaw.wav",
        "libri_1221.opus",
        "en_44k_8bit.wav",
    ):
        whole = load_audio(folder / name, 16000)
        found = torch.cat(list(file_samples(folder / name, 16000)))
        torch.testing.assert_close(found, whole, rtol=0.0, atol=2e-6)


def test_a_long_recording_is_not_held(shared, monkeypatch):
    sizes = []
    read = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, n, **kw: sizes.append(n) or read(self, n, **kw)
    )
    for _ in file_samples(shared / "data" / "samples" / "long_libri.ogg", 16000):
        pass
    assert max(sizes) == 1600


def test_bad_files(tmp_path, shared):
    path = tmp_path / "x.wav"
    with pytest.raises(AudioError, match=r"x\.wav does not exist"):
        list(file_samples(path, 16000))
    path.write_bytes(b"")
    with pytest.raises(AudioError, match="0 bytes"):
        list(file_samples(path, 16000))
    soundfile.write(path, np.array([0.1] * 900 + [np.nan]), 8000, subtype="FLOAT")
    with pytest.raises(AudioError, match="NaN"):
        list(file_samples(path, 16000))
    with pytest.raises(AudioError, match="truncated"):
        list(file_samples(shared / "data" / "samples" / "aishell_S0764W0122_truncated.wav", 16000))
    soundfile.write(path, np.zeros(0, np.int16), 8000)
    assert list(file_samples(path, 16000)) == []


def test_a_damaged_file_gives_what_is_before_that(tmp_path):
    path = tmp_path / "x.flac"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 32000)
    soundfile.write(path, noise, 16000)
    path.write_bytes(path.read_bytes()[:40000])
    found: list[torch.Tensor] = []
    with pytest.raises(AudioError, match="truncated or damaged"):
        found.extend(file_samples(path, 16000))
    assert 4000 < sum(map(len, found)) < 32000


class Pipe(io.BytesIO):
    """Gives a few bytes at a time, as a pipe may."""

    def read1(self, size=-1):
        return super().read1(min(size, 7))


def test_pcm_from_a_pipe():
    pcm = np.random.default_rng(0).integers(-32768, 32767, 1001, dtype=np.int16)
    data = pcm.astype("<i2").tobytes()
    notes = []
    found = torch.cat(list(pcm_samples(Pipe(data + b"\x01"), 16000, 16000, notes.append)))
    assert torch.equal(found, torch.from_numpy(pcm.astype(np.float32) / 32768))
    assert notes == ["the audio ended in the middle of a sample; its last byte is dropped"]
    slower = torch.cat(list(pcm_samples(Pipe(data), 16000, 8000, notes.append)))
    torch.testing.assert_close(slower, resample(found, 16000, 8000), rtol=0.0, atol=2e-6)
    assert len(notes) == 1
    assert sum(map(len, pcm_samples(io.BytesIO(b""), 16000, 16000, notes.append))) == 0
    assert online_audio.BLOCK_S == 0.1
