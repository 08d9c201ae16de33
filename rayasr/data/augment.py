"""Augmentation of a padded batch of log-mel features, in WeNet's order and with its draws.

Positions are looked up by (seed, epoch, utterance), so neither workers nor batches change them.
numpy on purpose: the loader's thread then starts no second pool of OpenMP threads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rayasr.config import AugmentConfig, SpecAugmentConfig
from rayasr.data import keyed

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Draws:
    """Keyed draws for the rows of a batch: `utterances` and `copies` are (B,)."""

    seed: int
    epoch: int
    utterances: Ints
    copies: Ints

    def integers(self, purpose: str, low: Ints | int, high: Ints | int, count: int) -> Ints:
        """(B, count) whole numbers between bounds (B, 1) or (B, count), both included."""
        return keyed.integers(low, high, self.seed, purpose, *self._counters(count))

    def uniform(self, purpose: str) -> NDArray[np.float64]:
        """(B,) draws in [0, 1)."""
        return keyed.uniform(self.seed, purpose, *self._counters(1))[:, 0]

    def _counters(self, count: int) -> tuple[int, Ints, Ints, Ints]:
        return self.epoch, self.utterances[:, None], self.copies[:, None], np.arange(count)


def augment(features: Floats, lengths: Ints, config: AugmentConfig, draws: Draws) -> Ints:
    """Change features (B, T, F) in place; returns their lengths (B,), shorter where trimmed."""
    if config.frequency_warp > 0:
        warp_frequencies(features, lengths, config.frequency_warp, draws)
    if config.spec_augment is not None:
        spec_augment(features, lengths, config.spec_augment, draws)
    if config.substitutions and config.substitution_frames:
        substitute(features, lengths, config.substitutions, config.substitution_frames, draws)
    if config.trim_frames:
        lengths = trim(features, lengths, config.trim_frames, draws)
    return lengths


def spec_augment(features: Floats, lengths: Ints, config: SpecAugmentConfig, draws: Draws) -> None:
    """Mask stretches of time and bands of frequency (Park et al. 2019, without warping).

    Masked is 0 before CMVN, as in WeNet: about the level of silence, not the mean.
    """
    num_frames, num_bins = features.shape[1:]
    times = np.zeros((len(features), num_frames), bool)
    if config.time_masks and config.time_mask_frames:
        longest = np.minimum(config.time_mask_frames, lengths * config.time_mask_fraction)
        starts, ends = _stretches("time", lengths, longest, config.time_masks, draws)
        times |= _inside(starts, ends, num_frames).any(axis=1)
    bands = np.zeros((len(features), num_bins), bool)
    if config.frequency_masks and config.frequency_mask_bins:
        bins = np.full(len(features), num_bins)
        widest = np.minimum(config.frequency_mask_bins, bins)
        starts, ends = _stretches("frequency", bins, widest, config.frequency_masks, draws)
        bands |= _inside(starts, ends, num_bins).any(axis=1)
    np.copyto(features, 0.0, where=times[:, :, None] | bands[:, None, :])


def substitute(features: Floats, lengths: Ints, count: int, longest: int, draws: Draws) -> None:
    """Replace stretches by earlier ones of the same utterance (spec-sub, U2++).

    All copies come from the features as they were, so a later one never repeats an earlier one.
    """
    num_frames = features.shape[1]
    limit = np.full(len(features), longest)
    starts, ends = _stretches("substitution", lengths, limit, count, draws)
    back = draws.integers("substitution source", 0, starts, count)
    time = np.arange(num_frames)
    source = np.broadcast_to(time, (len(features), num_frames)).copy()
    inside = _inside(starts, ends, num_frames)
    for at in range(count):  # where two overlap, the later one stays
        source = np.where(inside[:, at], time - back[:, at, None], source)
    rows, frames = np.nonzero(source != time)
    features[rows, frames] = features[rows, source[rows, frames]]


def trim(features: Floats, lengths: Ints, longest: int, draws: Draws) -> Ints:
    """Cut up to `longest` frames off the end where less than half goes; returns lengths (B,)."""
    cut = draws.integers("trim", 1, longest, 1)[:, 0]
    shorter = np.where(cut < lengths / 2, lengths - cut, lengths)
    features[np.arange(features.shape[1]) >= shorter[:, None]] = 0.0
    return shorter


def warp_frequencies(features: Floats, lengths: Ints, width: float, draws: Draws) -> None:
    """Stretch the mel axis by a factor within 1 ± width, by linear interpolation.

    Bin f takes the value at f x factor; beyond the last bin that bin's value is repeated.
    """
    top = features.shape[2] - 1
    factors = 1 + width * (2 * draws.uniform("warp") - 1)
    for row, (length, factor) in enumerate(zip(lengths.tolist(), factors, strict=True)):
        place = np.minimum(np.arange(top + 1) * factor, top)
        low = np.minimum(place.astype(np.int64), top - 1)
        share = (place - low).astype(np.float32)
        own = features[row, :length]
        features[row, :length] = own[:, low] * (1 - share) + own[:, low + 1] * share


def _stretches(
    purpose: str, sizes: Ints, longest: NDArray[np.generic], count: int, draws: Draws
) -> tuple[Ints, Ints]:
    """Starts and ends (B, count): any start, 1 to `longest` (B,) long, cut at the size (B,)."""
    most = longest.astype(np.int64)[:, None]
    starts = draws.integers(f"{purpose} start", 0, sizes[:, None] - 1, count)
    spans = np.minimum(draws.integers(f"{purpose} length", 1, most, count), most)
    return starts, np.minimum(starts + spans, sizes[:, None])


def _inside(starts: Ints, ends: Ints, size: int) -> NDArray[np.bool_]:
    """(B, count, size): whether a position lies in a stretch."""
    at = np.arange(size)
    inside: NDArray[np.bool_] = (at >= starts[..., None]) & (at < ends[..., None])
    return inside
