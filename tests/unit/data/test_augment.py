import numpy as np
import pytest
from numpy.typing import NDArray

from rayasr.config import AugmentConfig, SpecAugmentConfig
from rayasr.data import augment as module
from rayasr.data.augment import Draws, augment, spec_augment, substitute, trim, warp_frequencies

PLAIN = AugmentConfig(spec_augment=None)


def make_features(lengths: list[int], bins: int = 20) -> tuple[NDArray[np.float32], NDArray]:
    """Random features padded with 0; a value says where it came from: row, frame and bin."""
    features = np.zeros((len(lengths), max(lengths), bins), np.float32)
    for row, length in enumerate(lengths):
        features[row, :length] = (
            1 + 1000 * row + np.arange(length)[:, None] + np.arange(bins)[None] / 100
        )
    return features, np.array(lengths)


def make_draws(count: int, first: int = 0, epoch: int = 0) -> Draws:
    return Draws(7, epoch, np.arange(first, first + count), np.zeros(count, np.int64))


def test_no_augmentation_changes_nothing() -> None:
    features, lengths = make_features([30, 20])
    before = features.copy()
    assert augment(features, lengths, PLAIN, make_draws(2)) is lengths
    assert (features == before).all()


def test_an_utterance_is_masked_alike_in_any_batch_and_differently_in_each_epoch() -> None:
    config = AugmentConfig(
        substitutions=3, substitution_frames=5, trim_frames=8, frequency_warp=0.1
    )
    together, lengths = make_features([90, 60, 40])
    together[1, :60] = together[0, :60]
    shortened = augment(together, lengths, config, make_draws(3))
    alone, length = make_features([60])
    shorter = augment(alone, length, config, make_draws(1, first=1))
    assert shorter[0] == shortened[1]
    assert np.array_equal(alone[0, : shorter[0]], together[1, : shorter[0]])
    later, length = make_features([60])
    augment(later, length, config, make_draws(1, first=1, epoch=1))
    assert not np.array_equal(alone, later)


def test_masks_are_whole_frames_and_bands_within_their_bounds() -> None:
    config = SpecAugmentConfig(
        time_masks=1, time_mask_frames=12, frequency_masks=1, frequency_mask_bins=4
    )
    features, lengths = make_features([100] * 300)
    spec_augment(features, lengths, config, make_draws(300))
    masked = features == 0
    frames, bins = masked.all(axis=2), masked.all(axis=1)
    assert (masked == (frames[:, :, None] | bins[:, None, :])).all()
    widths, bands = frames.sum(1), bins.sum(1)
    assert widths.min() == 1
    assert widths.max() == 12
    assert bands.min() == 1
    assert bands.max() == 4
    assert widths.mean() == pytest.approx(6.2, abs=0.5)  # 6.5, less what is cut at the end
    # Every frame is as likely to be masked, but for the first few, which no earlier start reaches.
    assert frames[:, 20:].sum(0).std() < 2 * np.sqrt(300 * 0.062)


def test_time_masks_are_a_share_of_short_utterances() -> None:
    config = SpecAugmentConfig(
        time_masks=2, time_mask_frames=50, time_mask_fraction=0.08, frequency_masks=0
    )
    features, lengths = make_features([100] * 50 + [10] * 50)
    spec_augment(features, lengths, config, make_draws(100))
    widths = (features == 0).all(axis=2).sum(1)
    assert widths[:50].max() <= 16
    assert widths[:50].max() > 10
    assert (features[50:, :10] != 0).all()  # 0.8 of a frame is none


def test_masks_that_are_switched_off_do_nothing() -> None:
    config = SpecAugmentConfig(time_mask_frames=0, frequency_masks=0)
    features, lengths = make_features([30])
    before = features.copy()
    spec_augment(features, lengths, config, make_draws(1))
    assert (features == before).all()


def test_substitutes_come_from_earlier_frames_as_they_were() -> None:
    features, lengths = make_features([80, 50] * 20)
    before = features.copy()
    substitute(features, lengths, 3, 30, make_draws(40))
    assert not np.array_equal(features, before)
    for row, length in enumerate(lengths):
        source = np.floor(features[row, :length, 0] - 1 - 1000 * row).astype(int)
        assert (source <= np.arange(length)).all()
        assert (source >= 0).all()
        assert np.array_equal(features[row, :length], before[row, source])
        assert (features[row, length:] == 0).all()


def test_substitute_equals_a_plain_loop() -> None:
    """WeNet's loop over one utterance, with our draws."""
    features, lengths = make_features([60])
    draws = make_draws(1, first=9)
    expected = features[0].copy()
    starts, ends = module._stretches("substitution", lengths, np.array([20]), 4, draws)
    back = draws.integers("substitution source", 0, starts, 4)
    for start, end, pos in zip(starts[0], ends[0], back[0], strict=True):
        expected[start:end] = features[0, start - pos : end - pos]
    substitute(features, lengths, 4, 20, draws)
    assert np.array_equal(features[0], expected)


def test_trim_takes_less_than_half() -> None:
    features, lengths = make_features([100] * 100 + [6] * 100)
    shorter = trim(features, lengths, 20, make_draws(200))
    assert shorter[:100].min() == 80
    assert shorter[:100].max() == 99
    assert shorter[100:].min() == 4
    assert all((features[row, length:] == 0).all() for row, length in enumerate(shorter))
    assert (features[:, :4] != 0).all()


def test_warp_stretches_the_mel_axis() -> None:
    features, lengths = make_features([30] * 200, bins=40)
    features[:] = np.arange(40)  # then a bin's value is where it was read
    warp_frequencies(features, lengths, 0.1, make_draws(200))
    factors = features[:, 0, 20] / 20
    assert factors.min() > 0.9
    assert factors.max() < 1.1
    assert factors.std() == pytest.approx(0.2 / np.sqrt(12), rel=0.1)
    expected = np.minimum(np.arange(40) * factors[:, None], 39)
    assert np.abs(features - expected[:, None]).max() < 1e-4


def test_warp_leaves_padding() -> None:
    features, lengths = make_features([30, 10])
    warp_frequencies(features, lengths, 0.1, make_draws(2))
    assert (features[1, 10:] == 0).all()
