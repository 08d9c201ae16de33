"""Which utterances of a split are decoded together: arithmetic over lengths, no audio.

    utterances -> batches   of like length, longest first, inside windows
    batches    -> shards    of like cost: what a worker takes at once, and what a rerun keeps

Neither depends on the number of workers, and one process decodes the same batches as many do: so
all of them find the same, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayasr.data.batch_plan import fixed_batches
from rayasr.data.store import Store

MAX_PADDING = 0.05
"""No batch has as much padding as this share."""
WINDOW = 20_000
"""Utterances among which batches are made, so that a shard reads from few of the store's files."""
NUM_SHARDS = 50
"""Shards that a split of ordinary size is cut into: enough for workers to end together."""
FEWEST_FRAMES, MOST_FRAMES = 2_000, 60_000
"""Bounds of a shard: 20 s of audio, beside which a file of its own costs little, and 10 min."""


@dataclass(frozen=True)
class DecodeShard:
    """Some batches of a split; positions are those in the split."""

    split: str
    number: int
    batches: tuple[tuple[int, ...], ...]

    @property
    def utterances(self) -> list[int]:
        """Positions of all its utterances, in the order in which they are decoded."""
        return [i for batch in self.batches for i in batch]


def shards_of(store: Store, split: str, max_padded_frames: int) -> list[DecodeShard]:
    """Shards of a store's split; raises DataError for one it lacks."""
    return cut_shards(split, store.split(split).frames[:, 0], max_padded_frames)


def cut_shards(split: str, frames: NDArray[Any], max_padded_frames: int) -> list[DecodeShard]:
    """Every utterance in one batch of one shard; `frames` (N,) are their lengths.

    A batch has `max_padded_frames` at most, or a single utterance.
    """
    lengths = np.asarray(frames, dtype=np.int64)
    most = min(max(int(lengths.sum()) // NUM_SHARDS, FEWEST_FRAMES), MOST_FRAMES)
    groups: list[list[tuple[int, ...]]] = []
    filled = 0
    for batch in _window_batches(lengths, min(max_padded_frames, most)):
        padded = len(batch) * int(lengths[batch].max())
        if not groups or filled + padded > most:
            groups.append([])
            filled = 0
        groups[-1].append(tuple(batch))
        filled += padded
    return [DecodeShard(split, number, tuple(group)) for number, group in enumerate(groups)]


def padding(shards: Sequence[DecodeShard], frames: NDArray[Any]) -> float:
    """The share of padding in all frames that are decoded."""
    batches = [list(batch) for shard in shards for batch in shard.batches]
    padded = sum(len(batch) * int(frames[batch].max()) for batch in batches)
    used = sum(int(frames[batch].sum()) for batch in batches)
    return 1.0 - used / padded if padded else 0.0


def _window_batches(lengths: NDArray[np.int64], max_padded_frames: int) -> list[list[int]]:
    batches = []
    for start in range(0, len(lengths), WINDOW):
        window = lengths[start : start + WINDOW]
        rows = fixed_batches(window, max_padded_frames, max_padding=MAX_PADDING)
        batches += [[start + i for i in batch] for batch in rows]
    return batches
