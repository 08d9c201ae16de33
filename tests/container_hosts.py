"""Hosts of a job as processes on loopback addresses, with small programs for Ray and rayasr."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from launcher.job_file import DIGEST_VARIABLE, JobFile, sha256

TOKEN = "0123456789abcdef" * 4
_numbers = itertools.count(1)

RAY = """
import os, signal, sys
root = os.environ["RAYASR_ML_ROOT"]
def die(*_):  # as `ray start --block` when one of its processes has ended
    print("2026-11-24 23:27:25,776\\tERR scripts.py:87 -- raylet [exit code=-9]", flush=True)
    os._exit(1)
signal.signal(signal.SIGUSR1, die)
open(root + "/ray.json", "w").write(repr([os.getpid(), sys.argv[1:], dict(os.environ)]))
if os.path.exists(root + "/broken"):
    sys.exit("RuntimeError: Failed to connect to GCS.")
print("Ray runtime started.", flush=True)
while True:
    signal.pause()
"""
RAYASR = """
import json, os, pathlib, signal, sys, time
root = pathlib.Path(os.environ["RAYASR_ML_ROOT"])
def record(**found):
    (root / "command.json").write_text(json.dumps(found))
def save(*_):
    pids = [eval(path.read_text())[0] for path in root.parent.glob("*/ray.json")]
    for pid in pids:
        os.kill(pid, 0)  # raises where a host has not kept its Ray node
    record(saved_with=len(pids))
    sys.exit(143)
verb, *arguments = sys.argv[1:]
if verb == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if verb == "train":
    signal.signal(signal.SIGTERM, save)
record(arguments=arguments, environment=dict(os.environ))
if verb == "fail":
    print(arguments[1], flush=True)
    sys.exit(int(arguments[0]))
while verb in ("train", "deaf") and not (root / "enough").exists():
    time.sleep(0.01)
"""
HOST = """
import json, os, sys
from launcher.host.main import run_host
from launcher.host.host import Settings
from launcher.host.link import LinkTimes
given = json.loads(os.environ.pop("TEST_SETTINGS"))
program = (sys.executable, "-S", "-c")
settings = Settings(
    ray=(*program, given.pop("ray")),
    rayasr=(*program, given.pop("rayasr")),
    link=LinkTimes(**given.pop("link")),
    **given,
)
sys.exit(run_host(os.environ, settings))
"""
LINK = {"heartbeat_s": 0.05, "silence_s": 20.0, "farewell_s": 1.0}


class Hosts:
    """The hosts algo-1 … algo-N of one job, each with its own contract folder."""

    def __init__(self, folder: Path, count: int, **settings: Any) -> None:
        self.folder = folder
        self.names = [f"algo-{number}" for number in range(1, count + 1)]
        net = f"127.{os.getpid() % 200 + 10}.{next(_numbers)}"
        self.addresses = {name: f"{net}.{i}" for i, name in enumerate(self.names, 2)}
        self.settings = {"boot_s": 30.0, "cause_s": 0.3, "lost_grace_s": 0.3, "link": LINK}
        self.settings |= {"ray": RAY, "rayasr": RAYASR, **settings}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._scratch = tempfile.TemporaryDirectory(dir="/tmp")  # short, as for Ray's sockets

    def root(self, name: str) -> Path:
        return self.folder / name

    def write(self, *command: str, code: dict[str, str] | None = None, **fields: Any) -> None:
        """Write every host's contract files, for a job that runs a command."""
        files = {} if code is None else {"code.tar.gz": pack(code)}
        job = JobFile(
            **{
                "name": "job",
                "command": command,
                "channels": {},
                "run": None,
                "environment": {},
                "token": TOKEN,
                "head_group": None,
                "num_hosts": len(self.names),
                "on_lost_host": "fail",
                "time_limit_s": 60,
                "files": {name: sha256(content) for name, content in files.items()},
            }
            | fields
        )
        for name in self.names:
            self.write_job(name, job, files)
            config = self.root(name) / "input/config"
            config.mkdir(parents=True)
            resources = {"current_host": name, "hosts": self.names, "network_interface_name": "lo"}
            (config / "resourceconfig.json").write_text(json.dumps(resources))

    def write_job(self, name: str, job: JobFile, files: dict[str, bytes] | None = None) -> None:
        channel = self.root(name) / "input/data/rayasr-job"
        channel.mkdir(parents=True, exist_ok=True)
        for file, content in {**(files or {}), "job.json": job.to_json()}.items():
            (channel / file).write_bytes(content)

    def read_job(self, name: str) -> JobFile:
        return JobFile.from_json((self.root(name) / "input/data/rayasr-job/job.json").read_bytes())

    def start(self, *names: str, **environment: str) -> None:
        """Start hosts, all by default."""
        for name in names or self.names:
            job = self.root(name) / "input/data/rayasr-job/job.json"
            given = {
                "PATH": os.environ["PATH"],
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "RAYASR_ML_ROOT": str(self.root(name)),
                "RAYASR_HOST_ADDRESSES": ",".join(map("=".join, self.addresses.items())),
                "RAYASR_TMP": self._scratch.name,
                "TEST_SETTINGS": json.dumps(self.settings),
                DIGEST_VARIABLE: sha256(job.read_bytes()) if job.exists() else "",
            }
            with (self.root(name) / "log").open("wb") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-c", HOST],
                    env=given | environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    def codes(self) -> list[int]:
        """The exit codes, when all hosts have left."""
        return [process.wait(60) for process in self.processes.values()]

    def send(self, number: signal.Signals, *names: str) -> None:
        for name in names or list(self.processes):
            self.processes[name].send_signal(number)

    def send_ray(self, number: signal.Signals, name: str) -> None:
        os.kill(self.ray(name)[0], number)

    def log(self, name: str) -> str:
        return (self.root(name) / "log").read_text(encoding="utf-8")

    def failure(self, name: str) -> str:
        return (self.root(name) / "output/failure").read_text(encoding="utf-8")

    def ray(self, name: str) -> Any:
        """Process id, arguments and environment of a host's Ray."""
        return eval((self.root(name) / "ray.json").read_text())

    def command(self) -> Any:
        """What the command has written down on the head."""
        return json.loads((self.root(self.names[0]) / "command.json").read_text())

    def wait_for_log(self, name: str, text: str) -> None:
        until(lambda: text in self.log(name), lambda: self.log(name))

    def wait_for_command(self) -> None:
        until((self.root(self.names[0]) / "command.json").exists, lambda: self.log(self.names[0]))

    def leftovers(self) -> list[str]:
        """Temporary files that are still there."""
        return [path.name for path in Path(self._scratch.name).iterdir()]

    def end(self) -> None:
        """Leave nothing behind, whatever the test has done."""
        for process in self.processes.values():
            process.kill()
            process.wait()
            for pid in of_session(process.pid):
                os.kill(pid, signal.SIGKILL)
        self._scratch.cleanup()


def until(condition: Callable[[], bool], explain: Callable[[], str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def of_session(session: int) -> list[int]:
    """The processes that a host has started and that outlived it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(folder.name))
    return found


def pack(files: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()
