"""One running host of a job, and what a runner must offer to have hosts run."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from launcher.contract import Host
from launcher.emulator import processes

PROGRAM = (sys.executable, "-m", "launcher.host.main", "train")
"""What a host runs where there is no image: the entry point of this checkout."""
INHERITED = (
    *("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "RAYASR_NUM_CPUS", "RAYASR_BOOT_TIMEOUT_S"),
)
"""Variables that such a host takes over from the emulator; an image would have its own."""

_MAX_LINE = 256 * 1024  # of CloudWatch


@dataclass(frozen=True)
class Task:
    """What every host of a job runs."""

    environment: Mapping[str, str]
    image: str
    entrypoint: tuple[str, ...] = ()  # instead of the image's
    arguments: tuple[str, ...] = ("train",)


class Control(Protocol):
    """Reaches the processes of one running host."""

    def terminate(self) -> None:
        """SIGTERM to the first process, as `docker stop` sends it."""

    def kill(self) -> None:
        """SIGKILL to all processes."""

    def members(self) -> list[int]:
        """All processes."""


class Cluster(Protocol):
    """The machines of one attempt of a job."""

    def start(self, host: Host, task: Task) -> "Container":
        """Start a host; raises LaunchError."""

    def show_names(self) -> None:
        """Let the hosts' names resolve from now on."""

    def close(self) -> None:
        """Take down what the hosts shared; all have ended."""


class Runner(Protocol):
    """Makes clusters."""

    interface: str
    """Name of the hosts' network interface."""
    one_job_at_a_time: bool
    """Whether two jobs would get into each other's way."""

    def check(self) -> None:
        """See that this machine can do it; raises LaunchError."""

    def make_cluster(self, name: str, hosts: Sequence[Host], names_known: bool) -> Cluster:
        """Machines for an attempt; `name` is nobody else's; raises LaunchError."""


class Container:
    """One running host: its lines, its end, and what can be done to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: Control) -> None:
        self._process = process
        self._control = control

    def follow(self, on_line: Callable[[str], None], on_end: Callable[[int], None]) -> None:
        """Pass on every line, then the exit code, from threads of its own."""
        reader = threading.Thread(target=self._read, args=(on_line,), daemon=True)
        reader.start()
        threading.Thread(target=self._wait, args=(reader, on_end), daemon=True).start()

    def terminate(self) -> None:
        """Ask the host to leave."""
        self._control.terminate()

    def kill(self) -> None:
        """End the host at once."""
        self._control.kill()

    def freeze(self) -> None:
        """Stop all its processes where they are, those too that are born meanwhile."""
        frozen: set[int] = set()
        while born := set(self._control.members()) - frozen:
            for pid in born:
                processes.send(pid, signal.SIGSTOP)
            frozen |= born

    def kill_matching(self, pattern: str) -> int:
        """End those of its processes whose command line has the pattern; how many."""
        wanted = re.compile(pattern)
        matching = [
            pid for pid in self._control.members() if wanted.search(processes.command_line(pid))
        ]
        for pid in matching:
            processes.send(pid, signal.SIGKILL)
        return len(matching)

    def _read(self, on_line: Callable[[str], None]) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while raw := output.readline(_MAX_LINE):
                on_line(raw.decode(errors="replace").rstrip("\r\n"))

    def _wait(self, reader: threading.Thread, on_end: Callable[[int], None]) -> None:
        """The end of a container's first process is the end of all its others."""
        code = self._process.wait()
        self._control.kill()
        reader.join(10)  # unless something that got away from us holds the output open
        on_end(code if code >= 0 else 128 - code)
