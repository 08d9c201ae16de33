"""What goes wrong in a worker, as the driver hears of it; without Ray running."""

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError
from ray.train import WorkerGroupError

from rayasr import ray_worker
from rayasr.errors import DataError, TrainingError
from rayasr.ray_train import _explained
from rayasr.train.world import PeerError


class StrangeError(Exception):
    """Cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Line:
    """A board line that keeps what is sent."""

    def __init__(self, _board: object) -> None:
        self.stop = SimpleNamespace(is_set=lambda: False)

    def send(self, kind: str, value: Any) -> None:
        sent.append((kind, pickle.loads(pickle.dumps(value))))

    def close(self) -> None:
        sent.append(("closed", None))


sent: list[tuple[str, Any]] = []


def work_that_fails(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[tuple[str, Any]]:
    """Run a worker whose training raises; what it sent."""

    def fail(*_: object) -> None:
        raise error

    sent.clear()
    monkeypatch.setattr(ray_worker, "BoardLine", Line)
    monkeypatch.setattr(ray_worker, "work", fail)
    monkeypatch.setattr("rayasr.train.allocator.keep_freed_memory", lambda: None)
    job = SimpleNamespace(clock=SimpleNamespace(mark=lambda _: None), ask_for_notices=False)
    with pytest.raises(type(error)):
        ray_worker.group_worker({"job": job, "board": None})
    return sent


def test_a_bug_comes_with_its_traceback(monkeypatch: pytest.MonkeyPatch):
    (kind, error), closed = work_that_fails(monkeypatch, KeyError("speaker"))
    assert (kind, type(error), closed) == ("error", KeyError, ("closed", None))
    assert "in fail" in error.__notes__[0]


def test_a_bug_that_cannot_travel_is_named(monkeypatch: pytest.MonkeyPatch):
    (_, error), _ = work_that_fails(monkeypatch, StrangeError(1, 2))
    assert str(error) == "StrangeError: 1 and 2"
    assert "in fail" in error.__notes__[0]


def test_what_rayasr_explains_stays_a_sentence(monkeypatch: pytest.MonkeyPatch):
    (_, error), _ = work_that_fails(monkeypatch, DataError("the store is empty"))
    assert (type(error), str(error)) == (DataError, "the store is empty")
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("error", [PeerError("closed"), RayError("an actor died")])
def test_a_loss_is_left_to_ray(monkeypatch: pytest.MonkeyPatch, error: Exception):
    assert work_that_fails(monkeypatch, error) == [("closed", None)]


def test_only_losses_become_a_training_error():
    lost = {0: PeerError("Connection closed"), 1: RayError("The actor died\nunexpectedly")}
    explained = _explained(WorkerGroupError("", lost))
    assert isinstance(explained, TrainingError)
    assert "lost 4 times" in str(explained)
    for cause in (KeyError("speaker"), DataError("the store is empty")):
        assert _explained(WorkerGroupError("", {**lost, 2: cause})) is cause
    empty = _explained(WorkerGroupError("", {0: RayError()}))
    assert "worker 0: RayError()" in str(empty)
    other = ValueError("no workers")
    assert _explained(other) is other
