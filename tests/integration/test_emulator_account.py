"""An emulator in whose account a job file finds what it names."""

from collections.abc import Iterator
from typing import Any

import pytest

from launcher.aws.session import Aws
from launcher.cloud_plan import make_cloud_plan
from launcher.contract import FileSystem
from launcher.emulator.furnish import rehearsal_region
from launcher.preflight.check import check
from launcher.preflight.gather import find_mount_names, gather_facts
from launcher.spec import JobSpec
from tests.cloud_jobs import FILE_SYSTEM, STAMP, TOKEN, cloud_job
from tests.rehearsal import Rehearsal, rehearse

OTHER_NETWORK = {"subnets": ["subnet-1", "subnet-2"], "security_groups": ["sg-1", "sg-2"]}
WEST = {
    "region": "us-west-2",
    "image": "123456789012.dkr.ecr.us-west-2.amazonaws.com/other@sha256:" + "1" * 64,
    "output": "s3://west/x",
    "checkpoints": "s3://west/checkpoints",
    "vpc": OTHER_NETWORK,
}


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    systems = {FILE_SYSTEM: FileSystem(tmp_path_factory.mktemp("fsx"), "mounted")}
    jobs = [cloud_job(), cloud_job(WEST), cloud_job({"tags": {"a": "b"}})]
    with rehearse(job_files=jobs, file_systems=systems) as rehearsal:
        yield rehearsal


def problems(job: JobSpec, rehearsal: Rehearsal) -> list[str]:
    """What the checks of a launch would refuse it for."""
    aws = Aws(region=rehearsal_region(job), endpoint_url=rehearsal.emulator.url)
    names = find_mount_names(job, aws.client)
    plan = make_cloud_plan(job, region=aws.region, stamp=STAMP, token=TOKEN, mount_names=names)
    findings = check(plan, gather_facts(plan, aws.client))
    return [finding.found for finding in findings if finding.severity == "error"]


@pytest.mark.parametrize("place", [{}, WEST])
def test_a_job_that_was_announced_lacks_nothing(
    rehearsal: Rehearsal, place: dict[str, Any]
) -> None:
    assert problems(cloud_job(place), rehearsal) == []


@pytest.mark.parametrize(
    ("place", "says"),
    [
        (
            {"role": "arn:aws:iam::123456789012:role/other"},
            "no role arn:aws:iam::123456789012:role/other",
        ),
        ({"vpc": OTHER_NETWORK}, "no subnet subnet-1, subnet-2"),
        ({"output": "s3://no-such-bucket/x"}, "no-such-bucket"),
    ],
)
def test_other_jobs_lack_something(rehearsal: Rehearsal, place: dict[str, Any], says: str) -> None:
    found = problems(cloud_job(place), rehearsal)
    assert any(says in problem for problem in found), found


def test_file_systems_tell_their_mount_name(rehearsal: Rehearsal) -> None:
    fsx = rehearsal.client("fsx")
    (system,) = fsx.describe_file_systems(FileSystemIds=[FILE_SYSTEM])["FileSystems"]
    assert system["LustreConfiguration"]["MountName"] == "mounted"
    assert fsx.describe_file_systems(FileSystemIds=["fs-99999999"])["FileSystems"] == []
    assert rehearsal.emulator.environment["AWS_DEFAULT_REGION"] == "eu-central-1"
