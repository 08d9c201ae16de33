"""Stopping in good order: the first signal asks for a checkpoint, a second Ctrl-C ends at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass
class StopRequest:
    """Whether and by which signal this process was asked to stop."""

    notes: Callable[[str], None]
    event: threading.Event = field(default_factory=threading.Event)
    signal: int = 0

    def install(self) -> None:
        """Take the signals (again: `ray.init` puts its own handlers over ours).

        Outside the main thread, which alone may have handlers, nothing is changed.
        """
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: Any) -> None:
        if self.event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        self.event.set()
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        self.notes(f"stopping after a checkpoint{again}")


@contextmanager
def stop_on_signals(notes: Callable[[str], None]) -> Iterator[StopRequest]:
    """Turn SIGTERM and SIGINT into a request; a second SIGINT raises KeyboardInterrupt."""
    stop = StopRequest(notes)
    kept = {number: signal.getsignal(number) for number in _SIGNALS}
    stop.install()
    try:
        yield stop
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in kept.items():
                signal.signal(number, handler)
