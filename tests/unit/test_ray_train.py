"""What the driver does while its workers train; without Ray running."""

import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rayasr import storage
from rayasr.errors import ConfigError, DataError
from rayasr.ray_train import _Driver, _in_thread
from rayasr.train.stop import StopRequest


class FakeBoard:
    """Ray's handle of a board that holds these messages and counts what is asked."""

    def __init__(self, *messages: tuple[str, Any]) -> None:
        self.asked = 0
        self.take = SimpleNamespace(remote=lambda: messages)
        self.ask_to_stop = SimpleNamespace(remote=self._ask)

    def _ask(self) -> None:
        self.asked += 1


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Driver:
    monkeypatch.setattr("ray.get", lambda value: value)
    said: list[str] = []
    return _Driver(storage.Lease(tmp_path), StopRequest(said.append), said.append)


def test_messages_come_out_and_a_stop_goes_in_once(driver: _Driver):
    board = FakeBoard(("note", "hello"), ("row", {"step": 1}))
    rows: list[dict[str, Any]] = []
    driver.exchange(board, rows.append)
    assert (rows, board.asked) == ([{"step": 1}], 0)
    driver.stop.event.set()
    driver.exchange(board, rows.append)
    driver.exchange(board, rows.append)
    assert board.asked == 1


def test_an_error_of_a_worker_is_raised(driver: _Driver):
    with pytest.raises(DataError, match="no speech"):
        driver.exchange(FakeBoard(("error", DataError("no speech"))), print)


def test_a_run_that_was_taken_over_ends(
    driver: _Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage, "LEASE_BEAT_S", 0.001)
    monkeypatch.setattr("rayasr.ray_train._POLL_S", 0.01)
    other = storage._this_process() | {"pid": os.getppid()}
    trained = threading.Event()

    def meanwhile() -> None:
        storage.write_json(tmp_path / "lease.json", other)
        driver.lease.check()

    with driver.lease, pytest.raises(ConfigError, match=r"was taken over .* this one ends"):
        _in_thread(lambda: trained.wait(60), meanwhile)
    trained.set()
