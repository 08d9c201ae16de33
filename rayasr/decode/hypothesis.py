"""What every search returns: one guess at what was said, with scores, times and confidences."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from typing import Self


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Units in order, how probable they are, and when each of them ends."""

    units: tuple[int, ...]
    score: float
    """Log-probability by the search that found it, or rescoring's weighted total."""
    times: tuple[float, ...]
    """When each unit ends: frames of the encoder out of a search, seconds out of a Recognizer; ()
    where the units cannot be aligned."""
    confidence: float = 1.0
    """exp(log-probability / (units + 1)), which is the geometric mean over units and the end; in
    rescoring that of the decoders alone, as in WeNet."""
    unit_confidences: tuple[float, ...] = ()
    """Probability of each unit. CTC: the highest among its frames; decoders: given the other units,
    in rescoring the mean of both directions, as in WeNet."""

    def placed(self, start_s: float, step_s: float = 1.0) -> Self:
        """The same with times from `start_s` on, where what was counted so far lasts `step_s`."""
        return replace(self, times=tuple(start_s + time * step_s for time in self.times))


def mean_probability(log_probability: float, num_units: int) -> float:
    """Geometric mean over so many units and the end of the utterance."""
    return exp(log_probability / (num_units + 1))


def best_of(nbest: Sequence[Hypothesis], count: int) -> list[Hypothesis]:
    """The first `count` without those that no path leads to; at least one."""
    return [item for item in nbest[:count] if item.score > -inf] or list(nbest[:1])


def joined(parts: Sequence[Hypothesis]) -> Hypothesis:
    """Hypotheses of consecutive stretches of a recording as one; their scores add up."""
    weights = [len(part.units) + 1 for part in parts]
    logs = [log(part.confidence) if part.confidence > 0.0 else -inf for part in parts]
    pairs = zip(weights, logs, strict=True)
    return Hypothesis(
        tuple(unit for part in parts for unit in part.units),
        sum(part.score for part in parts),
        tuple(time for part in parts for time in part.times),
        exp(sum(weight * value for weight, value in pairs) / sum(weights)),
        tuple(value for part in parts for value in part.unit_confidences),
    )


def shared_prefix(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The units with which all of the rows begin."""
    first, *others = rows
    for row in others:
        length = min(len(first), len(row))
        first = first[: next((i for i in range(length) if first[i] != row[i]), length)]
    return tuple(first)
