"""Which utterances make which step of which epoch: arithmetic over lengths, no audio.

    utterances -> items      copies by weight, a speed each, some strung together
    items -> groups          shuffled, sorted by length inside windows, cut
    groups -> micro-batches  a group too large for the bounds is split; it stays in its step
    groups -> steps          shuffled again, batch.micro_batches at a time

The plan is a pure function of (lengths, recipe, epoch). It never sees the number of workers, so
`(epoch, step)` is the whole position and a run resumes at once, on any number of them.
"""

import heapq
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayasr.config import Recipe
from rayasr.data import keyed

Ints = NDArray[np.int64]

EXACT_PASSES = 4_000_000
"""`total_steps` plans every epoch up to so many utterance passes (about 2 s), else samples."""
SAMPLED_EPOCHS = 16
OPEN_STRINGS = 8
"""Strings of a speaker that are filled at a time; with one, the next utterance seldom fits."""


class Item(NamedTuple):
    """One utterance, or several of a speaker strung together: one row of a batch."""

    utterances: tuple[int, ...]  # rows of the split
    speed: int  # index into augment.speeds, shared by a string
    frames: int
    units: int
    copy: int = 0  # which copy of the first utterance, where its corpus has a weight above 1


@dataclass(frozen=True, order=True, slots=True)
class MicroBatch:
    """Items that go through the model together."""

    items: tuple[Item, ...]
    padded_frames: int
    index: int  # inside its step


class Step(NamedTuple):
    """Everything one update of the weights sees, over all workers."""

    epoch: int
    step: int  # inside its epoch, from 0
    micro_batches: tuple[MicroBatch, ...]
    num_utterances: int  # items: a string counts as one


@dataclass(frozen=True, slots=True)
class _Items:
    """The items of an epoch as columns; item i is `members[offsets[i]:offsets[i + 1]]`."""

    members: Ints
    offsets: Ints
    speeds: Ints
    frames: Ints
    units: Ints
    copies: Ints

    @property
    def first(self) -> Ints:
        return self.members[self.offsets[:-1]]


class BatchPlan:
    """The steps of every epoch of a training split.

    `frames` (N, speeds), `num_units` (N,), `speakers` (N,) ids, `weights` (N,) of the corpora.
    """

    def __init__(
        self,
        frames: NDArray[Any],
        num_units: NDArray[Any],
        speakers: NDArray[Any],
        weights: NDArray[Any],
        recipe: Recipe,
    ) -> None:
        self._frames = np.asarray(frames, dtype=np.int64)
        self._units = np.asarray(num_units, dtype=np.int64)
        self._speakers = np.asarray(speakers, dtype=np.int64)
        self._weights = np.asarray(weights, dtype=np.float64)
        self._seed = recipe.seed
        self._batch = recipe.batch
        self._stringing = recipe.augment.stringing
        self._epochs = recipe.train.epochs
        self._lock = threading.Lock()  # the loader's thread and the trainer both ask
        self._planned: dict[int, list[Step]] = {}
        self._counted: dict[int, int] = {}

    def epoch(self, epoch: int) -> list[Step]:
        """The steps of an epoch, in order; each item is in exactly one of them."""
        with self._lock:
            if epoch not in self._planned:
                while len(self._planned) > 1:  # this epoch and the next are all a run needs
                    del self._planned[min(self._planned)]
                self._planned[epoch] = self._plan(epoch)
                self._counted[epoch] = len(self._planned[epoch])
            return self._planned[epoch]

    def steps_per_epoch(self, epoch: int) -> int:
        """How many steps an epoch has, without building them."""
        if epoch not in self._counted:
            items = self._draw_items(epoch)
            order = self._order(epoch, items)
            groups, _ = self._cut(items.frames[order], items.units[order])
            num_groups = int(groups[-1]) + 1 if len(groups) else 0
            self._counted[epoch] = -(-num_groups // self._batch.micro_batches)
        return self._counted[epoch]

    def total_steps(self, epochs: int) -> int:
        """Steps of the epochs 0 to `epochs` - 1, for schedules and the time left.

        Speeds, weights and strings make epochs differ by a few steps. The sum is exact up to
        EXACT_PASSES utterance passes; beyond, SAMPLED_EPOCHS epochs are counted and the others
        interpolated (measured: within 1e-4). A pure function either way, so resumes agree.
        """
        if epochs * len(self._units) <= EXACT_PASSES or epochs <= SAMPLED_EPOCHS:
            return sum(self.steps_per_epoch(epoch) for epoch in range(epochs))
        ramp = min(round(self._stringing.ramp_fraction * self._epochs), epochs - 1)
        nodes = np.linspace(0, epochs - 1, SAMPLED_EPOCHS).round().astype(int)
        nodes = np.unique(np.append(nodes, ramp))
        counts = [self.steps_per_epoch(int(node)) for node in nodes]
        return round(float(np.interp(np.arange(epochs), nodes, counts).sum()))

    def longest_string(self, epoch: int) -> float:
        """Most frames of a string in this epoch: grows linearly over the ramp."""
        setting = self._stringing
        ramp = setting.ramp_fraction * self._epochs
        grown = min(1.0, epoch / ramp) if ramp > 0 else 1.0
        return setting.start_frames + (setting.max_frames - setting.start_frames) * grown

    def worst_micro_batches(self) -> list[MicroBatch]:
        """The micro-batches of the first and the last epoch with most frames, and most units."""
        batches = [
            batch
            for epoch in sorted({0, self._epochs - 1})
            for step in self.epoch(epoch)
            for batch in step.micro_batches
        ]
        if not batches:
            return []
        most_frames = max(batches, key=lambda batch: batch.padded_frames)
        most_units = max(batches, key=padded_units)
        return [most_frames] if most_units is most_frames else [most_frames, most_units]

    def _plan(self, epoch: int) -> list[Step]:
        items = self._draw_items(epoch)
        order = self._order(epoch, items)
        groups, starts = self._cut(items.frames[order], items.units[order])
        rows = _rows(items, order)
        pieces: dict[int, list[tuple[Item, ...]]] = {}  # group -> its micro-batches
        for start, end in pairwise([*starts.tolist(), len(rows)]):
            pieces.setdefault(int(groups[start]), []).append(tuple(rows[start:end]))
        shuffled = np.argsort(
            keyed.uniform(self._seed, "steps", epoch, np.arange(len(pieces))), kind="stable"
        ).tolist()
        steps: list[Step] = []
        for at in range(0, len(shuffled), self._batch.micro_batches):
            chosen = shuffled[at : at + self._batch.micro_batches]
            members = [piece for group in chosen for piece in pieces[group]]
            steps.append(_make_step(epoch, len(steps), members))
        # Python's own `assert` would vanish under -O, and this is what training rests on.
        if sum(step.num_utterances for step in steps) != len(items.frames):
            raise RuntimeError(f"the plan of epoch {epoch} lost items")
        return steps

    def _draw_items(self, epoch: int) -> _Items:
        """Copies, speeds and strings of an epoch, before any shuffling."""
        num = len(self._units)
        extra = keyed.uniform(self._seed, "weight", epoch, np.arange(num)) < self._weights % 1.0
        counts = np.floor(self._weights).astype(np.int64) + extra
        members = np.repeat(np.arange(num), counts)
        copies = np.arange(len(members)) - np.repeat(np.cumsum(counts) - counts, counts)
        draw = keyed.uniform(self._seed, "speed", epoch, members, copies)
        speeds = (draw * self._frames.shape[1]).astype(np.int64)
        offsets = np.arange(len(members) + 1)
        if self._stringing.fraction > 0:
            order, offsets = self._string(epoch, members, copies, speeds)
            members, copies, speeds = members[order], copies[order], speeds[order]
        speeds, copies = speeds[offsets[:-1]], copies[offsets[:-1]]  # a string takes its first's
        frames = self._frames[members, np.repeat(speeds, np.diff(offsets))]
        return _Items(
            members,
            offsets,
            speeds,
            _sums(frames, offsets),
            _sums(self._units[members], offsets),
            copies,
        )

    def _string(self, epoch: int, members: Ints, copies: Ints, speeds: Ints) -> tuple[Ints, Ints]:
        """String a share of the utterances: an order of all, and where each item starts in it.

        A string has a length drawn between 0 and the longest allowed. Its speaker's utterances, in
        random order, each go into the first string with room for it, or begin another.
        """
        key = (epoch, members, copies)
        strung = keyed.uniform(self._seed, "strung", *key) < self._stringing.fraction
        place = keyed.uniform(self._seed, "string order", *key)
        limits = keyed.uniform(self._seed, "string length", *key) * self.longest_string(epoch)
        alone, pool = np.flatnonzero(~strung), np.flatnonzero(strung)
        speakers = self._speakers[members]
        pool = pool[np.lexsort((place[pool], speakers[pool]))]
        columns = (self._frames[members], limits, speeds, speakers)
        strings = _fill_strings(*(column[pool].tolist() for column in columns))
        pool = pool[np.argsort(strings, kind="stable")]
        lengths = np.concatenate([np.ones(len(alone), np.int64), np.bincount(strings)])
        return np.concatenate([alone, pool]), np.concatenate([[0], np.cumsum(lengths)])

    def _order(self, epoch: int, items: _Items) -> Ints:
        """Items shuffled, then sorted by length inside windows."""
        num = len(items.frames)
        draw = keyed.uniform(self._seed, "shuffle", epoch, items.first, items.copies)
        order = np.argsort(draw, kind="stable")
        # Windows of equal size, up and down in turn: like lengths also meet at their borders.
        num_windows = max(1, -(-num // self._batch.shuffle_window))
        window = np.arange(num) * num_windows // max(num, 1)
        frames = items.frames[order]
        return order[np.lexsort((np.where(window % 2, -frames, frames), window))]

    def _cut(self, frames: Ints, units: Ints) -> tuple[Ints, Ints]:
        """Cut items in order into groups, and these into micro-batches: group of each item, starts.

        Groups are what steps are made of, so with frames_per_step the bounds never move an
        utterance to another step.
        """
        batch = self._batch
        num = len(frames)
        if batch.static_utterances is not None:
            groups = np.arange(num) // batch.static_utterances
            return groups, np.arange(0, num, batch.static_utterances)
        if batch.frames_per_step is None:
            starts = self._cut_by_bounds(frames, units, np.zeros(num, bool))
            heads = np.zeros(num, np.int64)
            heads[starts] = 1
            return np.cumsum(heads) - 1, starts
        # By the middle of each item on the line of all frames: groups are right on average.
        per_group = batch.frames_per_step / batch.micro_batches
        groups = ((np.cumsum(frames) - frames / 2) / per_group).astype(np.int64)
        changes = np.diff(groups, prepend=groups[:1]) > 0
        return np.cumsum(changes), self._cut_by_bounds(frames, units, changes)

    def _cut_by_bounds(self, frames: Ints, units: Ints, forced: NDArray[np.bool_]) -> Ints:
        """Where micro-batches start: where forced, and where the next item would break a bound."""
        batch = self._batch
        most_frames = np.inf if batch.max_padded_frames == "auto" else batch.max_padded_frames
        most_units, most_items = batch.max_padded_units, batch.max_utterances
        starts: list[int] = []
        count = longest = widest = 0
        rows = zip(frames.tolist(), units.tolist(), forced.tolist(), strict=True)
        for at, (length, width, new) in enumerate(rows):
            count += 1
            longest = length if length > longest else longest  # max() would double the time
            widest = width if width > widest else widest
            if (
                new
                or at == 0
                or count * longest > most_frames
                or count * widest > most_units
                or count > most_items
            ):
                starts.append(at)
                count, longest, widest = 1, length, width
        return np.array(starts, np.int64)


def share(step: Step, rank: int, world_size: int) -> list[MicroBatch]:
    """One rank's part of a step's micro-batches; may be empty, then it adds a zero gradient.

    The step itself never depends on `world_size`, so a run resumes on any number of workers.
    """
    costs = [batch.padded_frames for batch in step.micro_batches]
    return [step.micro_batches[i] for i in balance(costs, world_size)[rank]]


def balance(costs: Sequence[int], num_shares: int) -> list[list[int]]:
    """Indices in shares of like cost: the dearest first, each to the least loaded share."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [(0, rank) for rank in range(num_shares)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + costs[index], rank))
        shares[rank].append(index)
    return [sorted(indices) for indices in shares]


def fixed_batches(
    frames: NDArray[Any],
    max_padded_frames: int,
    max_utterances: int = 256,
    max_padding: float = 1.0,
) -> list[list[int]]:
    """Rows in batches for validation and decoding: by length, longest first, no randomness.

    The longest come first, so that memory runs out in the first batch or never. The share of
    padding in a batch stays below `max_padding`.
    """
    lengths = np.asarray(frames, dtype=np.int64)
    batches: list[list[int]] = []
    longest = used = 0
    for row in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[row])
        padded = (len(batches[-1]) + 1) * longest if batches else 0
        full = batches and (
            padded > max_padded_frames
            or len(batches[-1]) == max_utterances
            or padded - used - length >= max_padding * padded > 0
        )
        if full or not batches:
            batches.append([])
            longest, used = length, 0
        batches[-1].append(row)
        used += length
    return batches


def padded_units(batch: MicroBatch) -> int:
    """Units of a micro-batch, padding included."""
    return len(batch.items) * max(item.units for item in batch.items)


def _fill_strings(
    frames: list[list[int]], limits: list[float], speeds: list[int], speakers: list[int]
) -> Ints:
    """Number of the string that each utterance goes into; rows come speaker by speaker."""
    strings: list[int] = []
    open_strings: list[list[Any]] = []  # room left in frames, speed, number
    speaker, count = None, 0
    for lengths, limit, own_speed, own_speaker in zip(
        frames, limits, speeds, speakers, strict=True
    ):
        if own_speaker != speaker:
            open_strings, speaker = [], own_speaker
        for string in open_strings:
            room, speed, number = string
            if lengths[speed] <= room:
                string[0] -= lengths[speed]
                strings.append(number)
                break
        else:
            room = limit - lengths[own_speed]
            if room > 0:
                open_strings = [*open_strings[1 - OPEN_STRINGS :], [room, own_speed, count]]
            strings.append(count)
            count += 1
    return np.array(strings, np.int64)


def _make_step(epoch: int, step: int, members: list[tuple[Item, ...]]) -> Step:
    batches = tuple(
        MicroBatch(items, len(items) * max(item.frames for item in items), index)
        for index, items in enumerate(members)
    )
    return Step(epoch, step, batches, sum(map(len, members)))


def _rows(items: _Items, order: Ints) -> list[Item]:
    """The columns as Items, in this order."""
    members = items.members.tolist()
    begins, ends = items.offsets[:-1][order].tolist(), items.offsets[1:][order].tolist()
    strings = [tuple(members[begin:end]) for begin, end in zip(begins, ends, strict=True)]
    columns = (items.speeds, items.frames, items.units, items.copies)
    return list(map(Item, strings, *(column[order].tolist() for column in columns)))


def _sums(values: Ints, offsets: Ints) -> Ints:
    """Sum of each stretch between two offsets; none may be empty."""
    if len(values) == 0:
        return values
    sums: Ints = np.add.reduceat(values, offsets[:-1])
    return sums
