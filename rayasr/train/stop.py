"""Stopping in good order: the first signal asks for a checkpoint, a second Ctrl-C ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class StopRequest:
    """Whether and by which signal this process was asked to stop."""

    event: threading.Event = field(default_factory=threading.Event)
    signal: int = 0


@contextmanager
def stop_on_signals(notes: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request; a second SIGINT raises KeyboardInterrupt.

    Outside the main thread, which alone may have handlers, nothing is changed.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _frame: Any) -> None:
        if stop.event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.signal = number
        stop.event.set()
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        notes(f"stopping after a checkpoint{again}")

    kept = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
