"""Files that appear whole, errors as sentences, one writer per run folder."""

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rayasr import storage
from rayasr.errors import ConfigError, DataError
from rayasr.storage import Lease


def test_a_file_appears_whole_and_replaces_the_old(tmp_path: Path):
    path = tmp_path / "deep" / "file.json"
    storage.write_json(path, {"a": "零"})
    storage.write_json(path, {"a": 2})
    assert storage.read_json(path) == {"a": 2}
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_remote_paths_go_through_pyarrow(tmp_path: Path):
    place = f"file://{tmp_path}/bucket"
    assert storage.is_remote(place)
    assert not storage.is_remote(tmp_path)
    storage.make_folder(place)
    storage.write_atomic(storage.join(place, "key"), b"value")
    assert storage.read_bytes(tmp_path / "bucket" / "key") == b"value"
    storage.copy_file(storage.join(place, "key"), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"value"
    assert storage.list_names(place) == ["key"]
    assert storage.list_names(storage.join(place, "nothing")) == []
    storage.remove(storage.join(place, "key"))
    assert not storage.exists(storage.join(place, "key"))


def test_an_unknown_scheme_is_one_sentence():
    with pytest.raises(ConfigError, match="cannot open nosuch://place"):
        storage.read_bytes("nosuch://place/file")


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="cannot read"):
        storage.read_bytes(tmp_path / "missing")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        storage.read_json(tmp_path / "broken.json")


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left"),
        (errno.EROFS, "choose another output folder"),
        (errno.EACCES, "choose another output folder"),
        (errno.EIO, "cannot write"),
    ],
)
def test_what_cannot_be_written_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage.os, "fsync", fail)
    with pytest.raises(DataError, match=words):
        storage.write_atomic(tmp_path / "file", "text")
    assert list(tmp_path.iterdir()) == []


def holder(**changes: object) -> dict[str, object]:
    """Another process of this boot that is alive: this one's parent."""
    owner = storage._this_process()
    parent = os.getppid()
    owner |= {"pid": parent, "process_start": storage._process_start(parent)}
    return owner | {"heartbeat": time.time()} | changes


def write(folder: Path, value: object) -> None:
    (folder / "lease.json").write_text(json.dumps(value))


def test_a_lease_is_taken_and_given_back(tmp_path: Path):
    with Lease(tmp_path):
        owner = storage.read_json(tmp_path / "lease.json")
        assert (owner["pid"], owner["host"]) == (os.getpid(), socket.gethostname())
    assert not (tmp_path / "lease.json").exists()


def test_a_living_owner_is_named(tmp_path: Path):
    write(tmp_path, holder())
    with pytest.raises(ConfigError, match=f"in use by process {os.getppid()}"), Lease(tmp_path):
        pass
    assert (tmp_path / "lease.json").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": 2**22 + 1},  # gone
        {"process_start": "1"},  # its number belongs to another process now
        {"boot_id": "another", "heartbeat": 0.0},  # another host, silent
        {"pid_namespace": "another", "heartbeat": 0.0},  # another container, silent
    ],
)
def test_a_dead_owners_lease_is_taken_over(tmp_path: Path, changes: dict[str, object]):
    write(tmp_path, holder(**changes))
    with Lease(tmp_path):
        assert storage.read_json(tmp_path / "lease.json")["pid"] == os.getpid()


ELSEWHERE = pytest.mark.parametrize(
    "changes", [{"boot_id": "another"}, {"pid_namespace": "another"}]
)


@ELSEWHERE
def test_an_owner_elsewhere_that_beats_is_named(tmp_path: Path, changes: dict[str, object]):
    """Seen from a container: the process is not there, its heartbeats are."""
    write(tmp_path, holder(pid=2**22 + 1, **changes))

    def beat(note: str) -> None:
        assert f"{tmp_path} was in use by process {2**22 + 1}" in note
        write(tmp_path, holder(pid=2**22 + 1, **changes))

    with pytest.raises(ConfigError, match="in use"), Lease(tmp_path, beat):
        pass


@ELSEWHERE
def test_a_job_that_was_just_killed_does_not_block_the_next(
    tmp_path: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage, "LEASE_STALE_S", 0.5)
    write(tmp_path, holder(pid=2**22 + 1, **changes))
    with Lease(tmp_path):
        assert storage.read_json(tmp_path / "lease.json")["pid"] == os.getpid()


def test_a_damaged_lease_belongs_to_nobody(tmp_path: Path):
    for content in ("", "[]", '{"host": 1}'):
        (tmp_path / "lease.json").write_text(content)
        with Lease(tmp_path):
            pass


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "LEASE_BEAT_S", 0.001)
    with Lease(tmp_path) as lease:
        first = storage.read_json(tmp_path / "lease.json")["heartbeat"]
        wait_for(lambda: storage.read_json(tmp_path / "lease.json")["heartbeat"] != first)
        lease.check()


def test_the_heart_beats_on_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "LEASE_BEAT_S", 0.001)
    written = storage.write_json
    failures = 0

    def full(path: Path, value: object) -> None:
        nonlocal failures
        if threading.current_thread().name == "lease" and failures < 3:
            failures += 1
            raise DataError(f"no space left while writing {path}")
        written(path, value)

    monkeypatch.setattr(storage, "write_json", full)
    with Lease(tmp_path):
        first = storage.read_json(tmp_path / "lease.json")["heartbeat"]
        wait_for(lambda: storage.read_json(tmp_path / "lease.json")["heartbeat"] != first)
    assert failures == 3


def test_an_owner_that_stood_still_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(storage, "LEASE_BEAT_S", 0.001)
    with Lease(tmp_path) as lease:
        other = holder()

        def given_way() -> bool:
            storage.write_json(tmp_path / "lease.json", other)
            return not lease._beat.is_alive()

        wait_for(given_way)
        with pytest.raises(ConfigError, match=f"taken over by process {os.getppid()}"):
            lease.check()
    assert storage.read_json(tmp_path / "lease.json") == other


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("dead", [True, False])
def test_of_two_starts_at_once_one_holds_the_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool, dead: bool
):
    if not links:

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(storage.os, "link", refuse)
    if dead:
        write(tmp_path, holder(boot_id="another", heartbeat=0.0))
    monkeypatch.setattr(storage, "_SETTLE_S", 1.0)  # a busy machine may hold a thread that long
    barrier = threading.Barrier(8)
    held: list[Lease] = []
    refused: list[ConfigError] = []

    def start(number: int) -> None:
        lease = Lease(tmp_path)
        lease._owner |= {"boot_id": f"host {number}", "pid": number}
        barrier.wait()
        try:
            held.append(lease.__enter__())
        except ConfigError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    assert len(refused) == 7
    owner = storage.read_json(tmp_path / "lease.json")["pid"]
    assert held[0]._owner["pid"] == owner
    held[0].__exit__()
    assert list(tmp_path.iterdir()) == []
