"""Finds the processes of one host in /proc, so that a signal reaches them and nobody else's."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def of_session(leader: int, mark: str) -> list[int]:
    """The processes of a session, and those that carry NAME=VALUE in their environment."""
    wanted = mark.encode()
    return [
        pid
        for pid in _all()
        if _session(pid) == leader or wanted in _read(pid, "environ").split(b"\0")
    ]


def kill_session(leader: int, mark: str) -> None:
    """SIGKILL to all of `of_session`, until none is left."""
    while members := of_session(leader, mark):
        for pid in members:
            send(pid, signal.SIGKILL)
        time.sleep(0.005)


def of_namespace(init: int) -> list[int]:
    """The processes that share a process namespace with its first one."""
    space = _namespace(init)
    return [] if space is None else [pid for pid in _all() if _namespace(pid) == space]


def child_of(parent: int) -> int | None:
    """A child of a process."""
    return next((pid for pid in _all() if _stat(pid)[1:2] == [str(parent)]), None)


def command_line(pid: int) -> str:
    """A process's command line, as it shows itself."""
    return _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may just have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _all() -> Iterator[int]:
    """Every living process of this machine."""
    for entry in _PROC.iterdir():
        if entry.name.isdecimal():
            pid = int(entry.name)
            if _stat(pid)[:1] not in ([], ["Z"]):
                yield pid


def _session(pid: int) -> int:
    stat = _stat(pid)
    return int(stat[3]) if len(stat) > 3 else 0


def _stat(pid: int) -> list[str]:
    """State, parent, group, session, …; [] for a process that is gone."""
    text = _read(pid, "stat").decode(errors="replace")
    return text.rpartition(")")[2].split()


def _namespace(pid: int) -> Path | None:
    try:
        return (_PROC / str(pid) / "ns/pid").readlink()
    except OSError:
        return None


def _read(pid: int, name: str) -> bytes:
    try:
        return (_PROC / str(pid) / name).read_bytes()
    except OSError:
        return b""
