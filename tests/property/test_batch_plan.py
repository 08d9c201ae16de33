"""What no setting may break: cover, bounds, and independence of workers."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayasr.config import parse_recipe
from rayasr.data.batch_plan import BatchPlan, Step, padded_units, share

pytestmark = pytest.mark.property

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=80)
SEEDS = st.integers(0, 2**40)
BATCHES = st.fixed_dictionaries(
    {
        "micro_batches": st.integers(1, 6),
        "frames_per_step": st.one_of(st.none(), st.integers(1, 20000)),
        "max_padded_frames": st.integers(1, 9000),
        "max_utterances": st.integers(1, 20),
        "max_padded_units": st.integers(1, 300),
        "shuffle_window": st.integers(1, 50),
    }
)
FRACTIONS = st.sampled_from([0.0, 0.5, 1.0])


def make_plan(
    lengths: list[int], seed: int, batch: dict[str, Any], fraction: float = 0.0, weight: float = 1.0
) -> BatchPlan:
    base = np.array(lengths)
    frames = np.stack([base * 10 // 9 + 1, base, base * 10 // 11 + 1], axis=1)
    recipe = parse_recipe(
        {"seed": seed, "batch": batch, "augment": {"stringing": {"fraction": fraction}}}
    )
    units, speakers = base // 30 + 1, base % 4
    return BatchPlan(frames, units, speakers, np.full(len(base), weight), recipe)


def utterances(step: Step) -> list[int]:
    items = chain.from_iterable(batch.items for batch in step.micro_batches)
    return sorted(chain.from_iterable(item.utterances for item in items))


@given(LENGTHS, SEEDS, BATCHES, FRACTIONS, st.integers(0, 100))
def test_every_utterance_is_in_an_epoch_once(lengths, seed, batch, fraction, epoch):
    plan = make_plan(lengths, seed, batch, fraction)
    steps = plan.epoch(epoch)
    assert sorted(chain(*map(utterances, steps))) == list(range(len(lengths)))
    assert plan.steps_per_epoch(epoch) == len(steps)
    again = make_plan(lengths, seed, batch, fraction)
    assert again.steps_per_epoch(epoch) == len(steps)  # counted without building
    assert again.epoch(epoch) == steps


@given(LENGTHS, SEEDS, BATCHES, st.floats(0.1, 3.0))
def test_weights_give_floor_or_ceiling_copies(lengths, seed, batch, weight):
    rows = list(chain(*map(utterances, make_plan(lengths, seed, batch, weight=weight).epoch(0))))
    for row in range(len(lengths)):
        assert int(weight) <= rows.count(row) <= int(weight) + 1


@given(LENGTHS, SEEDS, BATCHES, FRACTIONS)
def test_bounds_hold_but_for_single_items(lengths, seed, batch, fraction):
    plan = make_plan(lengths, seed, batch, fraction)
    for step in plan.epoch(0):
        groups = len(step.micro_batches)
        assert batch["frames_per_step"] is not None or groups <= batch["micro_batches"]
        assert [micro.index for micro in step.micro_batches] == list(range(groups))
        for micro in step.micro_batches:
            longest = max(item.frames for item in micro.items)
            assert micro.padded_frames == len(micro.items) * longest
            if len(micro.items) > 1:
                assert micro.padded_frames <= batch["max_padded_frames"]
                assert padded_units(micro) <= batch["max_padded_units"]
                assert len(micro.items) <= batch["max_utterances"]


@given(LENGTHS, SEEDS, BATCHES, st.integers(1, 9))
def test_ranks_share_every_step_exactly(lengths, seed, batch, world):
    for step in make_plan(lengths, seed, batch).epoch(2):
        shares = [share(step, rank, world) for rank in range(world)]
        assert sorted(chain(*shares)) == sorted(step.micro_batches)
        used = sum(bool(part) for part in shares)
        assert used == min(world, len(step.micro_batches))  # nobody idles beside a stack of work


@given(LENGTHS, SEEDS, BATCHES, BATCHES, st.integers(1, 20000), FRACTIONS)
def test_bounds_do_not_move_utterances(lengths, seed, one, other, frames_per_step, fraction):
    fixed = {key: one[key] for key in ("micro_batches", "shuffle_window")}
    fixed["frames_per_step"] = frames_per_step
    first = make_plan(lengths, seed, one | fixed, fraction).epoch(1)
    second = make_plan(lengths, seed, other | fixed, fraction).epoch(1)
    assert list(map(utterances, first)) == list(map(utterances, second))


@given(LENGTHS, SEEDS, BATCHES, st.integers(0, 39))
def test_strings_stay_inside_their_speaker_and_length(lengths, seed, batch, epoch):
    plan = make_plan(lengths, seed, batch, fraction=1.0)
    for step in plan.epoch(epoch):
        for item in chain.from_iterable(micro.items for micro in step.micro_batches):
            assert len({lengths[row] % 4 for row in item.utterances}) == 1
            assert len(item.utterances) == 1 or item.frames <= plan.longest_string(epoch)


@given(LENGTHS, SEEDS)
def test_frames_and_units_are_those_of_the_utterances(lengths, seed):
    plan = make_plan(lengths, seed, {}, fraction=0.5)
    for step in plan.epoch(0):
        for item in chain.from_iterable(micro.items for micro in step.micro_batches):
            base = np.array([lengths[row] for row in item.utterances])
            per_speed = [base * 10 // 9 + 1, base, base * 10 // 11 + 1]
            assert item.frames == per_speed[item.speed].sum()
            assert item.units == (base // 30 + 1).sum()
