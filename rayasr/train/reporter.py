"""How one worker of `fit` talks to whoever started it."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayasr.logs import note


@dataclass
class StartClock:
    """Where the time before the first step goes; `started_at` is on the wall clock.

    Wall clock, because driver and worker are two processes.
    """

    started_at: float = field(default_factory=time.time)
    phases: dict[str, float] = field(default_factory=dict)

    def mark(self, phase: str) -> None:
        """What came since the last mark was `phase`."""
        passed = time.time() - self.started_at - sum(self.phases.values())
        self.phases[phase] = self.phases.get(phase, 0.0) + max(0.0, passed)

    def describe(self) -> str:
        """One line: the sum and its parts."""
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self.phases.items())
        return f"{sum(self.phases.values()):.1f} s ({parts})"


def _ignore(*_: object) -> None:
    return None


@dataclass(frozen=True)
class Reporter:
    """What `fit` says, and whether it should stop; without arguments it talks to the terminal."""

    note: Callable[[str], None] = note
    """A line for the user; only rank 0 calls it."""
    row: Callable[[dict[str, Any]], None] = _ignore
    """A line of metrics.jsonl with `total_steps` and `eta_s`; only rank 0 calls it."""
    milestone: Callable[[dict[str, float]], None] = _ignore
    """A checkpoint was made; every rank calls it, at the same steps."""
    stop_requested: Callable[[], bool] = lambda: False
    """Whether the user or the machine wants the run to end; asked before every step, so cheap."""
    host_leaves: Callable[[], bool] = lambda: False
    """Whether a host has been told to go; every rank asks at the same steps, the logged ones."""


def process_started_at() -> float:
    """Wall-clock time at which this process began; now, where the system does not tell."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return time.time()
    return time.time() - age
