"""rayasr/decode/shards.py: how long shards are, and what is decoded together."""

import numpy as np

from rayasr.decode.shards import (
    FEWEST_FRAMES,
    MOST_FRAMES,
    NUM_SHARDS,
    WINDOW,
    cut_shards,
    padding,
)


def costs(frames, max_padded_frames=20_000):
    cut = cut_shards("test", frames, max_padded_frames)
    return [sum(len(b) * frames[list(b)].max() for b in shard.batches) for shard in cut]


def test_a_small_split_has_small_shards_and_a_large_one_large_ones():
    rng = np.random.default_rng(0)
    small, middle, large = (rng.integers(100, 700, count) for count in (130, 900, 12_000))
    assert max(costs(small)) <= FEWEST_FRAMES
    assert NUM_SHARDS <= len(costs(middle)) <= NUM_SHARDS * 1.3
    assert 0.8 * MOST_FRAMES < np.median(costs(large)) <= MOST_FRAMES


def test_a_batch_is_no_longer_than_the_recipe_allows():
    frames = np.full(12_000, 500)
    cut = cut_shards("test", frames, 5_000)
    assert {len(batch) for shard in cut for batch in shard.batches} == {10}
    assert len(cut[0].batches) == 12


def test_lengths_that_differ_are_not_decoded_together():
    frames = np.array([1000, 990, 500, 499, 10])
    (shard,) = cut_shards("test", frames, 5_000)[:1]
    assert shard.batches == ((0, 1),)
    assert padding(cut_shards("test", frames, 5_000), frames) < 0.01


def test_a_shard_reads_from_one_window():
    frames = np.concatenate([np.full(WINDOW, 100), np.full(300, 90)])
    first = cut_shards("test", frames, 20_000)[0]
    assert max(first.utterances) < WINDOW


def test_nothing_to_decode():
    frames = np.zeros(0, np.int32)
    assert cut_shards("test", frames, 20_000) == []
    assert padding([], frames) == 0.0
