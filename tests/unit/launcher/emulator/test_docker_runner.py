"""Containers of a job, with a `docker` that notes what it is asked."""

import itertools
import queue
from pathlib import Path

import pytest

from launcher.contract import Mount, lay_out, write_contract
from launcher.emulator.containers import Task
from launcher.emulator.docker_runner import DockerRunner
from rayasr.errors import LaunchError
from tests.rehearsal import request
from tests.unit.launcher.fake_docker import FakeDocker

TASK = Task({"X": "$(x) 语"}, "rayasr:1")


def run_both(tmp_path: Path, fake: FakeDocker, task: Task) -> tuple[list[str], list[int]]:
    """Two hosts to their end: their lines and codes."""
    mounts = (Mount(tmp_path / "fsx", "input/data/work", read_only=True),)
    hosts = lay_out(request("job", hosts=2), tmp_path / "job", mounts)
    cluster = DockerRunner("rehearsal", fake.environment).make_cluster("7", hosts, names_known=True)
    lines: list[str] = []
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    for host in hosts:
        write_contract(host, hosts, request("job"), "eth0")
        cluster.start(host, task).follow(lines.append, codes.put)
    ended = sorted(codes.get(timeout=20) for _ in hosts)
    cluster.close()
    return sorted(lines), ended


def test_hosts_are_containers_in_a_network_of_their_own(tmp_path: Path) -> None:
    name = "arguments[arguments.index('--hostname') + 1]"
    script = f"print('hello from', {name}); sys.exit(137 if {name} == 'algo-2' else 0)"
    fake = FakeDocker(tmp_path, {"run": script, "kill": "sys.exit(1)"})
    lines, codes = run_both(tmp_path, fake, TASK)
    assert lines == ["hello from algo-1", "hello from algo-2"]
    assert codes == [0, 137]
    calls = [call for call in fake.calls if call[0] != "kill"]
    assert calls[0] == ["network", "create", "--internal", "rehearsal-7"]
    first = next(call for call in calls if "rehearsal-7-algo-1" in call and call[0] == "run")
    folder = tmp_path.resolve()
    assert first == [
        *("run", "--name", "rehearsal-7-algo-1", "--hostname", "algo-1", "--shm-size", "2g"),
        *("--network", "rehearsal-7", "--network-alias", "algo-1"),
        *("--mount", f"type=bind,source={folder}/job/algo-1/ml,target=/opt/ml"),
        "--mount",
        f"type=bind,source={folder}/fsx,target=/opt/ml/input/data/work,readonly",
        *("--env", "X=$(x) 语", "rayasr:1", "train"),
    ]
    assert calls[-3:] == [
        ["rm", "--force", "--volumes", "rehearsal-7-algo-1"],
        ["rm", "--force", "--volumes", "rehearsal-7-algo-2"],
        ["network", "rm", "rehearsal-7"],
    ]


def test_hosts_are_told_what_this_machine_can_do(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {})
    fake.environment |= {"RAYASR_NUM_CPUS": "1", "RAYASR_BOOT_TIMEOUT_S": "90", "LANG": "C"}
    run_both(tmp_path, fake, Task({"RAYASR_BOOT_TIMEOUT_S": "60"}, "rayasr:1"))
    call = next(call for call in fake.calls if call[0] == "run")
    given = [value for flag, value in itertools.pairwise(call) if flag == "--env"]
    assert given == ["RAYASR_NUM_CPUS=1", "RAYASR_BOOT_TIMEOUT_S=60"]


def test_another_entrypoint_replaces_the_images(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {})
    run_both(tmp_path, fake, Task({}, "rayasr:1", ("python3", "-m", "x"), ("a b",)))
    call = next(call for call in fake.calls if call[0] == "run")
    assert call[-6:] == ["--entrypoint", "python3", "rayasr:1", "-m", "x", "a b"]


def test_signals_go_through_the_engine(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"top": "print('PID\\n12\\n345')"})
    (host,) = lay_out(request("job"), tmp_path / "job")
    cluster = DockerRunner("rehearsal", fake.environment).make_cluster(
        "7", [host], names_known=True
    )
    container = cluster.start(host, TASK)
    codes: queue.SimpleQueue[int] = queue.SimpleQueue()
    container.follow(lambda _: None, codes.put)
    codes.get(timeout=20)
    container.terminate()
    container.kill()
    assert container.kill_matching("no process has such a command line") == 0
    assert ["kill", "--signal", "TERM", "rehearsal-7-algo-1"] in fake.calls
    assert ["kill", "--signal", "KILL", "rehearsal-7-algo-1"] in fake.calls
    assert ["top", "rehearsal-7-algo-1", "-eo", "pid"] in fake.calls


def test_what_docker_cannot_do_is_said(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"version": "print('no engine', file=sys.stderr); sys.exit(1)"})
    runner = DockerRunner("rehearsal", fake.environment)
    with pytest.raises(LaunchError, match="docker version: no engine"):
        runner.check()
    with pytest.raises(LaunchError, match="slow-names goes with the runners"):
        runner.make_cluster("7", [], names_known=False)
