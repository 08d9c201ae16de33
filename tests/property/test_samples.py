"""Lengths and segments of recordings, for any numbers."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayasr.data.audio import (
    AudioError,
    load_audio,
    perturb_speed,
    perturbed_length,
    read_audio,
    resample,
)
from rayasr.data.fbank import Fbank, num_frames
from rayasr.feature_config import FeatureConfig

pytestmark = pytest.mark.property

RATES = st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000])


@given(
    num_samples=st.integers(0, 3000),
    rate=RATES,
    speed=st.sampled_from([0.5, 0.9, 0.95, 1.0, 1.03, 1.1, 1.2, 2.0]),
)
@settings(deadline=None, max_examples=60)
def test_length_after_a_change_of_speed_is_known_before(num_samples, rate, speed):
    out = perturb_speed(torch.ones(num_samples), rate, speed)
    assert len(out) == perturbed_length(num_samples, rate, speed)


@given(num_samples=st.integers(1, 2000), old=RATES, new=RATES, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_resampling_is_linear_and_knows_no_batch(num_samples, old, new, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, num_samples, generator=generator)
    both = resample(torch.stack([a, b, a + b]), old, new)
    assert both.shape == (3, -(-num_samples * new // old))
    torch.testing.assert_close(both[0] + both[1], both[2], rtol=0, atol=1e-5)
    torch.testing.assert_close(both[0], resample(a, old, new), rtol=0, atol=1e-5)


@given(
    num_samples=st.integers(0, 4000),
    config=st.builds(
        FeatureConfig,
        sample_rate=st.sampled_from([8000, 16000, 22050]),
        frame_length_ms=st.sampled_from([20.0, 25.0, 32.0]),
        frame_shift_ms=st.sampled_from([8.0, 10.0, 12.5]),
        snip_edges=st.booleans(),
        num_mel_bins=st.sampled_from([23, 40]),
    ),
)
@settings(deadline=None, max_examples=60)
def test_frames_are_known_before(num_samples, config):
    features = Fbank(config)(torch.linspace(-1, 1, num_samples))
    assert features.shape == (num_frames(num_samples, config), config.num_mel_bins)
    assert num_frames(np.array([num_samples]), config).tolist() == [len(features)]
    assert features.isfinite().all()


@given(content=st.binary(max_size=200), riff=st.booleans())
@settings(deadline=None, max_examples=100)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content, riff):
    path = tmp_path_factory.getbasetemp() / "any.wav"
    header = b"RIFF\x40\x00\x00\x00WAVEfmt \x10\x00\x00\x00"
    path.write_bytes((header if riff else b"") + content)
    try:
        samples, rate = read_audio(path)
    except AudioError:
        return
    assert samples.ndim == 2
    assert rate > 0


@given(cut=st.integers(0, 43 + 400), channels=st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_a_wav_file_cut_anywhere_is_refused(tmp_path_factory, cut, channels):
    data = np.arange(200 * channels, dtype="<i2").tobytes()
    fmt = struct.pack("<HHIIHH", 1, channels, 16000, 32000 * channels, 2 * channels, 16)
    whole = b"WAVEfmt " + struct.pack("<I", 16) + fmt + b"data" + struct.pack("<I", len(data))
    whole = b"RIFF" + struct.pack("<I", len(whole) + len(data)) + whole + data
    path = tmp_path_factory.getbasetemp() / "cut.wav"
    path.write_bytes(whole)
    assert read_audio(path)[0].shape == (channels, 200)
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(AudioError):
        load_audio(path, 16000)
