"""One Ray session per command: joins the cluster of RAY_ADDRESS, or starts a private one here."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rayasr import storage
from rayasr.errors import DataError, LaunchError, first_line
from rayasr.logs import note

MAX_TASK_RETRIES = 3
"""Times that a task is begun again after its process or its host is lost; Ray Data: for ever."""
OBJECT_STORE_BYTES = 2 * 10**9
"""Ray's default is 30 % of the memory; only metadata goes through our object store."""

REACH_TIMEOUT_S = 10.0
NODES_TIMEOUT_S = 20.0

_DRIVER_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A silent host is noticed after 9 s; by default Ray Data would wait for seven minutes.
    "RAY_grpc_client_keepalive_time_ms": "5000",
    "RAY_grpc_client_keepalive_timeout_ms": "5000",
    # How often Ray Train's controller looks, 3 ms of CPU each; a report waits for one such look.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # How long an elastic run waits for a lost host before it goes on without it.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}
_PRIVATE_SETTINGS = {
    # Ray's only switch to listen on 127.0.0.1 alone; it works on Linux too.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "OMP_WAIT_POLICY": "passive",  # spinning threads cost four times the CPU on shared cores
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one machine is not drained
    # Ray starts workers at niceness 15: beside anything else that computes they would starve.
    "RAY_worker_niceness": "0",
}


@contextmanager
def connect(
    *, num_cpus: int | None = None, log_to_driver: bool = False, with_dashboard: bool = False
) -> Iterator[dict[str, Any]]:
    """Connect to Ray for the length of a `with`; yields {"private", "cpus", "gpus", "nodes"}.

    Joins the cluster RAY_ADDRESS names, else starts one on this machine that listens on 127.0.0.1
    and ends with the `with`. `num_cpus` counts for a private one only (default: the CPUs there
    are). A session that is open already is used and left open. Raises LaunchError.
    """
    address = set_environment()
    import ray  # after the settings: some are read on import

    if ray.is_initialized():
        yield _describe(private=False)
        return
    if address:
        _check_reachable(address)
    quiet = {"logging_level": logging.ERROR, "log_to_driver": log_to_driver}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(
                address="local",
                num_cpus=num_cpus or available_cpus(),
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=with_dashboard,
                **quiet,
            )
    except Exception as error:  # Ray raises a dozen kinds of its own, ConnectionError the mildest
        first = first_line(error)
        if address:
            raise LaunchError(_cannot_join(address, first)) from error
        raise LaunchError(f"cannot start Ray on this machine: {first}") from error
    with _interrupted_once():
        try:
            if address and "RAYASR_NUM_NODES" in os.environ:  # set by a job of several hosts
                wait_for_nodes(int(os.environ["RAYASR_NUM_NODES"]))
            yield _describe(private=not address)
        finally:
            ray.shutdown()


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes, and say nothing, where nobody listens."""
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return  # "auto", or Ray's client
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_TIMEOUT_S).close()
    except OSError as error:
        raise LaunchError(_cannot_join(address, error.strerror or str(error))) from error


def _cannot_join(address: str, reason: str) -> str:
    return (
        f"cannot join the Ray cluster at RAY_ADDRESS={address} ({reason}); start it with "
        "`ray start --head`, or unset RAY_ADDRESS to use this machine"
    )


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C end the work and no further one disturb the orderly end of Ray."""
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or before is not signal.default_int_handler:  # training has its own handler
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # to the end of the process
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is stop:
            signal.signal(signal.SIGINT, before)


def set_environment() -> str | None:
    """Set what Ray reads from the environment, some of it on import; returns RAY_ADDRESS."""
    address = os.environ.get("RAY_ADDRESS")
    for key, value in (_DRIVER_SETTINGS | ({} if address else _PRIVATE_SETTINGS)).items():
        os.environ.setdefault(key, value)
    return address


def wait_for_nodes(
    count: int, *, timeout_s: float = NODES_TIMEOUT_S, notes: Callable[[str], None] = note
) -> None:
    """Wait until the cluster has `count` live nodes, or says that it goes on with fewer.

    The launcher starts a command only when every host is up, so one that is missing was lost.
    """
    deadline = time.monotonic() + timeout_s
    told = -1
    while (alive := len(live_nodes())) < count:
        if time.monotonic() > deadline:
            notes(f"the cluster has {alive} of {count} nodes; going on with these")
            return
        if alive != told:
            notes(f"waiting for the cluster: {alive} of {count} nodes are there")
            told = alive
        time.sleep(0.5)


def live_nodes() -> list[dict[str, Any]]:
    """Ray's records of the nodes that are alive, the driver's included."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def ask_every_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """What `function(*arguments)` returns on each live node, by the node's host name.

    A node that is lost meanwhile gives no answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in live_nodes():
        pinned = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        task = ray.remote(num_cpus=0, scheduling_strategy=pinned)(function)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        if name in asked:  # several nodes on one machine
            name += f" {node['NodeID'][:8]}"
        asked[name] = task.remote(*arguments)
    lost = (
        ray.exceptions.TaskUnschedulableError,
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
    )
    answers = {}
    for name, answer in asked.items():
        with suppress(*lost):
            answers[name] = ray.get(answer)
    return answers


def check_shared(paths: Sequence[str], folder: str, what: str) -> None:
    """Raise DataError where a node does not see all paths and the folder that it writes to."""
    marker = storage.join(folder, f".seen-{uuid.uuid4().hex}")
    wanted = list(paths)
    if not storage.is_remote(folder):
        storage.write_atomic(marker, "")
        wanted.append(marker)
    try:
        for host, missing in ask_every_node(missing_paths, wanted).items():
            if missing:
                place = missing[0] if missing[0] != marker else folder
                raise DataError(
                    f"host {host} does not see {place}; {what} must be on storage that "
                    f"all {len(live_nodes())} hosts mount under the same path"
                )
    finally:
        storage.remove(marker)


def missing_paths(paths: Sequence[str]) -> list[str]:
    """Those that do not exist on this host."""
    return [path for path in paths if not Path(path).exists()]


def explain_loss(error: Exception, advice: str) -> Exception:
    """A DataError where the processes of one shard died again and again; else the error itself.

    Any other error of a task is a bug and stays as it is.
    """
    import ray

    died = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)
    if isinstance(error, died) or "worker died" in str(error).lower():
        return DataError(
            f"worker processes died {MAX_TASK_RETRIES + 1} times over one shard, most likely for "
            f"lack of memory; {advice}"
        )
    return error


def set_up_data() -> None:
    """Have Ray Data keep quiet, and start tasks as soon as there is room for them."""
    import ray

    context = ray.data.DataContext.get_current()
    context.op_resource_reservation_enabled = False  # else the first task runs alone to its end
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _describe(private: bool) -> dict[str, Any]:
    import ray

    resources = ray.cluster_resources()
    return {
        "private": private,
        "cpus": int(resources.get("CPU", 0)),
        "gpus": int(resources.get("GPU", 0)),
        "nodes": len(live_nodes()),
    }
