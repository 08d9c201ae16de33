"""What Ray is told on a host, and what is made of its answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from launcher.host import ray_cluster
from launcher.host.ray_cluster import (
    RayNode,
    RayPlace,
    check_folder,
    check_gpus,
    cluster_environment,
    num_cpus,
    object_store_bytes,
)
from rayasr.errors import LaunchError

TOKEN = "7" * 64


class FakeChildren:
    """Takes down what would be started."""

    def __init__(self) -> None:
        self.command: Sequence[str] = ()
        self.environment: Mapping[str, str] = {}
        self.say: Callable[[str], None] = print

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        on_line: Callable[[str], None],
    ) -> None:
        assert name == "Ray"
        self.command, self.environment, self.say = command, environment, on_line


def make_node(children: FakeChildren, notify: Callable[[], None] = lambda: None) -> RayNode:
    environment = cluster_environment({"HOME": "/root"}, {}, TOKEN, "eth0")
    place = RayPlace("10.0.0.7", 8, 10**9, Path("/tmp/algo-1-x"), environment)
    return RayNode(children, place, notify, ("ray",))  # type: ignore[arg-type]


def test_head_is_told_all_it_needs() -> None:
    children = FakeChildren()
    make_node(children).start_head()
    assert children.command == [
        "ray",
        "start",
        "--block",
        "--head",
        "--port=6379",
        "--include-dashboard=false",
        "--node-ip-address=10.0.0.7",
        "--num-cpus=8",
        "--object-store-memory=1000000000",
        "--temp-dir=/tmp/algo-1-x",
        "--disable-usage-stats",
    ]
    assert children.environment["RAY_health_check_failure_threshold"] == "5"
    assert TOKEN not in " ".join(children.command)
    assert children.environment["RAY_AUTH_TOKEN"] == TOKEN


def test_others_join_it() -> None:
    children = FakeChildren()
    make_node(children).join("10.0.0.1")
    assert children.command[:4] == ["ray", "start", "--block", "--address=10.0.0.1:6379"]
    assert not {"--head", "--port=6379", "--include-dashboard=false"} & set(children.command)
    assert "RAY_health_check_period_ms" not in children.environment


def test_node_that_runs_is_noticed() -> None:
    children = FakeChildren()
    calls: list[None] = []
    node = make_node(children, lambda: calls.append(None))
    node.join("10.0.0.1")
    children.say("Local node IP: 10.0.0.7")
    assert calls == []
    children.say("Ray runtime started.")
    assert calls == [None]
    assert "10.0.0.7" in node.describe()
    assert "8 CPUs" in node.describe()


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ([], "`ray start` ended without a reason"),
        (
            ["Some Ray subprocesses exited unexpectedly:", "  raylet [exit code=-9]", "", "x" * 9],
            "Ray's raylet ended with SIGKILL",
        ),
        (["gcs_server [exit code=1]"], "Ray's gcs_server ended with exit code 1"),
        (
            ["Traceback (most recent call last):", "RuntimeError: Failed to connect to GCS."],
            "RuntimeError: Failed to connect to GCS.",
        ),
        (["ray.exceptions.AuthenticationError: no"], "ray.exceptions.AuthenticationError: no"),
    ],
)
def test_why_a_node_has_ended(lines: list[str], cause: str) -> None:
    children = FakeChildren()
    node = make_node(children)
    node.start_head()
    for line in lines:
        children.say(line)
    assert node.cause() == cause
    assert node.last_lines() == lines


def test_statistics_in_the_tail_of_a_log_are_left_out() -> None:
    """The lines are those of Ray 2.60 where stdout is no terminal."""
    children = FakeChildren()
    node = make_node(children)
    node.start_head()
    stamp = "2026-11-24 23:27:25,776\tERR scripts.py:87 -- "
    for line in (
        f"{stamp}raylet [exit code=-9]",
        f"{stamp}----- BEGIN raylet.out tail (exit code(s)=-9 (signal 9)) -----",
        f"{stamp}[state-dump] - num idle workers: 0",
        "[2026-11-24 23:26:46,693 I 17425 17425] (raylet) accessor.cc:475: Received address",
        "[2026-11-24 23:26:53,284 W 17237 17254] (raylet) x.cc:55: [1] Failed to get the load",
        "",
        f"{stamp}----- END raylet.out tail (exit code(s)=-9 (signal 9)) -----",
        f"{stamp}Remaining processes will be killed.",
    ):
        children.say(line)
    assert node.last_lines() == [
        "raylet [exit code=-9]",
        "----- BEGIN raylet.out tail (exit code(s)=-9 (signal 9)) -----",
        "[2026-11-24 23:26:53,284 W 17237 17254] (raylet) x.cc:55: [1] Failed to get the load",
        "----- END raylet.out tail (exit code(s)=-9 (signal 9)) -----",
        "Remaining processes will be killed.",
    ]
    assert node.cause() == "Ray's raylet ended with SIGKILL"


def test_environment_of_the_cluster() -> None:
    base = {"HOME": "/root", "RAY_ADDRESS": "elsewhere:1", "RAY_AUTH_TOKEN": "old"}
    job = {"NCCL_SOCKET_IFNAME": "eth7", "RAY_AUTH_MODE": "disabled", "X": "a\nb"}
    found = cluster_environment(base, job, TOKEN, "eth0")
    assert found["HOME"] == "/root"
    assert found["X"] == "a\nb"
    assert "RAY_ADDRESS" not in found
    assert (found["RAY_AUTH_MODE"], found["RAY_AUTH_TOKEN"]) == ("token", TOKEN)
    assert (found["NCCL_SOCKET_IFNAME"], found["GLOO_SOCKET_IFNAME"]) == ("eth7", "eth0")
    assert found["RAY_USAGE_STATS_ENABLED"] == "0"


def test_no_interface_no_choice() -> None:
    assert "GLOO_SOCKET_IFNAME" not in cluster_environment({}, {}, TOKEN, None)


@pytest.mark.parametrize(
    ("free", "hosts", "expected"),
    [
        (100e9, 1, 2 * 10**9),  # never more than we need
        (1e9, 1, 800_000_000),
        (3e9, 3, 800_000_000),  # hosts of one machine share
        (64 * 2**20, 1, 200_000_000),  # Docker's 64 MB: into the folder
        (0, 1, 200_000_000),
    ],
)
def test_object_store_fits_into_shared_memory(
    monkeypatch: pytest.MonkeyPatch, free: float, hosts: int, expected: int
) -> None:
    class State:
        f_bavail, f_frsize = int(free) // 4096, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: State)
    assert object_store_bytes(hosts) == pytest.approx(expected, rel=1e-3)


def test_object_store_without_shared_memory() -> None:
    assert object_store_bytes(1, "/nowhere") == 200_000_000


def test_cpus() -> None:
    assert num_cpus(None) == len(os.sched_getaffinity(0))
    assert num_cpus("3") == 3
    for given in ("0", "-1", "two", "", "٣"):
        with pytest.raises(LaunchError, match="is not a number of CPUs"):
            num_cpus(given)


def test_gpus_are_counted(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    for instance_type in (None, "ml.c5.xlarge", "ml.g4dn.xlarge", "ml.of-tomorrow.xlarge"):
        check_gpus(instance_type, str(tmp_path))
    with pytest.raises(LaunchError, match=r"ml\.g5\.12xlarge has 4 GPUs, but 2 are visible here"):
        check_gpus("ml.g5.12xlarge", str(tmp_path))


def test_folder_too_long_for_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 60)
    folder.mkdir()
    with pytest.raises(LaunchError, match="too long for Ray's sockets; set RAYASR_TMP"):
        check_folder(folder)


def test_folder_on_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 12_000_000

    monkeypatch.setattr(ray_cluster.shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(LaunchError, match="only 12 MB are free in /tmp"):
        check_folder(Path("/tmp"))
