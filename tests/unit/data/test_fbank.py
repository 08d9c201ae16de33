"""Fbank against torchaudio, WeNet's arrays and a plain float64 reference."""

import importlib.util
import sys

import numpy as np
import pytest
import torch

from rayasr.data import fbank as fbank_module
from rayasr.data.fbank import (
    Fbank,
    analysis_window,
    energy_floor,
    load_torchaudio_kaldi,
    mel_banks,
    num_frames,
)
from rayasr.errors import ConfigError
from rayasr.feature_config import FeatureConfig

VARIANTS = {
    "fbank": FeatureConfig(),
    "fbank_snip_false": FeatureConfig(snip_edges=False),
    "fbank_high-400": FeatureConfig(high_freq=-400.0),
    "mel23_hamming": FeatureConfig(num_mel_bins=23, window="hamming"),
}


@pytest.fixture(scope="module")
def arrays(shared):
    return np.load(shared / "parity" / "features.npz")


def noise(num_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_samples, generator=generator) * 0.1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["digit16k", "librispeech", "aishell", "short"])
def test_wenets_features(arrays, name, variant):
    samples = torch.from_numpy(arrays[f"{name}.int16"].astype(np.float32) / 32768)
    expected = arrays[f"{name}.{variant}"]
    features = Fbank(VARIANTS[variant])(samples).numpy()
    assert features.shape == expected.shape
    difference = np.abs(features - expected)
    # above 4 kHz the upsampled digit holds next to nothing: rounding is all there is
    assert difference.max() < (5e-3 if name == "digit16k" else 1e-3)
    assert difference.mean() < 2e-5


@pytest.mark.parametrize(("name", "file"), [("librispeech", "libri_1995-1837-0001.wav")])
def test_whole_recordings(arrays, shared, name, file):
    from rayasr.data.audio import load_audio

    features = Fbank(FeatureConfig())(load_audio(shared / "data" / "samples" / file, 16000))
    np.testing.assert_allclose(features.mean(0), arrays[f"{name}_whole.fbank_mean"], atol=1e-3)
    deviation = features.std(0, correction=0)
    np.testing.assert_allclose(deviation, arrays[f"{name}_whole.fbank_std"], atol=1e-3)


def test_constants(arrays):
    config = FeatureConfig()
    np.testing.assert_allclose(mel_banks(config, 512), arrays["mel_banks_80x257"], atol=2e-5)
    window = analysis_window(config, 400)
    np.testing.assert_allclose(window, arrays["povey_window_400"], atol=1e-6)


def kaldi_float64(samples, config):
    """Kaldi's steps one by one, window by window, in float64."""
    length, shift = config.window_samples
    signal = samples.double() * 32768
    if not config.snip_edges:
        left = length // 2 - shift // 2
        signal = torch.cat([signal[:left].flip(0), signal, signal[-length:].flip(0)])
    rows = []
    for i in range(num_frames(len(samples), config)):
        window = signal[i * shift : i * shift + length]
        window = window - window.mean()
        window = window - 0.97 * torch.cat([window[:1], window[:-1]])
        window = window * analysis_window(config, length).double()
        padded = 1 << (length - 1).bit_length()
        power = torch.fft.rfft(window, padded).abs() ** 2
        rows.append((mel_banks(config, padded).double() @ power).clamp(min=2.0**-23).log())
    return torch.stack(rows).float()


@pytest.mark.parametrize(
    "config",
    [
        *VARIANTS.values(),
        FeatureConfig(sample_rate=8000, num_mel_bins=40),
        FeatureConfig(frame_length_ms=20, frame_shift_ms=12.5, window="hamming"),
        FeatureConfig(sample_rate=22050, snip_edges=False),
    ],
)
def test_against_a_plain_reference(config):
    samples = noise(5000) + 0.02  # with a mean to take out
    difference = (Fbank(config)(samples) - kaldi_float64(samples, config)).abs()
    assert difference.max() < 1e-3
    assert difference.mean() < 2e-5


@pytest.mark.skipif(
    importlib.util.find_spec("torchaudio") is None, reason="the extra torchaudio is not installed"
)
class TestTorchaudio:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_ours_equals_torchaudios(self, variant):
        ours = VARIANTS[variant]
        theirs = ours.model_copy(update={"backend": "torchaudio"})
        samples = noise(16000) * torch.linspace(0, 1, 16000) + 0.01
        features, expected = Fbank(ours)(samples), Fbank(theirs)(samples)
        assert features.shape == expected.shape
        assert (features - expected).abs().max() < 1e-3
        assert (features - expected).abs().mean() < 2e-5

    def test_the_backend_needs_no_native_library(self):
        """torchaudio's own, built for CUDA, does not load on other machines."""
        before = sys.modules.get("torchaudio")
        load_torchaudio_kaldi.cache_clear()
        fbank = Fbank(FeatureConfig(backend="torchaudio"))
        assert fbank(noise(200)).shape == (0, 80)
        assert fbank(noise(560)).shape == (2, 80)
        assert sys.modules.get("torchaudio") is before


def test_torchaudio_missing_is_a_sentence(monkeypatch):
    monkeypatch.setattr(fbank_module.importlib.util, "find_spec", lambda _: None)
    load_torchaudio_kaldi.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install 'rayasr\[torchaudio\]'"):
        Fbank(FeatureConfig(backend="torchaudio"))


@pytest.mark.parametrize("snip_edges", [True, False])
def test_frame_counts(snip_edges):
    config = FeatureConfig(snip_edges=snip_edges)
    fbank = Fbank(config)
    counts = np.array([0, 1, 79, 80, 399, 400, 559, 560, 561, 4000])
    frames = num_frames(counts, config)
    assert frames.tolist() == [num_frames(int(n), config) for n in counts]
    for n, expected in zip(counts, frames, strict=True):
        features = fbank(noise(int(n)))
        assert features.shape == (expected, 80)
        assert features.isfinite().all()
        assert features.dtype == torch.float32


def test_silence_is_floored():
    features = Fbank(FeatureConfig())(torch.zeros(1600))
    torch.testing.assert_close(features, torch.full_like(features, np.log(2.0**-23)))


@pytest.mark.parametrize("backend", ["rayasr", "torchaudio"])
@pytest.mark.parametrize("rate", [8000, 16000])
def test_noise_floor_is_the_energy_of_noise(rate, backend):
    plain = FeatureConfig(sample_rate=rate, num_mel_bins=40, snip_edges=False, high_freq=-400.0)
    config = plain.model_copy(update={"noise_floor": 3.0, "backend": backend})
    floor = energy_floor(config).log()
    heard = Fbank(plain)(torch.zeros(20 * rate), dither=3.0)
    torch.testing.assert_close(floor, heard.double().exp().mean(0).log().float(), atol=0.1, rtol=0)
    silence = Fbank(config)(torch.zeros(rate))
    torch.testing.assert_close(silence, floor.expand_as(silence))
    mixed = noise(rate) * torch.linspace(0.0, 0.01, rate)
    expected = torch.maximum(Fbank(plain)(mixed), floor)
    assert (expected == floor).any()
    torch.testing.assert_close(Fbank(config)(mixed), expected, atol=1e-3, rtol=0)


def test_a_batch_is_its_members():
    fbank = Fbank(FeatureConfig())
    waves = [noise(n, seed=n) for n in (3000, 100, 16000, 400)]
    for wave, features in zip(waves, fbank.batch(waves), strict=True):
        torch.testing.assert_close(features, fbank(wave), rtol=0, atol=1e-4)
    assert fbank.batch([]) == []


def test_samples_are_left_as_they_are():
    samples = noise(2000)
    before = samples.clone()
    Fbank(FeatureConfig())(samples, dither=1.0)
    assert torch.equal(samples, before)
    strided = torch.stack([samples, samples], 1)[:, 0]
    assert torch.equal(Fbank(FeatureConfig())(strided), Fbank(FeatureConfig())(samples))


def test_dither_is_noise_at_int16_scale():
    fbank = Fbank(FeatureConfig())
    silence = torch.zeros(16000)
    first, second = (
        fbank(silence, dither=2.0, generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert torch.equal(first, second)
    noisy = fbank(noise(16000) * (2.0 / 3276.8))  # white noise of deviation 2 at int16 scale
    torch.testing.assert_close(first.mean(0), noisy.mean(0), rtol=0, atol=0.5)
    assert not torch.equal(first, fbank(silence, dither=2.0))
