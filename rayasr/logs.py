"""What a person sees while rayasr works, and the numbers a run leaves behind."""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from rayasr.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_INTERVAL_S = 10.0
"""Seconds between two progress lines where stderr is not a terminal."""


def note(message: str) -> None:
    """One line for the person at the terminal, on stderr; it stands above a live display."""
    if sys.stderr.isatty():
        console().print(message, markup=False, highlight=False, soft_wrap=True)
    else:
        print(message, file=sys.stderr, flush=True)


class ProgressLine:
    """How far some work is: a live bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, title: str, total: float | None = None) -> None:
        self._title, self._total = title, total
        self._started = self._last = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich import progress as bars

            self._bar = bars.Progress(
                bars.TextColumn("[bold]{task.description}"),
                bars.BarColumn(bar_width=28),
                bars.TaskProgressColumn(),
                bars.TextColumn("{task.fields[note]}", markup=False),
                bars.TimeElapsedColumn(),
                bars.TextColumn("ETA"),
                bars.TimeRemainingColumn(),
                console=console(),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, note: str = "", total: float | None = None) -> None:
        """Say that `done` of `total` is done; `note` is a short remark behind the bar."""
        self._total = total if total is not None else self._total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total, note=note)
            return
        now = time.monotonic()
        if now - self._last >= PLAIN_INTERVAL_S:
            self._last = now
            of = f"/{self._total:g} ({done / self._total:.0%})" if self._total else ""
            seconds = now - self._started
            line = f"{self._title}: {done:g}{of}{', ' + note if note else ''}, {seconds:.0f} s"
            print(line, file=sys.stderr, flush=True)


def progress(title: str, total: float | None = None) -> ProgressLine:
    """A ProgressLine, for `with progress("features", total) as p: p.update(done)`."""
    return ProgressLine(title, total)


@contextmanager
def taking_long(what: str, seconds: float = 2.0) -> Iterator[None]:
    """Say how long something took, where it took longer than `seconds`."""
    started = time.monotonic()
    yield
    if (took := time.monotonic() - started) > seconds:
        note(f"{what} took {took:.1f} s")


class MetricsLog:
    """`metrics.jsonl` with each step once however often a run is resumed, and TensorBoard events.

    `after_step` is the step of the checkpoint that training goes on from: later lines of a run
    that was cut off are dropped, they are about to be written again.
    """

    def __init__(self, run: str | Path, after_step: int = 0) -> None:
        self._path = Path(run) / "metrics.jsonl"
        self._events_folder = Path(run) / "tensorboard"
        self._events: Any = None
        self._purge_step = after_step + 1
        kept = [row for row in read_metrics(run) if row["step"] <= after_step]
        partial = self._path.with_name(".metrics.jsonl")
        with self._explained():
            partial.write_text("".join(_line(row) for row in kept), encoding="utf-8")
            partial.replace(self._path)
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Append one flat line; `step` is required; raises DataError where the disk is full."""
        try:
            with self._explained():
                self._file.write(_line(row))
                self._file.flush()
                self._write_events(row)
        except DataError:
            with suppress(DataError):  # what is still buffered is tried once more, in vain
                self.close()
            raise

    def close(self) -> None:
        """Close both files; raises DataError where the last lines cannot be written."""
        with self._explained():
            try:
                self._file.close()
            finally:
                if self._events is not None:
                    self._events.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"cannot write {self._path}: {reason}; free some space and run again"
            ) from error

    def _write_events(self, row: dict[str, Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._events is None:  # late, for the import costs as much as ten small steps
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self._events = EventFileWriter(str(self._events_folder))
            start = SessionLog(status=SessionLog.START)
            self._events.add_event(Event(step=self._purge_step, session_log=start))
        values = [
            Summary.Value(tag=key, simple_value=float(value))
            for key, value in row.items()
            if isinstance(value, int | float) and key not in ("step", "time")
        ]
        event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
        self._events.add_event(event)


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """All whole lines of a run's metrics.jsonl, in order; a line cut off by a crash is left out."""
    try:
        lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def _line(row: dict[str, Any]) -> str:
    """One JSON line; what is not finite becomes null, which JSON knows."""
    values = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
    return json.dumps(values, ensure_ascii=False) + "\n"


@lru_cache(maxsize=1)
def console() -> "Console":
    """The one console, so that notes and bars do not write over each other."""
    from rich.console import Console

    return Console(stderr=True)
