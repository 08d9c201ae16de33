"""An emulator in this process, and jobs whose hosts run a small Python script."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import boto3

from launcher.aws.logs import LOG_GROUP
from launcher.emulator.options import Options
from launcher.emulator.server import Emulator, run_emulator

REGION = "eu-central-1"
BUCKET = "bucket"
OVER = ("Completed", "Failed", "Stopped")
# The script comes as a hyperparameter; it finds its host in `me` and its /opt/ml in `ml`.
PROGRAM = (
    sys.executable,
    "-S",
    "-c",
    "import json, os, signal, sys, time\n"
    "from pathlib import Path\n"
    "ml = Path(os.environ.get('RAYASR_ML_ROOT', '/opt/ml'))\n"
    "config = ml / 'input/config'\n"
    "me = json.loads((config / 'resourceconfig.json').read_text())['current_host']\n"
    "parameters = json.loads((config / 'hyperparameters.json').read_text())\n"
    "exec(json.loads(parameters['script']))",
    "train",
)
WAIT = "print('ready', flush=True); signal.pause()"
"""A host that only a signal ends; the first line says that it runs."""
LEAVE_WHEN_ASKED = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + WAIT


class Rehearsal:
    """Clients of an emulator, and what tests ask of it again and again."""

    def __init__(self, emulator: Emulator, notes: list[str]) -> None:
        self.emulator = emulator
        self.notes = notes
        self.sagemaker = self.client("sagemaker")
        self.logs = self.client("logs")
        self.s3 = self.client("s3")
        self._num_jobs = 0

    def client(self, service: str, region: str = REGION) -> Any:
        return _session().client(service, region, endpoint_url=self.emulator.url)

    def start(self, script: str, hosts: int = 1, **fields: Any) -> str:
        """Create a job; its name."""
        self._num_jobs += 1
        body = request(f"job-{self._num_jobs}", script, hosts) | fields
        self.sagemaker.create_training_job(**body)
        return str(body["TrainingJobName"])

    def run(self, script: str, hosts: int = 1, **fields: Any) -> dict[str, Any]:
        """A job from its start to its end."""
        return self.end(self.start(script, hosts, **fields))

    def end(self, name: str) -> dict[str, Any]:
        """What is said of a job when it is over."""
        return self.until(name, lambda job: job["TrainingJobStatus"] in OVER)

    def until(self, name: str, wanted: Any) -> dict[str, Any]:
        """What is said of a job as soon as it is as `wanted`."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            job: dict[str, Any] = self.sagemaker.describe_training_job(TrainingJobName=name)
            if wanted(job):
                return job
            time.sleep(0.01)
        raise AssertionError(f"{name} stays as it is: {job}")

    def until_line(self, name: str, line: str, host: str = "algo-1") -> None:
        """Wait until a host has written a line."""
        self.until(name, lambda _: line in self.lines(name).get(host, ()))

    def lines(self, name: str) -> dict[str, list[str]]:
        """The lines of each host, those of all its streams."""
        lines: dict[str, list[str]] = {}
        for stream in self.streams(name):
            found = self.logs.get_log_events(
                logGroupName=LOG_GROUP, logStreamName=stream, startFromHead=True
            )
            host = stream.split("/")[1].rpartition("-")[0]
            lines.setdefault(host, []).extend(event["message"] for event in found["events"])
        return lines

    def streams(self, name: str) -> list[str]:
        try:
            found = self.logs.describe_log_streams(
                logGroupName=LOG_GROUP, logStreamNamePrefix=f"{name}/"
            )
        except self.logs.exceptions.ResourceNotFoundException:
            return []
        return [stream["logStreamName"] for stream in found["logStreams"]]

    def put(self, key: str, body: bytes = b"x") -> None:
        self.s3.put_object(Bucket=BUCKET, Key=key, Body=body)

    def get(self, key: str) -> bytes:
        content: bytes = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def keys(self, prefix: str) -> list[str]:
        found = self.s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for entry in found.get("Contents", ())]

    def folder(self, name: str, host: str = "algo-1", attempt: int = 1) -> Path:
        """A host's /opt/ml."""
        return self.emulator.folder / REGION / name / str(attempt) / host / "ml"


@cache
def _session() -> Any:
    """One for all tests: it keeps what it has read of AWS's models."""
    return boto3.session.Session("testing", "testing", region_name=REGION)


@contextmanager
def rehearse(**options: Any) -> Iterator[Rehearsal]:
    """An emulator with a bucket, three hosts and little patience."""
    notes: list[str] = []
    defaults = Options(num_hosts=3, program=PROGRAM, grace_s=5.0, mirror_every_s=0.05)
    with run_emulator(replace(defaults, **options), os.environ, notes.append) as emulator:
        rehearsal = Rehearsal(emulator, notes)
        rehearsal.s3.create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        yield rehearsal


def request(name: str, script: str = "", hosts: int = 1) -> dict[str, Any]:
    """A sound CreateTrainingJob."""
    return {
        "TrainingJobName": name,
        "RoleArn": "arn:aws:iam::123456789012:role/rayasr-job",
        "AlgorithmSpecification": {
            "TrainingImage": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/rayasr:1",
            "TrainingInputMode": "File",
        },
        "HyperParameters": {"script": json.dumps(script)},  # a value must not have line breaks
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/out"},
        "ResourceConfig": {
            "InstanceType": "ml.c5.xlarge",
            "InstanceCount": hosts,
            "VolumeSizeInGB": 5,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
    }


def s3_channel(name: str, prefix: str, **source: Any) -> dict[str, Any]:
    """A channel with the objects below a prefix of the bucket."""
    return {
        "ChannelName": name,
        "DataSource": {
            "S3DataSource": {
                "S3DataType": "S3Prefix",
                "S3Uri": f"s3://{BUCKET}/{prefix}",
                "S3DataDistributionType": "FullyReplicated",
            }
            | source
        },
    }


def fsx_channel(name: str, system: str, path: str, access: str = "rw") -> dict[str, Any]:
    """A channel with a folder of a Lustre file system."""
    return {
        "ChannelName": name,
        "DataSource": {
            "FileSystemDataSource": {
                "FileSystemId": system,
                "FileSystemType": "FSxLustre",
                "FileSystemAccessMode": access,
                "DirectoryPath": path,
            }
        },
    }
