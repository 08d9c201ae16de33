"""Child processes of a container's first process: their lines, their ends, and the orphans.

A container's PID 1 inherits every process whose parent has died; unless it waits for them, they
stay as zombies. All of this is for the main thread, but for the lines.
"""

import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rayasr.errors import LaunchError

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_MAX_LINE = 65536
_POLL_S = 0.05
_SWEEP_S = 0.01
_LAST_LINES_S = 2.0
_KILLED_S = 5.0


@dataclass(frozen=True)
class Ended:
    name: str
    code: int  # negative: the signal


class Children:
    """Starts processes, each leading a group of its own, and waits for all that end."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[subprocess.Popen[str], threading.Thread]] = {}

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        """Start a process; `on_line` gets its output, from a thread; raises LaunchError."""
        try:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                process_group=0,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise LaunchError(
                f"cannot start {name}: {command[0]}: {error.strerror or error}"
            ) from error
        reader = threading.Thread(target=_read_lines, args=(process, on_line), daemon=True)
        reader.start()
        self._running[name] = (process, reader)

    def is_running(self, name: str) -> bool:
        """Whether a child has been started and has not been seen to end."""
        return name in self._running

    def reap(self) -> list[Ended]:
        """Wait for all that have ended; returns those that were started here."""
        ended = []
        while (pid := _ended_child()) is not None:
            name = next((n for n, (process, _) in self._running.items() if process.pid == pid), "")
            if name:
                reader = self._running[name][1]
                ended.append(Ended(name, self._bury(name)))
                reader.join(_LAST_LINES_S)
            else:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
        return ended

    def terminate(self, name: str) -> None:
        """Ask a child to end; it tells its own children itself."""
        if name in self._running:
            self._running[name][0].send_signal(signal.SIGTERM)

    def stop(self, name: str, grace_s: float) -> None:
        """Ask a child to end, and kill its group where it has not after `grace_s`."""
        self.terminate(name)
        deadline = time.monotonic() + grace_s
        while name in self._running and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            self.reap()
        self.kill(name)

    def kill(self, name: str) -> None:
        """Kill a child's process group."""
        if name in self._running:
            self._bury(name)

    def kill_all(self) -> None:
        """Kill every group, then the orphans that come to us, such as Ray's workers."""
        for name in list(self._running):
            self.kill(name)
        deadline = time.monotonic() + _KILLED_S
        while (left := _own_children()) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            time.sleep(_SWEEP_S)

    def _bury(self, name: str) -> int:
        """Kill what is left of a child's group and wait for the child; its return code."""
        process, _ = self._running.pop(name)
        # As long as we have not waited for the leader, no other group can have its number.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            return process.wait(_KILLED_S)
        except subprocess.TimeoutExpired:  # hangs in the kernel, on a dead file system
            return -signal.SIGKILL


def adopt_orphans() -> None:
    """Make orphans below this process its children, as they are where it is PID 1."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _read_lines(process: "subprocess.Popen[str]", on_line: Callable[[str], None]) -> None:
    assert process.stdout is not None
    with process.stdout as lines:
        for line in iter(partial(lines.readline, _MAX_LINE), ""):
            on_line(line.rstrip("\n"))


def _ended_child() -> int | None:
    """The process id of a child that has ended, left to be waited for."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return None if found is None else found.si_pid


def _own_children() -> list[int]:
    """The process ids of our children, zombies too: one may just have left us its own."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                # The name before ")" is the program's own and may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == os.getpid():
                    found.append(int(folder.name))
    return found
