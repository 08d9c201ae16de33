"""Jobs of several hosts under the emulator, for the benchmarks that rehearse SageMaker."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from launcher.aws.logs import LogReader
from launcher.aws.session import Aws
from launcher.contract import FileSystem
from launcher.emulator.options import Options
from launcher.emulator.server import Emulator, run_emulator
from launcher.spec import JobSpec
from tests.cloud_jobs import FILE_SYSTEM, REGION, cluster_job

NUM_HOSTS = 3
Lines = list[tuple[float, str]]
"""Seconds since the epoch, and what was said then."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    code: int  # of `rayasr launch`
    status: dict[str, Any]  # of `rayasr jobs status --json`
    log: Lines  # "algo-1 | …"
    seconds: float

    def time_of(self, text: str, last: bool = False) -> float | None:
        """When a line with that text was written."""
        times = [when for when, line in self.log if text in line]
        return (times[-1] if last else times[0]) if times else None


@dataclass(frozen=True)
class Place:
    """A running emulator and the folder that plays the shared file system."""

    emulator: Emulator
    shared: Path
    notes: Lines  # of the emulator

    def note_time(self, text: str) -> float | None:
        """When the emulator said something; the last time."""
        return next((when for when, line in reversed(self.notes) if text in line), None)

    def launch(self, name: str, command: list[str], **fields: Any) -> Outcome:
        """Run a job to its end, by the command line."""
        path = self.shared.parent / f"{name}.yaml"
        path.write_text(yaml.safe_dump(cluster_job(NUM_HOSTS, name, command, **fields)))
        began = time.time()
        endpoint = ("--endpoint-url", self.emulator.url)
        code = rayasr("launch", str(path), "--on", "sagemaker", "--yes", *endpoint).returncode
        seconds = time.time() - began
        status = json.loads(rayasr("jobs", "status", "last", "--json", *endpoint).stdout)
        reader = LogReader(Aws(region=REGION, endpoint_url=self.emulator.url), status["name"])
        log = [(line.time.timestamp(), line.text) for line in reader.lines()]
        return Outcome(code, status, log, seconds)


@contextmanager
def cluster(folder: Path, runner: str, **options: Any) -> Iterator[Place]:
    """An emulator with three hosts, and a file system below `folder`."""
    shared = folder / "fsx"
    (shared / "data").mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_WAIT_POLICY": "passive",
        "RAYASR_NUM_CPUS": "1",  # one worker on each host, as with one GPU each
    }
    notes: Lines = []
    settings = Options(
        num_hosts=NUM_HOSTS,
        runner=runner,
        file_systems={FILE_SYSTEM: FileSystem(shared)},
        root=folder / "hosts",
        job_files=[JobSpec.model_validate(cluster_job(NUM_HOSTS, "any", ["train"]))],
        **options,
    )
    with run_emulator(settings, os.environ, lambda text: notes.append((time.time(), text))) as it:
        yield Place(it, shared, notes)


def rayasr(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a verb; what it printed, and its exit code."""
    command = [sys.executable, "-m", "rayasr", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)
