"""The emulator as a command, and its hosts as Linux namespaces."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from launcher.contract import FileSystem
from launcher.emulator import processes
from launcher.emulator.faults import parse_fault
from tests.rehearsal import LEAVE_WHEN_ASKED, WAIT, Rehearsal, fsx_channel, rehearse, request

SYSTEM = "fs-0123456789"
VPC = {"VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}
CLI = "import typer, launcher.cli.emulator as c; a = typer.Typer(); c.register(a); a()"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")


@pytest.fixture(scope="module")
def namespaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    folder = tmp_path_factory.mktemp("fsx")
    systems = {SYSTEM: FileSystem(folder)}
    with rehearse(runner="namespaces", file_systems=systems, grace_s=0.5) as rehearsal:
        yield rehearsal
    assert spaces() == []
    assert list(Path("/opt/ml").iterdir()) == []


def spaces() -> list[str]:
    """The network namespaces that are ours."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if line.startswith(f"rayasr-{os.getpid()}")]


def inject(rehearsal: Rehearsal, text: str) -> None:
    rehearsal.emulator.faults.add(parse_fault(text))


@as_root
def test_hosts_are_machines_of_their_own_in_one_network(namespaces: Rehearsal) -> None:
    show = (
        "import socket\n"
        "names = [socket.gethostbyname(n) for n in ('algo-1', 'algo-2', 'algo-3')]\n"
        "config = json.loads((config / 'resourceconfig.json').read_text())\n"
        "pids = sorted(int(p.name) for p in Path('/proc').iterdir() if p.name.isdecimal())\n"
        "interfaces = sorted(name for _, name in socket.if_nameindex())\n"
        "print(json.dumps([os.getpid(), pids, socket.gethostname(), names, interfaces,\n"
        "    config['network_interface_name'], os.environ.get('RAYASR_ML_ROOT'), str(ml),\n"
        "    os.statvfs('/dev/shm').f_blocks * os.statvfs('/dev/shm').f_frsize]))\n"
    )
    meet = (
        "server = socket.create_server(('0.0.0.0', 7000)) if me == 'algo-1' else None\n"
        "if server:\n"
        "    got = []\n"
        "    for _ in range(2):\n"
        "        peer, address = server.accept(); got.append([peer.recv(9).decode(), address[0]])\n"
        "    print(json.dumps(sorted(got)))\n"
        "else:\n"
        "    for attempt in range(500):\n"
        "        try: peer = socket.create_connection(('algo-1', 7000), 1)\n"
        "        except OSError: time.sleep(0.01); continue\n"
        "        break\n"
        "    peer.sendall(me.encode()); peer.close()\n"
    )
    job = namespaces.run(show + meet, 3)
    lines = namespaces.lines(job["TrainingJobName"])
    assert job["TrainingJobStatus"] == "Completed"
    addresses = ["10.231.0.1", "10.231.0.2", "10.231.0.3"]
    for host in ("algo-1", "algo-2", "algo-3"):
        shared_memory = 2 * 1024**3
        assert json.loads(lines[host][0]) == [
            *(1, [1], host, addresses, ["eth0", "lo"], "eth0", None, "/opt/ml", shared_memory)
        ]
    assert json.loads(lines["algo-1"][1]) == [["algo-2", addresses[1]], ["algo-3", addresses[2]]]


@as_root
def test_file_systems_are_mounted_as_asked(namespaces: Rehearsal) -> None:
    script = (
        "data = ml / 'input/data'\n"
        "(data / 'work' / me).write_text('w')\n"
        "try: (data / 'read' / me).write_text('r')\n"
        "except OSError as error: print(error.strerror)"
    )
    channels = [
        fsx_channel("work", SYSTEM, "/rayasr"),
        fsx_channel("read", SYSTEM, "/rayasr", "ro"),
    ]
    job = namespaces.run(script, 2, InputDataConfig=channels, **VPC)
    name = job["TrainingJobName"]
    assert namespaces.lines(name)["algo-2"] == ["Read-only file system"]
    assert job["TrainingJobStatus"] == "Completed"
    assert list((namespaces.folder(name) / "input/data/work").iterdir()) == []  # mounts are inside


@as_root
def test_jobs_run_side_by_side(namespaces: Rehearsal) -> None:
    first = namespaces.start(LEAVE_WHEN_ASKED, 2)
    namespaces.until_line(first, "ready", "algo-2")
    assert namespaces.run("print(me)")["TrainingJobStatus"] == "Completed"
    namespaces.sagemaker.stop_training_job(TrainingJobName=first)
    job = namespaces.end(first)
    assert job["TrainingJobStatus"] == "Stopped"
    assert "Stopping" in [stage["Status"] for stage in job["SecondaryStatusTransitions"]]


@as_root
def test_a_first_process_without_a_handler_hears_no_sigterm(namespaces: Rehearsal) -> None:
    """As in a container: it is killed when the grace is over."""
    name = namespaces.start(WAIT)
    namespaces.until_line(name, "ready")
    began = time.monotonic()
    namespaces.sagemaker.stop_training_job(TrainingJobName=name)
    assert namespaces.end(name)["TrainingJobStatus"] == "Stopped"
    assert time.monotonic() - began >= 0.5


@as_root
def test_faults_strike_namespaces_too(namespaces: Rehearsal) -> None:
    script = (
        "import subprocess\n"
        "if me == 'algo-1': sys.exit(0)\n"
        "victim = subprocess.Popen(['sleep', '600'])\n"
        "print('ready', flush=True)\n"
        "print(victim.wait(), flush=True)\n"
        "for n in range(10**6): print('tick', n, flush=True); time.sleep(0.01)"
    )
    inject(namespaces, "kill-process:algo-2:sleep@log:ready")
    inject(namespaces, "kill-host:algo-2@log:tick 3")
    job = namespaces.run(script, 2)
    lines = namespaces.lines(job["TrainingJobName"])["algo-2"]
    assert lines[:3] == ["ready", "-9", "tick 0"]
    assert job["FailureReason"] == "AlgorithmError: , exit code: 137"
    inject(namespaces, "silent-host:algo-2@log:tick 3")
    inject(namespaces, "kill-process:algo-2:sleep@log:ready")
    assert namespaces.run(script, 2)["FailureReason"] == "AlgorithmError: , exit code: 137"


@as_root
def test_names_come_late_to_namespaces(namespaces: Rehearsal) -> None:
    script = (
        "import socket\n"
        "def known(name):\n"
        "    try: return socket.gethostbyname(name)\n"
        "    except OSError: return None\n"
        "print(known('algo-2'), flush=True)\n"
        "while not known('algo-2'): time.sleep(0.01)"
    )
    inject(namespaces, "slow-names@0.3s")
    job = namespaces.run(script, 2)
    assert namespaces.lines(job["TrainingJobName"])["algo-1"] == ["None"]
    assert job["TrainingJobStatus"] == "Completed"


@as_root
def test_leaving_removes_hosts_and_networks() -> None:
    with rehearse(runner="namespaces") as rehearsal:
        name = rehearsal.start(WAIT, 2)
        rehearsal.until_line(name, "ready", "algo-2")
        assert len(spaces()) >= 3
    assert spaces() == []
    listed = [
        processes.command_line(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdecimal()
    ]
    assert not [line for line in listed if f"rayasr-{os.getpid()}-" in line]


@contextmanager
def command(*arguments: str) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """`rayasr emulator up`, and the environment that it says a client needs."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLI, "emulator", "up", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    timer = threading.Timer(60, process.kill)
    timer.start()
    with process:
        lines = [process.stdout.readline() for _ in range(4)]
        try:
            yield process, dict(line.removeprefix("export ").strip().split("=") for line in lines)
        finally:
            process.terminate()
            process.wait()
            timer.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_answers_until_it_is_told_to_leave(
    tmp_path: Path, number: signal.Signals
) -> None:
    with command("--root", str(tmp_path), "--hosts", "2") as (process, environment):
        client = boto3.client(
            "sagemaker",
            environment["AWS_DEFAULT_REGION"],
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        )
        body: dict[str, Any] = request("job")
        client.create_training_job(**body)
        job = client.describe_training_job(TrainingJobName="job")
        assert job["TrainingJobStatus"] == "InProgress"
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "the jobs' files lie under" in process.stderr.read()
    (folder,) = tmp_path.iterdir()
    assert (folder / "us-east-1/job/1/algo-1/ml/input/config/resourceconfig.json").exists()
    assert not marked_processes(folder)


def marked_processes(folder: Path) -> list[int]:
    """Processes that have a folder in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if str(folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_port_that_is_taken_is_said() -> None:
    with command() as (_, environment):
        port = environment["AWS_ENDPOINT_URL"].rpartition(":")[2]
        second = subprocess.run(
            [sys.executable, "-c", CLI, "emulator", "up", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode != 0
    assert f"cannot listen at 127.0.0.1:{port} (Address already in use)" in second.stderr
