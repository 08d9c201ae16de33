"""Several containers that run as one job on the Docker CLI, from their network to their end."""

import csv
import io
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from launcher.docker.commands import DockerCli
from launcher.local import FORWARDED, STOP_GRACE_S
from rayasr.errors import LaunchError


@dataclass(frozen=True)
class Bind:
    """A folder of this machine that a container sees."""

    source: Path
    target: str
    read_only: bool = False

    @property
    def flag(self) -> str:
        """The value of --mount; Docker reads it as CSV, so a comma in a path is quoted."""
        fields = ["type=bind", f"source={self.source.resolve()}", f"target={self.target}"]
        text = io.StringIO()
        csv.writer(text, lineterminator="").writerow(
            [*fields, *(["readonly"] if self.read_only else [])]
        )
        return text.getvalue()


@dataclass(frozen=True)
class Container:
    """What is particular to one container of a job."""

    host: str  # its name for the others
    binds: tuple[Bind, ...]
    gpus: tuple[int, ...]


@dataclass(frozen=True)
class Containers:
    """The containers of a job."""

    job: str
    """Name of the network, and the beginning of the containers' names."""
    image: str
    members: tuple[Container, ...]
    environment: Mapping[str, str]
    shm_bytes: int

    @property
    def names(self) -> list[str]:
        """Their names for Docker."""
        return [self.name(member.host) for member in self.members]

    def name(self, host: str) -> str:
        """A container's name for Docker."""
        return f"{self.job}-{host}"

    def create_arguments(self, member: Container) -> list[str]:
        """What makes one, for `docker create`."""
        flags = {
            "--name": self.name(member.host),
            "--hostname": member.host,
            "--label": f"rayasr.job={self.job}",
            "--network": self.job,
            "--network-alias": member.host,
            "--shm-size": str(self.shm_bytes),
            "--stop-timeout": f"{STOP_GRACE_S:.0f}",
            "--pull": "never",
            "--log-driver": "json-file",  # one that `docker logs` reads
        }
        if member.gpus:
            flags["--gpus"] = f'"device={",".join(map(str, member.gpus))}"'
        arguments = [part for flag in flags.items() for part in flag]
        for bind in member.binds:
            arguments += ["--mount", bind.flag]
        for name, value in self.environment.items():
            arguments += ["--env", f"{name}={value}"]
        return [*arguments, self.image, "train"]


def run_containers(
    docker: DockerCli, job: Containers, time_limit_s: float, lines: Callable[[str, str], None]
) -> dict[str, int]:
    """Run them to their end; each host's exit code; raises LaunchError at the time limit.

    SIGINT, SIGTERM and SIGHUP stop them all, a second one kills them. `lines` gets each host's
    lines, from threads.
    """
    with _signals() as events, _made(docker, job):
        docker.output("start", *job.names)
        for member in job.members:
            log = docker.start("logs", "--follow", job.name(member.host))
            threading.Thread(
                target=_follow, args=(docker, job, member.host, log, events, lines), daemon=True
            ).start()
        return _wait(docker, job, time_limit_s, events)


@dataclass(frozen=True)
class _Ended:
    host: str
    code: int


_Events = queue.SimpleQueue[_Ended | signal.Signals]


def _wait(
    docker: DockerCli, job: Containers, time_limit_s: float, events: _Events
) -> dict[str, int]:
    """Until all have ended, which a signal or the time limit hastens."""
    codes: dict[str, int] = {}
    stops: list[subprocess.Popen[bytes]] = []
    deadline: float | None = time.monotonic() + time_limit_s
    timed_out = False
    while len(codes) < len(job.members):
        try:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            event = events.get(timeout=left)
        except queue.Empty:
            timed_out, deadline = True, None
            stops.append(_stop(docker, job))
            continue
        if isinstance(event, _Ended):
            codes[event.host] = event.code
        elif stops:
            stops.append(docker.start("kill", *job.names))
        else:
            deadline = None  # the grace of a stop counts instead
            stops.append(_stop(docker, job))
    for stop in stops:
        stop.communicate()
    if timed_out:
        raise LaunchError(
            f"job {job.job} was stopped at its time limit of {time_limit_s:g} s; run it again to "
            "go on where it was, or give --set time_limit=TIME"
        )
    return codes


def _stop(docker: DockerCli, job: Containers) -> "subprocess.Popen[bytes]":
    """Ask all at once; Docker kills those that have not left in time."""
    return docker.start("stop", "-t", f"{STOP_GRACE_S:.0f}", *job.names)


def _follow(
    docker: DockerCli,
    job: Containers,
    host: str,
    log: "subprocess.Popen[bytes]",
    events: _Events,
    lines: Callable[[str, str], None],
) -> None:
    """Pass on a host's lines, then its exit code."""
    assert log.stdout is not None
    with log.stdout as output:
        for line in output:
            lines(host, line.decode(errors="replace").rstrip("\r\n"))
    log.wait()
    try:
        code = int(docker.output("wait", job.name(host)))
    except LaunchError as error:  # the engine is gone, or somebody removed the container
        lines(host, str(error))
        code = error.exit_code
    events.put(_Ended(host, code))


@contextmanager
def _made(docker: DockerCli, job: Containers) -> Iterator[None]:
    """The network and the containers, which are removed in any case, and no others."""
    docker.output("network", "create", "--label", f"rayasr.job={job.job}", job.job)
    made: list[str] = []
    try:
        for member in job.members:
            docker.output("create", *job.create_arguments(member))
            made.append(job.name(member.host))
        yield
    finally:
        try:
            if made:
                docker.output("rm", "--force", "--volumes", *made)
            docker.output("network", "rm", job.job)
        except LaunchError as error:  # what went wrong before matters more
            print(f"{job.job}: left behind: {error}", file=sys.stderr, flush=True)


@contextmanager
def _signals() -> Iterator[_Events]:
    """The queue of what happens; signals arrive in it instead of ending us."""
    events: _Events = queue.SimpleQueue()

    def take(number: int, _frame: FrameType | None) -> None:
        events.put(signal.Signals(number))

    before = {number: signal.signal(number, take) for number in FORWARDED}
    try:
        yield events
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
