from collections import Counter
from itertools import chain
from typing import Any

import numpy as np
import pytest

from rayasr.config import parse_recipe
from rayasr.data import batch_plan
from rayasr.data.batch_plan import BatchPlan, Step, balance, fixed_batches, padded_units, share


def make_plan(num: int = 500, weight: float = 1.0, **sections: Any) -> BatchPlan:
    """A plan over lengths like AISHELL's: 4.5 s ± 1.4 s, three speeds, ten speakers."""
    rng = np.random.default_rng(3)
    base = np.clip(rng.normal(450, 140, num), 120, 1450)
    frames = np.stack([base / 0.9, base, base / 1.1], axis=1).astype(np.int32)
    units = np.clip(base * 0.032, 1, 44).astype(np.int32)
    recipe = parse_recipe(sections)
    return BatchPlan(frames, units, np.arange(num) % 10, np.full(num, weight), recipe)


def utterances(steps: list[Step]) -> list[int]:
    """All utterances of some steps, in order."""
    return [
        row
        for step in steps
        for batch in step.micro_batches
        for item in batch.items
        for row in item.utterances
    ]


def padding(steps: list[Step]) -> float:
    batches = [batch for step in steps for batch in step.micro_batches]
    frames = sum(item.frames for batch in batches for item in batch.items)
    return 1 - frames / sum(batch.padded_frames for batch in batches)


def test_an_epoch_has_every_utterance_once_and_little_padding() -> None:
    steps = make_plan(5000, batch={"max_padded_frames": 8000}).epoch(0)
    assert sorted(utterances(steps)) == list(range(5000))
    assert padding(steps) < 0.05
    assert [step.step for step in steps] == list(range(len(steps)))
    assert sum(step.num_utterances for step in steps) == 5000


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = make_plan(seed=1).epoch(0)
    assert utterances(first) == utterances(make_plan(seed=1).epoch(0))
    assert utterances(first) != utterances(make_plan(seed=1).epoch(1))
    assert utterances(first) != utterances(make_plan(seed=2).epoch(0))


def test_micro_batches_of_a_step_mix_lengths() -> None:
    steps = make_plan(5000, batch={"max_padded_frames": 3000, "micro_batches": 4}).epoch(0)
    longest = [[max(i.frames for i in b.items) for b in s.micro_batches] for s in steps]
    spread = np.mean([max(lengths) - min(lengths) for lengths in longest])
    assert spread > 100  # sorted batches in a row would give a few frames


def test_windows_bound_what_is_sorted_together() -> None:
    batch = {"max_padded_frames": 8000, "shuffle_window": 100}
    assert padding(make_plan(5000, batch=batch).epoch(0)) < 0.15


@pytest.mark.parametrize("bound", [3000, 1500, "auto"])
def test_frames_per_step_does_not_move_utterances_between_steps(bound: int | str) -> None:
    batch = {"frames_per_step": 24000, "micro_batches": 8, "max_padded_frames": 100_000}
    free = make_plan(2000, batch=batch)
    bounded = make_plan(2000, batch=batch | {"max_padded_frames": bound, "max_utterances": 4})
    for ours, theirs in zip(free.epoch(1), bounded.epoch(1), strict=True):
        assert sorted(utterances([ours])) == sorted(utterances([theirs]))
        assert len(theirs.micro_batches) > len(ours.micro_batches)
    assert free.total_steps(3) == bounded.total_steps(3)


def test_frames_per_step_is_met_on_average() -> None:
    batch = {"frames_per_step": 58000, "micro_batches": 16, "max_padded_frames": "auto"}
    steps = make_plan(20000, batch=batch).epoch(0)
    frames = [sum(i.frames for b in step.micro_batches for i in b.items) for step in steps]
    assert np.mean(frames[:-1]) == pytest.approx(58000, rel=0.005)
    assert np.std(frames[:-1]) < 0.05 * 58000
    assert all(len(step.micro_batches) == 16 for step in steps[:-1])
    assert padding(steps) < 0.05


def test_static_batches_ignore_frames() -> None:
    steps = make_plan(100, batch={"static_utterances": 16, "max_padded_frames": 10}).epoch(0)
    sizes = [len(batch.items) for step in steps for batch in step.micro_batches]
    assert sorted(sizes) == [4, 16, 16, 16, 16, 16, 16]


def test_an_utterance_beyond_the_bounds_is_a_micro_batch_of_its_own() -> None:
    steps = make_plan(50, batch={"max_padded_frames": 10}).epoch(0)
    assert all(len(b.items) == 1 for step in steps for b in step.micro_batches)
    assert sorted(utterances(steps)) == list(range(50))


def test_units_and_utterances_are_bounded() -> None:
    batch = {"max_padded_frames": 10**6, "max_utterances": 7, "max_padded_units": 100}
    batches = [b for step in make_plan(batch=batch).epoch(0) for b in step.micro_batches]
    assert max(len(b.items) for b in batches) == 7
    assert max(padded_units(b) for b in batches) <= 100


def test_speeds_are_drawn_evenly_and_anew_each_epoch() -> None:
    plan = make_plan(3000)
    speeds = []
    for epoch in range(3):
        items = [i for s in plan.epoch(epoch) for b in s.micro_batches for i in b.items]
        counts = Counter(item.speed for item in items)
        assert all(900 < counts[speed] < 1100 for speed in range(3))
        speeds.append({item.utterances: item.speed for item in items})
    same = sum(speeds[0][key] == speeds[1][key] for key in speeds[0])
    assert 900 < same < 1100


def test_weights_make_copies() -> None:
    counts = Counter(utterances(make_plan(2000, weight=1.25).epoch(0)))
    assert set(counts.values()) == {1, 2}
    assert sum(counts.values()) == pytest.approx(2500, rel=0.03)
    half = make_plan(2000, weight=0.5).epoch(0)
    assert len(set(utterances(half))) == pytest.approx(1000, rel=0.1)
    double = [
        item
        for s in make_plan(300, weight=2.0).epoch(0)
        for b in s.micro_batches
        for item in b.items
    ]
    assert Counter(item.copy for item in double) == {0: 300, 1: 300}


STRINGING = {"fraction": 0.5, "start_frames": 600, "max_frames": 2400, "ramp_fraction": 0.5}


def test_strings_keep_speakers_lengths_and_every_utterance() -> None:
    plan = make_plan(2000, augment={"stringing": STRINGING}, train={"epochs": 10})
    assert [plan.longest_string(epoch) for epoch in (0, 1, 4, 5, 9)] == [600, 960, 2040, 2400, 2400]
    longest = []
    for epoch in (0, 2, 9):
        steps = plan.epoch(epoch)
        assert sorted(utterances(steps)) == list(range(2000))
        items = [i for s in steps for b in s.micro_batches for i in b.items]
        strings = [item for item in items if len(item.utterances) > 1]
        assert all(len({row % 10 for row in item.utterances}) == 1 for item in strings)
        assert all(item.frames <= plan.longest_string(epoch) for item in strings)
        longest.append(max(item.frames for item in strings))
        strung = sum(len(item.utterances) for item in strings)
        assert 0 < strung < 0.55 * 2000
    assert longest[0] < longest[1] < longest[2] > 2000


def test_total_steps_is_the_sum_of_all_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(1000, augment={"stringing": STRINGING}, train={"epochs": 60})
    exact = sum(len(plan.epoch(epoch)) for epoch in range(60))
    fresh = make_plan(1000, augment={"stringing": STRINGING}, train={"epochs": 60})
    assert fresh.total_steps(60) == exact
    monkeypatch.setattr(batch_plan, "EXACT_PASSES", 0)
    sampled = make_plan(1000, augment={"stringing": STRINGING}, train={"epochs": 60})
    assert sampled.total_steps(60) == pytest.approx(exact, rel=0.01)
    assert sampled.total_steps(60) == sampled.total_steps(60)


def test_the_worst_micro_batches_are_the_largest_on_both_axes() -> None:
    plan = make_plan(batch={"max_padded_frames": 8000})
    batches = [b for step in plan.epoch(0) for b in step.micro_batches]
    worst = plan.worst_micro_batches()
    assert worst[0].padded_frames >= max(b.padded_frames for b in batches)
    assert max(map(padded_units, worst)) >= max(map(padded_units, batches))


def test_an_empty_split_has_no_steps() -> None:
    plan = make_plan(0, augment={"stringing": STRINGING})
    assert plan.epoch(0) == []
    assert plan.total_steps(5) == 0
    assert plan.worst_micro_batches() == []


def test_shares_are_balanced_and_complete() -> None:
    step = make_plan(2000, batch={"max_padded_frames": 4000, "micro_batches": 16}).epoch(0)[0]
    shares = [share(step, rank, 3) for rank in range(3)]
    assert sorted(chain(*shares)) == sorted(step.micro_batches)
    loads = [sum(batch.padded_frames for batch in part) for part in shares]
    assert max(loads) < 1.1 * np.mean(loads) + 4000 / 2
    assert [len(part) for part in (share(step, rank, 20) for rank in range(20))].count(0) == 4


def test_balance_gives_the_dearest_first() -> None:
    assert balance([5, 4, 3, 3, 3], 2) == [[0, 3], [1, 2, 4]]
    assert balance([], 2) == [[], []]


def test_fixed_batches_are_sorted_bounded_and_complete() -> None:
    frames = np.random.default_rng(0).integers(10, 500, 200)
    batches = fixed_batches(frames, 2000)
    assert sorted(chain(*batches)) == list(range(200))
    assert all(len(batch) * frames[batch].max() <= 2000 for batch in batches)
    assert fixed_batches(np.array([5000]), 2000) == [[0]]
    assert fixed_batches(np.array([], np.int32), 2000) == []
    assert max(map(len, fixed_batches(frames, 10**6, max_utterances=9))) == 9
