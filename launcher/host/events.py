"""What can happen to a host of a job, and the one queue in which all of it arrives."""

import queue
import signal
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    # At this host.
    "stop",  # it was asked to stop, by SIGTERM
    "started",  # its Ray node runs
    "ended",  # its child process `text` ended with return code `code`
    # On the head, from another host.
    "hello",  # has connected
    "up",  # its Ray node runs
    "down",  # its Ray node is gone, for the reason `text`
    "stopping",  # it was asked to stop
    "lost",  # cannot be heard any more, for the reason `text`; on a worker: the head
    "refused",  # holds another token
    "stranger",  # a connection was refused, for the reason `text`
    # On a worker, from the head.
    "join",  # the cluster is there to be joined
    "outcome",  # the job has ended with exit code `code`, for the reason `text`
]


@dataclass(frozen=True)
class Event:
    kind: Kind
    host: str = ""
    text: str = ""
    code: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a job ended; where the code is not 0, `text` names host, cause and remedy."""

    code: int
    text: str = ""


class Inbox:
    """The queue of a host's events; signals and threads put in, the main thread takes out."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.stop_asked = False

    def put(self, event: Event) -> None:
        """Add an event; from any thread or signal handler."""
        self._events.put(event)

    def get(self, timeout_s: float) -> Event | None:
        """The next event, None where there is none within `timeout_s`."""
        try:
            return self._events.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def take_signals(self) -> None:
        """Turn SIGTERM and SIGINT into a `stop`; as PID 1 a process would not even notice them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        # Those that came while the code of the job was being put in place.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))

    def _stop(self) -> None:
        if not self.stop_asked:
            self.stop_asked = True
            self.put(Event("stop"))
