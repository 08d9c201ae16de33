"""Decode shards: cover, bounds and padding, whatever the lengths."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayasr.decode import shards
from rayasr.decode.shards import FEWEST_FRAMES, MAX_PADDING, MOST_FRAMES, cut_shards, padding

pytestmark = pytest.mark.property

LENGTHS = st.lists(st.integers(1, 3000), max_size=200)


@given(lengths=LENGTHS, bound=st.integers(1, 30_000), window=st.integers(1, 300))
def test_every_utterance_once_within_all_bounds(lengths: list[int], bound: int, window: int):
    frames = np.array(lengths, np.int32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "WINDOW", window)
        cut = cut_shards("test", frames, bound)
    assert [shard.number for shard in cut] == list(range(len(cut)))
    assert sorted(chain(*(shard.utterances for shard in cut))) == list(range(len(lengths)))
    assert padding(cut, frames) < MAX_PADDING
    most = min(max(sum(lengths) // shards.NUM_SHARDS, FEWEST_FRAMES), MOST_FRAMES)
    for shard in cut:
        costs = []
        for batch in shard.batches:
            longest = max(lengths[i] for i in batch)
            costs.append(len(batch) * longest)
            assert costs[-1] <= min(bound, most) or len(batch) == 1
            assert sum(lengths[i] for i in batch) > (1 - MAX_PADDING) * costs[-1]
        assert sum(costs) <= most or len(costs) == 1
