import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rayasr.config import Recipe, parse_recipe
from rayasr.data.batch import Batch
from rayasr.data.loader import LoadedStep, Loader
from rayasr.data.store import Split
from rayasr.errors import DataError

BINS = 8


class FakeStore:
    """A store in memory; frame t of utterance i at speed s holds i + s / 10 in every bin."""

    def __init__(self, num: int = 60, recipe: Recipe | None = None) -> None:
        self.recipe = recipe or parse_recipe({})
        self.broken: Exception | None = None
        self.dithers: list[tuple[float, float]] = []
        base = np.random.default_rng(0).integers(20, 90, num)
        self.frames = np.stack([base + 5, base, base - 5], axis=1).astype(np.int32)

    def for_recipe(self, _: Recipe) -> "FakeStore":
        return self

    def split(self, name: str) -> Split:
        num = len(self.frames)
        rows = np.arange(num, dtype=np.int32)
        return Split(
            name,
            keys=[f"{name}-{i}" for i in range(num)],
            texts=[""] * num,
            speakers=rows % 3,
            speaker_names=("a", "b", "c"),
            corpus=np.zeros(num, np.int16),
            units=[np.full(1 + i % 4, i, np.int32) for i in range(num)],
            num_units=1 + rows % 4,
            frames=self.frames if name == "train" else self.frames[:, 1:2],
            seconds=self.frames[:, 1] / 100,
            shards=rows,
            rows=rows,
            crc32=np.zeros((num, 1), np.uint32),
        )

    def features(
        self,
        split: str,
        i: int,
        speed: int = 0,
        *,
        dither: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        if self.broken is not None:
            raise self.broken
        if generator is not None:
            self.dithers.append((dither, float(torch.rand(1, generator=generator))))
        frames = self.frames[i, speed if split == "train" else 1]
        return torch.full((int(frames), BINS), i + speed / 10)


def make_loader(
    store: FakeStore | None = None, /, *, rank: int = 0, world_size: int = 1, **sections: Any
) -> Loader:
    sections.setdefault("augment", {"spec_augment": None})
    sections.setdefault("batch", {"max_padded_frames": 400, "micro_batches": 4})
    sections.setdefault("train", {"epochs": 3})
    recipe = parse_recipe(sections)
    store = store or FakeStore()
    return Loader(store, recipe, rank=rank, world_size=world_size)  # type: ignore[arg-type]


def content(batch: Batch) -> tuple[Any, ...]:
    return (
        batch.features.tolist(),
        batch.tokens.tolist(),
        batch.keys,
        batch.seed,
        batch.feature_lengths.tolist(),
        batch.token_lengths.tolist(),
    )


def contents(steps: Iterator[LoadedStep]) -> list[list[tuple[Any, ...]]]:
    return [[content(batch) for batch in step.batches] for step in steps]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert [t.name for t in threading.enumerate() if t.name == "rayasr-loader"] == []


def test_batches_hold_what_the_plan_says() -> None:
    with make_loader() as loader:
        plan = loader.plan.epoch(0)
        steps = list(loader.steps(0))
    assert [(step.epoch, step.step) for step in steps] == [(0, s.step) for s in plan]
    for step, planned in zip(steps, plan, strict=True):
        assert step.num_utterances == planned.num_utterances
        assert step.num_units == sum(int(batch.token_lengths.sum()) for batch in step.batches)
        assert step.frames == sum(int(batch.feature_lengths.sum()) for batch in step.batches)
        assert step.padded_frames == sum(batch.features[:, :, 0].numel() for batch in step.batches)
        assert step.seconds == pytest.approx(step.frames / 100)
        for batch, micro in zip(step.batches, planned.micro_batches, strict=True):
            assert batch.keys == [f"train-{item.utterances[0]}" for item in micro.items]
            for row, item in enumerate(micro.items):
                value = item.utterances[0] + item.speed / 10
                assert (batch.features[row, : item.frames] == value).all()
                assert (batch.features[row, item.frames :] == 0).all()
                assert batch.tokens[row, : item.units].tolist() == [item.utterances[0]] * item.units


def test_an_epoch_can_be_entered_anywhere() -> None:
    with make_loader(augment={"substitutions": 1}) as loader:
        whole = contents(loader.steps(1))
        assert contents(loader.steps(1, 2)) == whole[2:]
        assert contents(loader.steps(1, len(whole))) == []
    with make_loader(augment={"substitutions": 1}) as again:
        list(again.steps(0))
        assert contents(again.steps(1)) == whole


@pytest.mark.parametrize("world_size", [2, 3, 7])
def test_ranks_share_the_same_batches(world_size: int) -> None:
    sections = {"augment": {"trim_frames": 10}}  # with SpecAugment
    with make_loader(**sections) as loader:
        whole = contents(loader.steps(0))
        totals = [step[3:] for step in loader.steps(0)]
    parts = []
    for rank in range(world_size):
        with make_loader(rank=rank, world_size=world_size, **sections) as loader:
            parts.append(contents(loader.steps(0)))
            assert [step[3:] for step in loader.steps(0)] == totals
    for step, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert sorted((b for part in shares for b in part), key=str) == sorted(step, key=str)


def test_seeds_differ_between_micro_batches_and_steps() -> None:
    with make_loader() as loader:
        seeds = [b.seed for epoch in (0, 1) for s in loader.steps(epoch) for b in s.batches]
    assert len(set(seeds)) == len(seeds)


def test_strings_are_joined() -> None:
    stringing = {"fraction": 1.0, "start_frames": 300, "max_frames": 300}
    with make_loader(augment={"spec_augment": None, "stringing": stringing}) as loader:
        batches = [batch for step in loader.steps(0) for batch in step.batches]
    rows = [(b, row, key.split("+")) for b in batches for row, key in enumerate(b.keys)]
    assert max(len(keys) for _, _, keys in rows) > 2
    for batch, row, keys in rows:
        numbers = [int(key.removeprefix("train-")) for key in keys]
        tokens = batch.tokens[row, : batch.token_lengths[row]].tolist()
        assert tokens == [i for i in numbers for _ in range(1 + i % 4)]
        values = batch.features[row, : batch.feature_lengths[row], 0]
        heard = torch.unique_consecutive(values.int()).tolist()
        assert heard == numbers


def test_dither_is_drawn_anew_for_samples_only() -> None:
    store = FakeStore()
    sections = {"store": {"payload": "pcm"}, "features": {"dither": 0.5}, "train": {"epochs": 2}}
    with make_loader(store, **sections) as loader:
        list(loader.steps(0))
        list(loader.steps(1))
    assert {dither for dither, _ in store.dithers} == {0.5}
    assert len({draw for _, draw in store.dithers}) == len(store.dithers) == 120
    store.dithers = []
    with make_loader(store, features={"dither": 0.5}) as loader:
        list(loader.steps(0))
    assert store.dithers == []


def test_an_error_of_the_thread_surfaces_with_its_type() -> None:
    store = FakeStore(600)
    with make_loader(store) as loader:
        steps = loader.steps(0)
        next(steps)
        store.broken = DataError("shard 3 is damaged")
        with pytest.raises(DataError, match="shard 3 is damaged"):
            list(steps)
        store.broken = None
        assert len(list(loader.steps(0))) == len(loader.plan.epoch(0))


def test_leaving_an_epoch_early_stops_the_thread() -> None:
    loader = make_loader(FakeStore(600))
    steps = loader.steps(0)
    next(steps)
    loader.close()
    loader.close()
    fresh = loader.steps(0)
    assert next(fresh).step == 0
    loader.close()


def test_the_next_epoch_is_begun_when_one_is_used_up() -> None:
    with make_loader() as loader:
        list(loader.steps(0))
        running = loader._running
        assert running is not None
        assert running.position == (1, 0)
        assert {step.epoch for step in loader.steps(1)} == {1}
        assert running.position is None
        assert loader.wait_seconds > 0
        list(loader.steps(2))
        assert loader._running.position is None  # no fourth epoch


def test_validation_covers_a_split_once_whatever_the_world() -> None:
    sections = {"augment": {"trim_frames": 20, "frequency_warp": 0.2}}
    with make_loader(**sections) as loader:
        whole = [content(batch) for batch in loader.validation("dev")]
        assert [content(batch) for batch in loader.validation("dev")] == whole
    assert sorted(key for batch in whole for key in batch[2]) == sorted(
        f"dev-{i}" for i in range(60)
    )
    shares = []
    for rank in range(3):
        with make_loader(rank=rank, world_size=3, **sections) as loader:
            shares += [content(batch) for batch in loader.validation("dev")]
    assert sorted(shares, key=str) == sorted(whole, key=str)
    assert all(batch[0][row][0][0] == batch[1][row][0] for batch in whole for row in range(1))


def test_the_probe_is_as_large_as_any_batch() -> None:
    with make_loader() as loader:
        probed = max(batch.features.shape[0] * batch.features.shape[1] for batch in loader.probe())
        steps = [*loader.steps(0), *loader.steps(2)]
    assert probed == max(
        b.features.shape[0] * b.features.shape[1] for s in steps for b in s.batches
    )


def test_weights_come_from_the_recipe_or_the_store() -> None:
    corpora = ({"path": "x", "weight": 2.0},)
    with make_loader(corpora=corpora) as loader:
        assert sum(step.num_utterances for step in loader.plan.epoch(0)) == 120
    with make_loader(FakeStore(recipe=parse_recipe({"corpora": corpora}))) as loader:
        assert sum(step.num_utterances for step in loader.plan.epoch(0)) == 120
