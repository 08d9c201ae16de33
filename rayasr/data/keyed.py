"""Random numbers looked up by key instead of drawn from a stream.

A draw is a hash of (seed, purpose, counters): the same on every worker, in any order, after any
resume, and a whole column of utterances is drawn by one numpy expression.
"""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Counter = int | NDArray[Any]

_ALL = 2**64 - 1
_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, splitmix64's increment
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def bits(seed: int, purpose: str, *counters: Counter) -> NDArray[np.uint64]:
    """64 random bits for each combination of the broadcast counters; at least one dimension."""
    number, column = _mix_int(seed & _ALL), None
    for counter in (zlib.crc32(purpose.encode()), *counters):
        # Both sides are mixed, so that (1, 2) and (2, 1) or neighbouring counters share nothing.
        if column is None and isinstance(counter, int):  # one number: numpy's call costs 20 x more
            number = _mix_int(number ^ _mix_int(counter & _ALL))
        else:
            values = np.atleast_1d(np.asarray(counter)).astype(np.uint64)
            column = _mix((np.uint64(number) if column is None else column) ^ _mix(values))
    return np.array([number], np.uint64) if column is None else column


def uniform(seed: int, purpose: str, *counters: Counter) -> NDArray[np.float64]:
    """Uniform draws in [0, 1), 53 bits each."""
    return (bits(seed, purpose, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(
    low: Counter, high: Counter, seed: int, purpose: str, *counters: Counter
) -> NDArray[np.int64]:
    """Whole numbers from `low` to `high`, both included; `low` where `high` is smaller."""
    first, last = np.asarray(low, np.int64), np.asarray(high, np.int64)
    draw = uniform(seed, purpose, *counters) * np.maximum(last - first + 1, 1)
    drawn: NDArray[np.int64] = first + draw.astype(np.int64)
    return drawn


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """One seed for `torch.manual_seed`, not negative."""
    return int(bits(seed, purpose, *counters)[0] >> np.uint64(1))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    values = values + np.uint64(_GAMMA)  # arrays wrap around silently
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_SECOND)
    return values ^ (values >> np.uint64(31))


def _mix_int(value: int) -> int:
    """The same for one number."""
    value = (value + _GAMMA) & _ALL
    value = ((value ^ (value >> 30)) * _FIRST) & _ALL
    value = ((value ^ (value >> 27)) * _SECOND) & _ALL
    return value ^ (value >> 31)
