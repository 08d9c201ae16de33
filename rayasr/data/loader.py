"""From plan and store to tensors: the next steps are made by a thread while the device works."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from rayasr.config import Recipe
from rayasr.data import keyed
from rayasr.data.augment import Draws, augment
from rayasr.data.batch import Batch, collate, pad_features
from rayasr.data.batch_plan import BatchPlan, Item, MicroBatch, Step, balance, fixed_batches, share
from rayasr.data.store import Split, Store

PREFETCHED_STEPS = 2
"""Steps that wait ready: one hides the time to make the next, two also hide its spread."""


class LoadedStep(NamedTuple):
    """One rank's batches of a step; the counts are of all workers."""

    epoch: int
    step: int
    batches: list[Batch]
    num_utterances: int  # items; what the summed losses are divided by
    num_units: int
    frames: int
    padded_frames: int
    seconds: float  # of audio, at the speeds drawn


class Loader:
    """The batches of one rank, with `wait_seconds`: how long their consumer had to wait."""

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        *,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self._store = store.for_recipe(recipe)  # a store of samples takes this recipe's speeds
        self._recipe = recipe
        self._rank = rank
        self._world_size = world_size
        self._pin_memory = pin_memory
        self._train = self._store.split("train")
        self._running: _Prefetch | None = None
        self.wait_seconds = 0.0
        self.plan = BatchPlan(
            self._train.frames,
            self._train.num_units,
            self._train.speakers,
            _weights(self._train, recipe, store.recipe),
            recipe,
        )

    def steps(self, epoch: int, first_step: int = 0) -> Iterator[LoadedStep]:
        """This rank's batches of an epoch from `first_step` on; errors of the thread surface here.

        When an epoch is used up, the first steps of the next one are already being made.
        """
        running = self._running
        if running is None or running.position != (epoch, first_step):
            self.close()
            running = self._start(epoch, first_step)
        running.position = None  # from here on it is in use
        try:
            while (loaded := self._next(running)) is not None:
                yield loaded
            if epoch + 1 < self._recipe.train.epochs:
                self._start(epoch + 1, 0)
        finally:
            running.close()

    def validation(
        self,
        split: str = "dev",
        *,
        max_padded_frames: int | None = None,
        max_utterances: int | None = None,
    ) -> Iterator[Batch]:
        """This rank's share of a split, not augmented and in a fixed order."""
        settings = self._recipe.batch
        bound = settings.max_padded_frames
        rows = self._store.split(split)
        frames = rows.frames[:, 0]
        batches = fixed_batches(
            frames,
            max_padded_frames or (20000 if bound == "auto" else bound),
            max_utterances or settings.max_utterances,
        )
        costs = [len(batch) * int(frames[batch].max()) for batch in batches]
        for index in balance(costs, self._world_size)[self._rank]:
            seed = keyed.torch_seed(self._recipe.seed, "validation", index)
            items = [
                Item((row,), 0, int(frames[row]), int(rows.num_units[row]))
                for row in batches[index]
            ]
            pieces = [[self._store.features(split, row).numpy()] for row in batches[index]]
            features, lengths = pad_features(pieces)
            yield self._finish(rows, items, features, lengths, seed)

    def probe(self) -> list[Batch]:
        """The plan's largest micro-batches, to be tried before the first step."""
        return [self._load(0, 0, batch) for batch in self.plan.worst_micro_batches()]

    def close(self) -> None:
        """Stop the thread; the loader can be used again."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, epoch: int, first_step: int) -> "_Prefetch":
        self._running = _Prefetch(lambda: self._produce(epoch, first_step), (epoch, first_step))
        return self._running

    def _next(self, running: "_Prefetch") -> LoadedStep | None:
        started = time.perf_counter()
        try:
            return running.get()
        finally:
            self.wait_seconds += time.perf_counter() - started

    def _produce(self, epoch: int, first_step: int) -> Iterator[LoadedStep]:
        """Make steps, in the thread."""
        for step in self.plan.epoch(epoch)[first_step:]:
            own = share(step, self._rank, self._world_size)
            yield _loaded(
                step,
                [self._load(epoch, step.step, batch) for batch in own],
                self._recipe.features.frame_shift_ms / 1000,
            )

    def _load(self, epoch: int, step: int, batch: MicroBatch) -> Batch:
        """A training micro-batch, augmented."""
        features, lengths = pad_features(
            [[self._features(epoch, item, row) for row in item.utterances] for item in batch.items]
        )
        draws = Draws(
            self._recipe.seed,
            epoch,
            np.array([item.utterances[0] for item in batch.items]),
            np.array([item.copy for item in batch.items]),
        )
        lengths = augment(features, lengths, self._recipe.augment, draws)
        seed = keyed.torch_seed(self._recipe.seed, "micro-batch", epoch, step, batch.index)
        return self._finish(self._train, batch.items, features, lengths, seed)

    def _features(self, epoch: int, item: Item, row: int) -> NDArray[Any]:
        """(frames, F) of one utterance at the item's speed; samples get fresh dither."""
        dither = self._recipe.features.dither
        if self._recipe.store.payload == "fbank" or not dither:  # in fbank it is frozen
            return self._store.features("train", row, item.speed).numpy()
        seed = keyed.torch_seed(self._recipe.seed, "dither", epoch, row, item.copy)
        generator = torch.Generator().manual_seed(seed)
        return self._store.features(
            "train", row, item.speed, dither=dither, generator=generator
        ).numpy()

    def _finish(
        self,
        split: Split,
        items: tuple[Item, ...] | list[Item],
        features: NDArray[np.float32],
        lengths: NDArray[np.int64],
        seed: int,
    ) -> Batch:
        tokens = [np.concatenate([split.units[row] for row in item.utterances]) for item in items]
        keys = ["+".join(split.keys[row] for row in item.utterances) for item in items]
        batch = collate(features, lengths, tokens, keys, seed)
        return batch.pin_memory() if self._pin_memory else batch


class _Prefetch:
    """Runs an iterator in a thread, a few results ahead."""

    def __init__(
        self, produce: Callable[[], Iterator[LoadedStep]], position: tuple[int, int]
    ) -> None:
        self.position: tuple[int, int] | None = position
        self._produce = produce
        self._ready: queue.Queue[LoadedStep | BaseException | None] = queue.Queue(PREFETCHED_STEPS)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rayasr-loader", daemon=True)
        self._thread.start()

    def get(self) -> LoadedStep | None:
        """The next result, None at the end; raises what the thread raised."""
        result = self._ready.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            for result in self._produce():
                self._put(result)
                if self._stop.is_set():
                    return
            self._put(None)
        except BaseException as error:  # whatever it is, the consumer must not wait for ever
            self._put(error)

    def _put(self, result: LoadedStep | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(result, timeout=0.1)
                return
            except queue.Full:
                continue


def _loaded(step: Step, batches: list[Batch], frame_shift_s: float) -> LoadedStep:
    items = [item for batch in step.micro_batches for item in batch.items]
    frames = sum(item.frames for item in items)
    return LoadedStep(
        step.epoch,
        step.step,
        batches,
        step.num_utterances,
        sum(item.units for item in items),
        frames,
        sum(batch.padded_frames for batch in step.micro_batches),
        frames * frame_shift_s,
    )


def _weights(split: Split, recipe: Recipe, prepared: Recipe) -> NDArray[np.float64]:
    """Each utterance's corpus weight; by the recipe that made the store if this one has others."""
    needed = int(split.corpus.max(initial=0)) + 1
    corpora = recipe.corpora if len(recipe.corpora) >= needed else prepared.corpora
    weights = [corpus.weight for corpus in corpora] + [1.0] * (needed - len(corpora))
    drawn: NDArray[np.float64] = np.array(weights)[split.corpus]
    return drawn
