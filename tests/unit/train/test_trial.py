"""What is tried before the first step, without a GPU."""

from types import SimpleNamespace
from typing import cast

import pytest
import torch

from rayasr.data.batch import Batch
from rayasr.data.batch_plan import BatchPlan, MicroBatch
from rayasr.errors import TrainingError
from rayasr.train import trial
from rayasr.train.state import TrainState, build_state
from rayasr.train.world import World
from tests.factories import tiny_training_recipe

LONGEST = 1600
GPU = World(0, 1, torch.device("cuda"))


class Plan:
    """A plan whose largest micro-batch has so many padded frames."""

    def __init__(self, largest: int) -> None:
        self._largest = largest

    def worst_micro_batches(self) -> list[MicroBatch]:
        return [MicroBatch((), self._largest, 0), MicroBatch((), LONGEST, 1)]


def search(monkeypatch: pytest.MonkeyPatch, holds: int, largest: int) -> tuple[int, list[int]]:
    """What is found on a GPU that holds so many frames, and the sizes that were tried."""
    tried: list[int] = []

    def fits(_state: object, _recipe: object, _world: object, frames: int, _longest: int) -> bool:
        tried.append(frames)
        return frames <= holds

    monkeypatch.setattr(trial, "_fits", fits)
    state, plan = cast(TrainState, None), cast(BatchPlan, Plan(largest))
    recipe = tiny_training_recipe(batch__frames_per_step=58000)
    found = trial.find_max_padded_frames(state, recipe, GPU, plan, LONGEST, lambda _: None)
    return found, tried


@pytest.mark.parametrize(("largest", "expected"), [(4000, 20_000), (60_000, 75_000)])
def test_nothing_larger_than_the_plan_needs_is_tried(
    monkeypatch: pytest.MonkeyPatch, largest: int, expected: int
):
    assert search(monkeypatch, 10**9, largest) == (expected, [expected])


@pytest.mark.parametrize("holds", [1000, 2000, 9000, 30_000, 74_999])
def test_a_small_gpu_gets_what_it_holds_and_a_reserve(monkeypatch: pytest.MonkeyPatch, holds: int):
    found, tried = search(monkeypatch, holds, 60_000)
    assert max(LONGEST, 0.8 * holds * 8 / 9 - 1) <= found <= max(LONGEST, 0.8 * holds)
    assert len(tried) < 12


def test_the_remedy_for_lack_of_memory_fits_the_recipe(monkeypatch: pytest.MonkeyPatch):
    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trial, "forward", run_out)
    batch = SimpleNamespace(features=torch.zeros(2, 50, 20), token_lengths=torch.ones(2))
    more = " and raise batch.micro_batches by as much"
    for frames_per_step, remedy in ((None, f"(450){more}"), (1800, "(450)")):
        recipe = tiny_training_recipe(batch__frames_per_step=frames_per_step)
        world = World.single()
        state = build_state(torch.nn.Linear(1, 1), recipe, world)
        with pytest.raises(TrainingError, match=r"lower batch\.max_padded_frames") as refused:
            trial.try_batches(state, None, [cast(Batch, batch)], recipe, world)
        assert str(refused.value).endswith(remedy)
