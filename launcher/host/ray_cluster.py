"""This host's part of the Ray cluster: `ray start --block` as a child process.

`ray stop` is never used: it ends every Ray that it sees, another job's too.
"""

import os
import re
import shutil
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.host.children import Children
from launcher.instances import INSTANCES
from rayasr.errors import LaunchError

RAY = (sys.executable, "-P", "-m", "ray.scripts.scripts")
GCS_PORT = 6379
"""Outside 10002-19999, where Ray's workers take their ports."""
RAY_CHILD = "Ray"

MAX_STORE_BYTES = 2 * 10**9
"""Only metadata goes through our object store."""
_SMALL_STORE_BYTES = 200 * 10**6
_MIN_SHM_BYTES = 100 * 10**6
_MIN_FREE_BYTES = 500 * 10**6
_MAX_FOLDER = 107 - len("/session_2026-11-22_10-10-10_123456_4194304/sockets/plasma_store")
"""A socket's path has at most 107 bytes."""

_STARTED = "Ray runtime started."
_PREFIX = re.compile(r"[\d-]+ [\d:,]+\t[A-Z]+ \S+ -- ")
_PROCESS_ENDED = re.compile(r"(\w+) \[exit code=(-?\d+)\]")
_TAIL = re.compile(r"----- (BEGIN|END) \S+ tail")
_WARNING = re.compile(r"\[[^]]* [WEFC] \d+ \d+\]")
_RAISED = re.compile(r"[\w.]*(?:Error|Exception): .+")
_MAX_CAUSE = 300

_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # A silent host is noticed after 10 s; by default Ray Data would wait for seven minutes.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # A node whose head is gone ends after 13 s instead of 64.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
}
_HEAD_SETTINGS = {
    # A silent host is dead after 10 s, as on the host link. Ray's own: about a minute; less than
    # five misses would bury hosts that are only busy.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass(frozen=True)
class RayPlace:
    """What Ray gets of this host."""

    address: str
    num_cpus: int
    object_store_bytes: int
    folder: Path  # for sockets, logs and spilled objects
    environment: Mapping[str, str]  # with the token


class RayNode:
    """This host's node; `notify` is called, from a thread, as soon as it runs."""

    def __init__(
        self,
        children: Children,
        place: RayPlace,
        notify: Callable[[], None],
        program: Sequence[str] = RAY,
    ) -> None:
        self._children = children
        self._place = place
        self._notify = notify
        self._program = tuple(program)
        self._lines: deque[str] = deque(maxlen=60)
        self._causes: list[str] = []
        self._in_tail = False
        self._began = time.monotonic()

    def start_head(self) -> None:
        """Start the cluster's first node; raises LaunchError."""
        head = ("--head", f"--port={GCS_PORT}", "--include-dashboard=false")
        self._start(head, _HEAD_SETTINGS)

    def join(self, head_address: str) -> None:
        """Start a node of the cluster that the head has started; raises LaunchError."""
        self._start((f"--address={head_address}:{GCS_PORT}",), {})

    def describe(self) -> str:
        """What runs, in a few words."""
        place = self._place
        return (
            f"Ray runs at {place.address} after {time.monotonic() - self._began:.1f} s: "
            f"{place.num_cpus} CPUs, object store of {place.object_store_bytes / 1e9:.1f} GB, "
            f"temporary files in {place.folder}"
        )

    def last_lines(self) -> list[str]:
        """What `ray start` said last."""
        return list(self._lines)

    def cause(self) -> str:
        """Why the node has ended, as far as Ray says it."""
        return self._causes[-1] if self._causes else "`ray start` ended without a reason"

    def _start(self, arguments: Sequence[str], settings: Mapping[str, str]) -> None:
        place = self._place
        command = [
            *self._program,
            "start",
            "--block",
            *arguments,
            f"--node-ip-address={place.address}",
            f"--num-cpus={place.num_cpus}",
            f"--object-store-memory={place.object_store_bytes}",
            f"--temp-dir={place.folder}",
            "--disable-usage-stats",
        ]
        self._began = time.monotonic()
        self._children.start(RAY_CHILD, command, {**settings, **place.environment}, self._hear)

    def _hear(self, line: str) -> None:
        line = _PREFIX.sub("", line, count=1)
        if tail := _TAIL.match(line):
            self._in_tail = tail[1] == "BEGIN"
        elif self._in_tail and not _WARNING.match(line):
            return  # hundreds of lines of statistics from the log of a process that has ended
        self._lines.append(line)
        if _STARTED in line:
            self._notify()
        elif process := _PROCESS_ENDED.fullmatch(line.strip()):
            self._causes.append(f"Ray's {process[1]} ended with {_ending(int(process[2]))}")
        elif _RAISED.fullmatch(line):
            self._causes.append(line[:_MAX_CAUSE])


def cluster_environment(
    base: Mapping[str, str], job: Mapping[str, str], token: str, interface: str | None
) -> dict[str, str]:
    """What Ray's nodes and the command need in their environment.

    The job's own values win over ours, but for the token: training runs in Ray's workers, which
    inherit all of it.
    """
    ours = dict(_SETTINGS)
    if interface is not None:
        ours |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    if Path("/dev/infiniband/uverbs0").exists():
        ours["FI_PROVIDER"] = "efa"
    environment = {**base, **ours, **job, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment.pop("RAY_ADDRESS", None)
    return environment


def _ending(code: int) -> str:
    """A return code in words; negative ones are signals."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def check_gpus(instance_type: str | None, devices: str = "/dev") -> None:
    """See that the GPUs of a machine of that type are all visible here; raises LaunchError.

    With fewer, training would run all the same, slower and for the same money.
    """
    instance = INSTANCES.get(instance_type or "")
    found = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path(devices).iterdir())
    if instance is not None and found < instance.num_gpus:
        raise LaunchError(
            f"{instance_type} has {instance.num_gpus} GPUs, but {found} are visible here; is the "
            "image built for CUDA (`rayasr image check`), and is the machine sound?"
        )


def check_folder(folder: Path) -> None:
    """See that Ray can work in a folder; raises LaunchError."""
    if len(os.fsencode(folder)) > _MAX_FOLDER:
        raise LaunchError(
            f"{folder} is too long for Ray's sockets; set RAYASR_TMP to a shorter folder"
        )
    free = shutil.disk_usage(folder).free
    if free < _MIN_FREE_BYTES:
        raise LaunchError(
            f"only {free / 1e6:.0f} MB are free in {folder}, where Ray keeps its temporary files; "
            "give the machine a larger volume (volume_gb)"
        )


def object_store_bytes(hosts_here: int, shm: str = "/dev/shm") -> int:
    """The size of this host's object store; `hosts_here` of them share the memory folder."""
    try:
        state = os.statvfs(shm)
        free = state.f_bavail * state.f_frsize
    except OSError:
        free = 0
    share = int(0.8 * free / hosts_here)
    # Where there is next to none (Docker gives 64 MB), Ray puts its store into the folder.
    return min(share, MAX_STORE_BYTES) if share >= _MIN_SHM_BYTES else _SMALL_STORE_BYTES


def num_cpus(given: str | None) -> int:
    """The CPUs Ray is told of: as many as given, else those this process may use."""
    if given is None:
        return len(os.sched_getaffinity(0))
    if not given.isascii() or not given.isdigit() or int(given) < 1:
        raise LaunchError(f"RAYASR_NUM_CPUS={given} is not a number of CPUs; write 1 or more")
    return int(given)
