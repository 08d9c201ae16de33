"""Containers of a job: how they are made, ended and removed."""

import os
import signal
import threading
from pathlib import Path

import pytest

from launcher.docker.commands import DockerCli
from launcher.docker.run import Bind, Container, Containers, run_containers
from rayasr.errors import LaunchError
from tests.unit.launcher.fake_docker import FakeDocker

# A container that runs until it is told how to end, by `docker stop` or `docker kill`.
WAITING = """\
name = arguments[-1]
print("hello from", name, flush=True)
open({folder!r} + "/ready-" + name, "w").close()
with open({folder!r} + "/" + name) as fifo, open({folder!r} + "/code-" + name, "w") as code:
    code.write(fifo.read())"""
ENDED = "print(open({folder!r} + '/code-' + arguments[-1]).read())"
STOPPING = """\
for name in arguments[arguments.index("120") + 1:]:
    with open({folder!r} + "/" + name, "w") as fifo:
        fifo.write("7")"""
KILLING = """\
for name in arguments[1:]:
    with open({folder!r} + "/" + name, "w") as fifo:
        fifo.write("137")"""


def containers(tmp_path: Path, hosts: int = 2, gpus: tuple[int, ...] = ()) -> Containers:
    binds = (Bind(tmp_path / "a,b", "/opt/ml"), Bind(tmp_path, "/opt/ml/input/data/x", True))
    members = tuple(Container(f"algo-{n + 1}", binds, gpus) for n in range(hosts))
    return Containers("job", "rayasr", members, {"A": "$(x) 语"}, 2**30)


def waiting(tmp_path: Path, **others: str) -> FakeDocker:
    """Containers that wait for their end; each opens its `ready-` when it runs."""
    for name in ("job-algo-1", "job-algo-2", "ready-job-algo-1", "ready-job-algo-2", "stopping"):
        os.mkfifo(tmp_path / name)
    answers = {"logs": WAITING, "wait": ENDED} | others
    return FakeDocker(
        tmp_path, {key: value.format(folder=str(tmp_path)) for key, value in answers.items()}
    )


def run(fake: FakeDocker, job: Containers, time_limit_s: float = 60) -> tuple[dict, list]:
    lines: list[tuple[str, str]] = []
    codes = run_containers(
        DockerCli(fake.environment),
        job,
        time_limit_s,
        lambda host, line: lines.append((host, line)),
    )
    return codes, sorted(lines)


def test_codes_and_lines_of_every_host(tmp_path: Path) -> None:
    fake = FakeDocker(
        tmp_path, {"logs": "print(arguments[-1], 'ü')", "wait": "print(arguments[-1][-1])"}
    )
    codes, lines = run(fake, containers(tmp_path))
    assert codes == {"algo-1": 1, "algo-2": 2}
    assert lines == [("algo-1", "job-algo-1 ü"), ("algo-2", "job-algo-2 ü")]
    verbs = [call[0] for call in fake.calls]
    assert verbs[:4] == ["network", "create", "create", "start"]
    assert fake.calls[-2:] == [
        ["rm", "--force", "--volumes", "job-algo-1", "job-algo-2"],
        ["network", "rm", "job"],
    ]


def test_what_makes_a_container(tmp_path: Path) -> None:
    job = containers(tmp_path, gpus=(0, 2))
    arguments = job.create_arguments(job.members[1])
    assert arguments[-2:] == ["rayasr", "train"]
    flags = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert flags["--name"] == "job-algo-2"
    assert flags["--network-alias"] == flags["--hostname"] == "algo-2"
    assert flags["--network"] == "job"
    assert flags["--gpus"] == '"device=0,2"'
    assert flags["--shm-size"] == str(2**30)
    assert flags["--stop-timeout"] == "120"
    assert flags["--env"] == "A=$(x) 语"
    assert f'type=bind,"source={tmp_path}/a,b",target=/opt/ml' in arguments
    assert f"type=bind,source={tmp_path},target=/opt/ml/input/data/x,readonly" in arguments
    assert "--gpus" not in containers(tmp_path).create_arguments(containers(tmp_path).members[0])


def test_a_container_that_cannot_be_made(tmp_path: Path) -> None:
    program = "if 'job-algo-2' in arguments: sys.exit('no room')"
    fake = FakeDocker(tmp_path, {"create": program})
    with pytest.raises(LaunchError, match="docker create: no room"):
        run(fake, containers(tmp_path))
    assert fake.calls[-2:] == [
        ["rm", "--force", "--volumes", "job-algo-1"],
        ["network", "rm", "job"],
    ]
    assert "start" not in [call[0] for call in fake.calls]


def test_a_container_that_cannot_start(tmp_path: Path) -> None:
    program = "sys.exit('Error response from daemon: exec: train: not found')"
    fake = FakeDocker(tmp_path, {"start": program})
    with pytest.raises(LaunchError, match="docker start: exec: train: not found"):
        run(fake, containers(tmp_path))
    assert [call[0] for call in fake.calls[-3:]] == ["start", "rm", "network"]


def test_a_container_that_somebody_removed(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"wait": "sys.exit('No such container')"})
    codes, lines = run(fake, containers(tmp_path, hosts=1))
    assert codes == {"algo-1": 6}
    assert lines == [("algo-1", "docker wait: No such container")]


def test_a_network_that_cannot_be_made(tmp_path: Path) -> None:
    fake = FakeDocker(tmp_path, {"network create": "sys.exit('taken')"})
    with pytest.raises(LaunchError, match="docker network: taken"):
        run(fake, containers(tmp_path))
    assert len(fake.calls) == 1  # another's network is not removed


def test_what_cannot_be_removed_is_said(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    fake = FakeDocker(tmp_path, {"rm": "sys.exit('busy')", "wait": "print(0)"})
    codes, _ = run(fake, containers(tmp_path, hosts=1))
    assert codes == {"algo-1": 0}
    assert "job: left behind: docker rm: busy" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all(tmp_path: Path, number: signal.Signals) -> None:
    fake = waiting(tmp_path, stop=STOPPING)

    def send() -> None:
        for name in ("job-algo-1", "job-algo-2"):
            (tmp_path / f"ready-{name}").open().close()
        os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    before = signal.getsignal(number)
    codes, _ = run(fake, containers(tmp_path))
    sender.join()
    assert codes == {"algo-1": 7, "algo-2": 7}
    stops = [call for call in fake.calls if call[0] == "stop"]
    assert stops == [["stop", "-t", "120", "job-algo-1", "job-algo-2"]]
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_all(tmp_path: Path) -> None:
    fake = waiting(tmp_path, stop="open({folder!r} + '/stopping', 'w').close()", kill=KILLING)

    def send() -> None:
        (tmp_path / "ready-job-algo-1").open().close()
        os.kill(os.getpid(), signal.SIGINT)
        (tmp_path / "stopping").open().close()  # asked to, but the container does not leave
        os.kill(os.getpid(), signal.SIGINT)

    sender = threading.Thread(target=send)
    sender.start()
    codes, _ = run(fake, containers(tmp_path, hosts=1))
    sender.join()
    assert codes == {"algo-1": 137}


def test_the_time_limit_stops_all(tmp_path: Path) -> None:
    fake = waiting(tmp_path, stop=STOPPING)

    def listen() -> None:
        for name in ("job-algo-1", "job-algo-2"):
            (tmp_path / f"ready-{name}").open().close()

    listener = threading.Thread(target=listen)
    listener.start()
    with pytest.raises(LaunchError, match=r"stopped at its time limit of 0\.1 s; run it again"):
        run(fake, containers(tmp_path), time_limit_s=0.1)
    listener.join()
    assert fake.calls[-1] == ["network", "rm", "job"]
