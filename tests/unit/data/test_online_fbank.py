"""Fbank in pieces equals fbank of the whole, bit for bit, wherever the pieces end."""

import itertools

import numpy as np
import pytest
import torch

from rayasr.data.audio import load_audio
from rayasr.data.fbank import Fbank
from rayasr.data.online_fbank import OnlineFbank
from rayasr.feature_config import FeatureConfig

CONFIGS = {
    "wenet": FeatureConfig(),
    "edges kept": FeatureConfig(snip_edges=False),
    "8 kHz": FeatureConfig(sample_rate=8000, num_mel_bins=40),
    "8 kHz, edges kept": FeatureConfig(sample_rate=8000, num_mel_bins=40, snip_edges=False),
    "windows as long as their distance": FeatureConfig(
        frame_length_ms=10, snip_edges=False, num_mel_bins=40
    ),
    "windows apart": FeatureConfig(frame_length_ms=10, frame_shift_ms=25, num_mel_bins=40),
    "windows apart, edges kept": FeatureConfig(
        frame_length_ms=10, frame_shift_ms=25, num_mel_bins=40, snip_edges=False
    ),
}


def in_pieces(online, samples, cuts):
    pieces = itertools.pairwise([0, *sorted(cuts), len(samples)])
    frames = [online.accept(samples[start:end]) for start, end in pieces]
    return torch.cat([*frames, online.finish()])


def assert_same(found, expected):
    # Equal bits with MKL; the tolerance is for other libraries' matrix products.
    torch.testing.assert_close(found, expected, rtol=0.0, atol=4e-6)


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_of_any_size(name):
    config = CONFIGS[name]
    whole = Fbank(config)
    rng = np.random.default_rng(0)
    samples = torch.randn(5000, generator=torch.Generator().manual_seed(1)) * 0.1
    for length in (0, 1, 79, 120, 199, 200, 399, 400, 401, 799, 800, 801, 1000, 2399, 5000):
        for count in (0, 1, 5, 40):
            cuts = rng.integers(0, length + 1, count).tolist()
            assert_same(
                in_pieces(OnlineFbank(config), samples[:length], cuts), whole(samples[:length])
            )


def test_sample_by_sample():
    for config in list(CONFIGS.values())[:2]:
        samples = torch.randn(1300, generator=torch.Generator().manual_seed(2))
        found = in_pieces(OnlineFbank(config), samples, range(1300))
        assert_same(found, Fbank(config)(samples))


def test_frames_come_as_soon_as_they_can():
    online = OnlineFbank(FeatureConfig())
    samples = torch.randn(1600)
    assert len(online.accept(samples[:799])) == 0  # the first of them wait for two windows
    assert len(online.accept(samples[799:800])) == 3
    assert len(online.accept(samples[800:879])) == 0
    assert len(online.accept(samples[879:880])) == 1


def test_a_recording_in_blocks_of_a_tenth_of_a_second(shared):
    samples = load_audio(shared / "data" / "samples" / "libri_1995-1837-0001.wav", 16000)
    for config in list(CONFIGS.values())[:2]:
        cuts = range(1600, len(samples), 1600)
        found = in_pieces(OnlineFbank(config), samples, cuts)
        assert torch.equal(found, Fbank(config)(samples))
