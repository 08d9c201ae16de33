"""One machine of a job while it runs: what it knows, its processes, and what happens to it."""

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from launcher.host.children import Children
from launcher.host.events import Event, Inbox
from launcher.host.link import LinkTimes
from launcher.host.log import HostLog
from launcher.host.ray_cluster import RAY, RAY_CHILD, RayNode, RayPlace
from launcher.host.topology import Lookup, Topology
from launcher.job_file import JobFile
from rayasr.errors import RayasrError

STOPPED = 128 + 15
"""Exit code of a job that was stopped before its command had begun."""

_REHEARSAL = {"RAYASR_ML_ROOT", "RAYASR_HOST_ADDRESSES", "RAYASR_TMP", "RAYASR_NUM_CPUS"}
RAYASR = (sys.executable, "-P", "-m", "rayasr")

_POLL_S = 0.1


@dataclass(frozen=True)
class Settings:
    """Programs and times; tests pass others."""

    ray: tuple[str, ...] = RAY
    rayasr: tuple[str, ...] = RAYASR
    boot_s: float = 600.0
    """All hosts must be up within this time; images and data may come at different speed."""
    stop_s: float = 100.0
    """What the command has to leave after SIGTERM, of the 120 s that SageMaker gives."""
    leave_s: float = 110.0
    """When any other host leaves after SIGTERM, the outcome known or not."""
    cause_s: float = 2.0
    """How long to wait for what made the command fail: Ray looks after its parts every second."""
    lost_grace_s: float = 10.0
    """What the command has to leave when the cluster is broken."""
    link: LinkTimes = field(default_factory=LinkTimes)


class StoppedError(RayasrError):
    """This host was asked to stop while it waited."""


@dataclass(frozen=True)
class Process:
    """What the container's first process begins with."""

    environment: Mapping[str, str]
    root: str  # the contract's folder
    settings: Settings
    log: HostLog
    inbox: Inbox
    began: float  # monotonic

    @property
    def boot_deadline(self) -> float:
        """When the cluster must be complete, or the job fails."""
        return self.began + self.settings.boot_s

    @property
    def is_rehearsal(self) -> bool:
        """Whether this machine plays another one, with GPUs that it may not have."""
        return bool(_REHEARSAL & set(self.environment))

    def pause(self, seconds: float) -> None:
        """Sleep; raises StoppedError as soon as the process is asked to stop."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self.inbox.stop_asked:
                raise StoppedError
            time.sleep(min(left, _POLL_S))


@dataclass
class Host:
    """Everything a host's part of the job needs."""

    process: Process
    topology: Topology
    job: JobFile
    place: RayPlace  # with this host's address
    head_address: str
    lookup: Lookup
    children: Children = field(default_factory=Children)

    @property
    def name(self) -> str:
        """This host's name."""
        return self.topology.this

    def ray_node(self) -> RayNode:
        """This host's Ray node, not yet started."""
        inbox = self.process.inbox
        return RayNode(
            self.children,
            self.place,
            lambda: inbox.put(Event("started")),
            self.process.settings.ray,
        )

    def next_event(self, deadline: float | None) -> Event | None:
        """Wait for the next event; None when `deadline` (monotonic) has come."""
        while True:
            for ended in self.children.reap():
                self.process.inbox.put(Event("ended", self.name, ended.name, ended.code))
            if (event := self.process.inbox.get(_POLL_S)) is not None:
                return event
            if deadline is not None and time.monotonic() > deadline:
                return None

    def address_of(self, host: str) -> str | None:
        """Another host's address, None where it is not known."""
        with suppress(OSError):
            return self.lookup(host)
        return None

    def show_ray_lines(self, node: RayNode) -> None:
        """Log what `ray start` said last; as long as all goes well it says too much."""
        for line in node.last_lines():
            self.process.log.write(f"{RAY_CHILD}: {line}")
