"""Jobs for SageMaker that tests start from."""

from typing import Any

from launcher.cloud_plan import CloudPlan, make_cloud_plan
from launcher.spec import JobSpec

REGION = "eu-central-1"
STAMP = "20261124-101112"
TOKEN = "0123456789abcdef" * 4
FILE_SYSTEM = "fs-0123456789abcdef0"
MOUNT_NAMES = {FILE_SYSTEM: "fsxmount"}

PLACE: dict[str, Any] = {
    "role": "arn:aws:iam::123456789012:role/rayasr-job",
    "image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/rayasr:1.0",
    "output": "s3://my-bucket/rayasr",
    "instance_type": "ml.g5.12xlarge",
    "instance_count": 2,
    "vpc": {"subnets": ["subnet-0123456789abcdef0"], "security_groups": ["sg-0123456789abcdef0"]},
}


def cloud_job(place: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    """A sound job on two machines, with an FSx channel; `place` changes its `sagemaker` section.

    A value of None takes a key away.
    """
    job = {
        "name": "job",
        "command": ["score", "{channel:work}/a", "{run}/b"],
        "channels": {"work": {"access": "write", "fsx": {"id": FILE_SYSTEM}}},
        "run": "{channel:work}/run",
        "time_limit": "2h",
        "sagemaker": _merged(PLACE, place or {}),
    }
    return JobSpec.model_validate(_merged(job, fields))


def cluster_job(num_hosts: int, name: str, command: list[str], **fields: Any) -> dict[str, Any]:
    """The values of a job file for CPU machines whose channel `data` is a shared file system."""
    place = {"region": REGION, "instance_type": "ml.c5.xlarge", "instance_count": num_hosts}
    shared = {"access": "write", "fsx": {"id": FILE_SYSTEM, "path": "/data"}}
    changes = {"channels": {"data": shared}, "run": None} | fields
    job = cloud_job(place | changes.pop("place", {}), name=name, command=command, **changes)
    return job.model_dump(mode="json", exclude_unset=True)


def cloud_plan(job: JobSpec, region: str = REGION) -> CloudPlan:
    """The plan of a job at a fixed time, with a fixed secret."""
    return make_cloud_plan(job, region=region, stamp=STAMP, token=TOKEN, mount_names=MOUNT_NAMES)


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (values | changes).items() if value is not None}
