"""Jobs of several hosts under the emulator, for the benchmarks that rehearse SageMaker."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml

from launcher.contract import FileSystem
from launcher.emulator.options import Options
from launcher.emulator.server import Emulator, run_emulator
from launcher.spec import JobSpec

FILE_SYSTEM = "fs-0123456789abcdef0"
REGION = "eu-central-1"


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    code: int  # of `rayasr launch`
    status: dict[str, Any]  # of `rayasr jobs status --json`
    log: list[tuple[float, str]]  # seconds since the epoch, "algo-1 | …"
    seconds: float

    def time_of(self, text: str, last: bool = False) -> float | None:
        """When a line with that text was written."""
        times = [when for when, line in self.log if text in line]
        return (times[-1] if last else times[0]) if times else None


@dataclass
class Place:
    """A running emulator and the folder that plays the shared file system."""

    emulator: Emulator
    shared: Path
    notes: list[tuple[float, str]] = field(default_factory=list)

    def note_time(self, text: str) -> float | None:
        """When the emulator said something; the last time."""
        return next((when for when, line in reversed(self.notes) if text in line), None)

    def launch(self, name: str, command: list[str], **fields: Any) -> Outcome:
        """Run a job to its end, by the command line."""
        path = self.shared.parent / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job(name, command, **fields)))
        began = time.time()
        endpoint = ("--endpoint-url", self.emulator.url)
        code = rayasr("launch", str(path), "--on", "sagemaker", "--yes", *endpoint).returncode
        seconds = time.time() - began
        last = rayasr("jobs", "status", "last", "--json", *endpoint)
        status = json.loads(last.stdout) if last.returncode == 0 else {}
        return Outcome(code, status, self.log(status.get("name", "")), seconds)

    def log(self, name: str) -> list[tuple[float, str]]:
        """All lines of a job, by time."""
        import boto3

        logs = boto3.client(
            "logs",
            endpoint_url=self.emulator.url,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        group = "/aws/sagemaker/TrainingJobs"
        lines = []
        try:
            streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")
        except logs.exceptions.ResourceNotFoundException:
            return []
        for stream in streams["logStreams"]:
            token: dict[str, str] = {}
            while True:
                found = logs.get_log_events(
                    logGroupName=group,
                    logStreamName=stream["logStreamName"],
                    startFromHead=True,
                    **token,
                )
                lines += [
                    (event["timestamp"] / 1000, event["message"]) for event in found["events"]
                ]
                if token.get("nextToken") == found["nextForwardToken"]:
                    break
                token = {"nextToken": found["nextForwardToken"]}
        return sorted(lines)


def job(name: str, command: list[str], **fields: Any) -> dict[str, Any]:
    """A job file for three hosts that share one file system."""
    return {
        "name": name,
        "command": command,
        "channels": {"data": {"access": "write", "fsx": {"id": FILE_SYSTEM, "path": "/data"}}},
        "time_limit": "20m",
        "sagemaker": {
            "region": REGION,
            "role": "arn:aws:iam::123456789012:role/rayasr-job",
            "image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/rayasr:latest",
            "output": "s3://my-bucket/rayasr",
            "instance_type": "ml.c5.xlarge",
            "instance_count": 3,
            "vpc": {
                "subnets": ["subnet-0123456789abcdef0"],
                "security_groups": ["sg-0123456789abcdef0"],
            },
        }
        | fields.pop("sagemaker", {}),
    } | fields


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
    notes: list[tuple[float, str]] = []
    settings = Options(
        num_hosts=3,
        runner=runner,
        file_systems={FILE_SYSTEM: FileSystem(shared)},
        root=folder / "hosts",
        job_files=[JobSpec.model_validate(job("any", ["train"]))],
        **options,
    )
    with run_emulator(settings, os.environ, lambda text: notes.append((time.time(), text))) as it:
        yield Place(it, shared, notes)


def rayasr(*arguments: str, quiet: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a verb; its output is kept unless `quiet` is false."""
    command = [sys.executable, "-m", "rayasr", *arguments]
    return subprocess.run(command, capture_output=quiet, text=True, check=False)
