"""What a training worker runs under Ray, and its line to the driver."""

import pickle
import threading
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayasr.config import Recipe
from rayasr.errors import RayasrError

if TYPE_CHECKING:
    from rayasr.train.init_from import InitFrom
    from rayasr.train.loop import FitOptions, FitResult
    from rayasr.train.reporter import Reporter, StartClock

_EXCHANGE_S = 0.5


@dataclass(frozen=True)
class Job:
    """What travels to the workers."""

    recipe: Recipe
    store: str
    run: str
    cuda: bool
    options: "FitOptions"
    clock: "StartClock"
    init_from: "InitFrom | None" = None
    ask_for_notices: bool = False


class Board:
    """A small actor between the driver and rank 0: messages one way, the stop flag the other."""

    def __init__(self) -> None:
        self._messages: list[tuple[str, Any]] = []
        self._stop = False

    def ask_to_stop(self) -> None:
        self._stop = True

    def put(self, messages: list[tuple[str, Any]]) -> bool:
        """Take a worker's messages in; returns the stop flag."""
        self._messages += messages
        return self._stop

    def take(self) -> list[tuple[str, Any]]:
        """Hand all messages to the driver."""
        messages, self._messages = self._messages, []
        return messages


class BoardLine:
    """A worker's side of the board: a thread carries messages, so that no step waits for Ray."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._messages: list[tuple[str, Any]] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True, name="board")
        self._thread.start()

    def send(self, kind: str, value: Any) -> None:
        """Queue a message."""
        with self._lock:
            self._messages.append((kind, value))

    def close(self) -> None:
        """Send what is left."""
        self._closed.set()
        self._thread.join(10)
        self._exchange()

    def _carry(self) -> None:
        while not self._closed.wait(_EXCHANGE_S):
            self._exchange()

    def _exchange(self) -> None:
        import ray

        with self._lock:
            messages, self._messages = self._messages, []
        if ray.get(self._board.put.remote(messages)):
            self.stop.set()


def group_worker(config: dict[str, Any]) -> "FitResult":
    """What each worker of a group runs."""
    from ray import train

    from rayasr.train.allocator import keep_freed_memory
    from rayasr.train.reporter import Reporter

    keep_freed_memory()
    job: Job = config["job"]
    job.clock.mark("worker group")
    line = BoardLine(config["board"])
    reporter = Reporter(
        note=lambda message: line.send("note", message),
        row=lambda row: line.send("row", row),
        milestone=lambda metrics: train.report(metrics),
        stop_requested=line.stop.is_set,
        host_leaves=_host_leaves if job.ask_for_notices else lambda: False,
    )
    try:
        return work(job, reporter)
    except Exception as error:
        if not is_loss(error):
            line.send("error", _portable(error))
        raise
    finally:
        line.close()


def is_loss(error: BaseException) -> bool:
    """Whether an error says that another process is gone; others would come again on a retry."""
    from rayasr.train.world import PeerError

    return isinstance(error, PeerError) or type(error).__module__.partition(".")[0] == "ray"


def _portable(error: Exception) -> Exception:
    """An error as it survives the way to the driver; a bug takes its traceback along as a note."""
    if isinstance(error, RayasrError):
        return error
    try:
        sent: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever a strange class raises
        sent = RuntimeError(f"{type(error).__name__}: {error}")
    sent.add_note("In the worker:\n" + "".join(traceback.format_exception(error)))
    return sent


def work(job: Job, reporter: "Reporter") -> "FitResult":
    """Join the process group, if there is one, and train."""
    from ray.train.torch import get_device

    from rayasr.train.loop import fit
    from rayasr.train.world import World

    world = World.joined(get_device() if job.cuda else "cpu")
    job.clock.mark("imports in the worker")
    return fit(
        job.recipe,
        job.store,
        job.run,
        world=world,
        reporter=reporter,
        options=job.options,
        clock=job.clock,
        init_from=job.init_from,
    )


def _host_leaves() -> bool:
    from ray import train

    return train.get_preemption_info() is not None
