"""One run of a job on a set of machines: from the start of the containers until all have ended."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Literal, Protocol

from launcher.contract import Host
from launcher.emulator.containers import Cluster, Container, Task
from launcher.emulator.faults import Fault, Faults

Cause = Literal["stop", "limit", "spot"]
"""Why machines are taken from a job before its containers have ended."""

MAX_FILL_BYTES = 2 * 1024**3
"""A file system with more free space than this is not filled: it is somebody's disk."""


@dataclass(frozen=True)
class HostEnded:
    """A container's first process has ended."""

    host: str
    code: int


@dataclass(frozen=True)
class StopAsked:
    """StopTrainingJob was called; `at_once` where the emulator itself ends."""

    at_once: bool = False


Event = HostEnded | StopAsked | Fault


@dataclass(frozen=True)
class Conditions:
    """What an attempt runs under."""

    limit_s: float
    grace_s: float
    spot: bool
    names_after_s: float  # until the hosts' names resolve; 0: from the start
    absent: frozenset[str]  # hosts that never start


class Observer(Protocol):
    """Hears what happens to the hosts."""

    def line(self, host: str, text: str) -> None:
        """A host wrote a line."""

    def taken_away(self, cause: Cause) -> None:
        """The hosts are being asked to leave."""

    def note(self, text: str) -> None:
        """Something for the person who runs the emulator."""


class Attempt:
    """Watches the containers of a job; what happens to them comes through one queue."""

    def __init__(
        self,
        hosts: Sequence[Host],
        cluster: Cluster,
        conditions: Conditions,
        events: "Queue[Event]",
        faults: Faults,
        observer: Observer,
    ) -> None:
        self._hosts = {host.name: host for host in hosts}
        self._cluster = cluster
        self._conditions = conditions
        self._events = events
        self._faults = faults
        self._observer = observer
        self._running: dict[str, Container] = {}
        self._silent: set[str] = set()
        self._fillers: list[Path] = []
        self._began = time.monotonic()
        self._names_at = conditions.names_after_s or float("inf")
        self._kill_at = float("inf")
        self.cause: Cause | None = None
        self.codes: dict[str, int] = {}
        """Exit codes in the order in which the hosts ended."""

    def run(self, task: Task) -> None:
        """Run to the end; nothing of the hosts is left then; raises LaunchError."""
        try:
            for name, host in self._hosts.items():
                if name not in self._conditions.absent:
                    self._start(host, task)
            while self._running.keys() - self._silent:
                self._handle(self._next_event())
                self._look_at_the_clock()
        finally:
            self._end()

    def _start(self, host: Host, task: Task) -> None:
        container = self._cluster.start(host, task)
        self._running[host.name] = container
        container.follow(self._reader(host.name), self._ender(host.name))

    def _reader(self, host: str) -> Callable[[str], None]:
        """Passes on a line, and lets it trigger faults."""

        def read(line: str) -> None:
            self._observer.line(host, line)
            for fault in self._faults.at_line(line, self._names, self._conditions.spot):
                self._events.put(fault)

        return read

    def _ender(self, host: str) -> Callable[[int], None]:
        return lambda code: self._events.put(HostEnded(host, code))

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self._hosts)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def _next_event(self) -> Event | None:
        """What happens next; None when the clock must be looked at first."""
        next_fault = self._faults.next_s(self._names, self._conditions.spot)
        limit = self._conditions.limit_s if self.cause is None else float("inf")
        wait_s = min(next_fault, limit, self._names_at, self._kill_at) - self._elapsed_s
        try:
            return self._events.get(timeout=None if wait_s == float("inf") else max(0.0, wait_s))
        except Empty:
            return None

    def _handle(self, event: Event | None) -> None:
        if isinstance(event, HostEnded):
            self._running.pop(event.host, None)
            self.codes[event.host] = event.code
        elif isinstance(event, StopAsked):
            self._take_away("stop")
            self._kill_at = 0.0 if event.at_once else self._kill_at
        elif isinstance(event, Fault):
            self._strike(event)

    def _look_at_the_clock(self) -> None:
        elapsed_s = self._elapsed_s
        for fault in self._faults.due(elapsed_s, self._names, self._conditions.spot):
            self._strike(fault)
        if elapsed_s >= self._names_at:
            self._names_at = float("inf")
            self._cluster.show_names()
        if elapsed_s >= self._conditions.limit_s:
            self._take_away("limit")
        if elapsed_s >= self._kill_at:
            self._kill_at = float("inf")
            for container in self._running.values():
                container.kill()

    def _take_away(self, cause: Cause) -> None:
        """SIGTERM to every host, and SIGKILL after the grace; the first cause counts."""
        if self.cause is not None:
            return
        self.cause = cause
        self._kill_at = self._elapsed_s + self._conditions.grace_s
        self._observer.taken_away(cause)
        for container in self._running.values():
            container.terminate()

    def _strike(self, fault: Fault) -> None:
        """Break something, and say so."""
        self._observer.note(f"fault {fault}")
        container = self._running.get(fault.host or "")
        if fault.kind in ("spot", "stop"):
            self._take_away("spot" if fault.kind == "spot" else "stop")
        elif fault.kind == "full-disk":
            self._fillers.append(fill_disk(Path(fault.detail)))
        elif container is None:
            self._observer.note(f"fault {fault}: that host does not run any more")
        elif fault.kind == "kill-host":
            container.kill()
        elif fault.kind == "silent-host":
            container.freeze()
            self._silent.add(fault.host or "")
        elif fault.kind == "kill-process":
            self._observer.note(f"fault {fault}: {container.kill_matching(fault.detail)} processes")

    def _end(self) -> None:
        """End what still runs, such as a host that has gone silent, and wait for it."""
        for container in self._running.values():
            container.kill()
        while self._running:
            self._handle(self._events.get())
        for filler in self._fillers:
            filler.unlink(missing_ok=True)
        self._cluster.close()


def fill_disk(folder: Path) -> Path:
    """Write a file into a folder until its file system is full; the file."""
    path = folder / f".filled-by-the-emulator-{os.getpid()}"
    block = bytes(1024 * 1024)
    with path.open("ab", buffering=0) as file, suppress(OSError):
        while file.tell() <= MAX_FILL_BYTES:
            file.write(block)
    return path
