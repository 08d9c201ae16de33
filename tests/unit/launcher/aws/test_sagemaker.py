"""Submitting to SageMaker and following a job, against a server on loopback."""

import hashlib
import json
from typing import Any

import pytest

from launcher.aws.jobs import JobStatus
from launcher.aws.logs import LogLine
from launcher.aws.request import training_job_request
from launcher.aws.sagemaker import POLL_S, TRIES, SageMakerBackend
from launcher.aws.session import Aws
from launcher.cloud_plan import CloudPlan
from launcher.job_file import DIGEST_VARIABLE
from launcher.spec import JobSpec
from rayasr.errors import ConfigError, LaunchError
from tests.fake_aws import (
    DROPPED,
    FakeAws,
    FakeLogs,
    Refusal,
    described_job,
    stage,
)

PLACE = {
    "role": "arn:aws:iam::111122223333:role/job",
    "image": "111122223333.dkr.ecr.us-east-1.amazonaws.com/rayasr:1",
    "output": "s3://bucket/out",
    "instance_type": "ml.g5.12xlarge",
    "instance_count": 2,
}
RUNNING, DONE = described_job(), described_job("Completed")


class Watched:
    """A backend whose time is written down instead of slept, and what it says."""

    def __init__(self, aws: Aws) -> None:
        self.slept: list[float] = []
        self.notes: list[str] = []
        self.lines: list[str] = []
        self.backend = SageMakerBackend(aws, sleep=self.slept.append)

    def show(self, line: LogLine) -> None:
        self.lines.append(f"{line.host} {line.text}")

    def submit(self, plan: CloudPlan) -> str:
        return self.backend.submit(plan, self.notes.append)

    def wait(self) -> JobStatus:
        return self.backend.wait("job", self.notes.append, self.show)


@pytest.fixture
def watched(aws: Aws, logs: FakeLogs) -> Watched:  # noqa: ARG001 - there are no logs at first
    return Watched(aws)


def job(place: dict[str, Any] | None = None, **fields: Any) -> JobSpec:
    values = {"name": "job", "command": ["score", "a", "b"], "time_limit": "1h"}
    return JobSpec.model_validate(values | fields | {"sagemaker": PLACE | (place or {})})


def test_submit_sends_the_files_and_exactly_the_request(server: FakeAws, watched: Watched) -> None:
    server.answers["CreateTrainingJob"] = {"TrainingJobArn": "arn"}
    plan = watched.backend.plan(job())
    assert watched.submit(plan) == plan.name
    assert server.asked("CreateTrainingJob") == [training_job_request(plan)]
    assert server.objects == {
        f"/bucket/out/{plan.name}/job/{file}": content for file, content in plan.files.items()
    }
    assert watched.notes[-1] == f"{plan.name}: submitted to SageMaker in us-east-1"


def test_the_token_travels_in_the_job_file_alone(server: FakeAws, watched: Watched) -> None:
    server.answers["CreateTrainingJob"] = {"TrainingJobArn": "arn"}
    plan = watched.backend.plan(job())
    token = json.loads(plan.files["job.json"])["token"]
    watched.submit(plan)
    assert len(token) == 64
    said = [json.dumps(server.calls), plan.describe(), repr(plan), *watched.notes]
    assert not [text for text in said if token in text]
    digest = hashlib.sha256(plan.files["job.json"]).hexdigest()
    assert server.asked("CreateTrainingJob")[0]["Environment"] == {DIGEST_VARIABLE: digest}


def test_two_plans_never_share_a_token(watched: Watched) -> None:
    first, second = (watched.backend.plan(job()) for _ in range(2))
    assert first.digest != second.digest


def test_job_without_a_place(watched: Watched) -> None:
    spec = JobSpec.model_validate({"name": "job", "command": ["x"], "time_limit": "1h"})
    with pytest.raises(ConfigError, match="no 'sagemaker:' section"):
        watched.backend.plan(spec)


def test_mount_name_is_asked_only_where_it_is_left_out(server: FakeAws, watched: Watched) -> None:
    server.answers["DescribeFileSystems"] = {
        "FileSystems": [
            {"FileSystemId": "fs-0123456789", "LustreConfiguration": {"MountName": "abcde"}}
        ]
    }
    vpc = {"vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]}}
    known = {"known": {"fsx": {"id": "fs-99999999", "mount_name": "given"}}}
    watched.backend.plan(job(vpc, channels=known))
    assert server.calls == []
    asked = {"asked": {"fsx": {"id": "fs-0123456789"}}}
    plan = watched.backend.plan(job(vpc, channels=known | asked))
    assert plan.mount_names == {"fs-0123456789": "abcde", "fs-99999999": "given"}
    assert server.asked("DescribeFileSystems") == [{"FileSystemIds": ["fs-0123456789"]}]


def test_file_system_that_is_not_there(server: FakeAws, watched: Watched) -> None:
    server.answers["DescribeFileSystems"] = Refusal("FileSystemNotFound", "does not exist")
    vpc = {"vpc": {"subnets": ["subnet-1"], "security_groups": ["sg-1"]}}
    with pytest.raises(
        LaunchError, match=r"file system fs-0123456789: does not.*; or give fsx\.mount"
    ):
        watched.backend.plan(job(vpc, channels={"a": {"fsx": {"id": "fs-0123456789"}}}))


def test_name_that_is_taken(server: FakeAws, watched: Watched) -> None:
    server.answers["CreateTrainingJob"] = Refusal("ResourceInUse", "must be unique")
    server.answers["DescribeTrainingJob"] = described_job(Environment={DIGEST_VARIABLE: "other"})
    with pytest.raises(LaunchError, match=r"the name job-.* is taken in us-east-1; launch again"):
        watched.submit(watched.backend.plan(job()))


def test_name_taken_by_our_own_first_try(server: FakeAws, watched: Watched) -> None:
    plan = watched.backend.plan(job())
    server.answers["CreateTrainingJob"] = Refusal("ResourceInUse", "must be unique")
    server.answers["DescribeTrainingJob"] = described_job(
        Environment={DIGEST_VARIABLE: plan.digest}
    )
    assert watched.submit(plan) == plan.name


@pytest.mark.parametrize(
    ("spot", "quota"),
    [
        ({}, "'ml.g5.12xlarge for training job usage'"),
        ({"spot": True, "max_wait": "2h"}, "'ml.g5.12xlarge for spot training job usage'"),
    ],
)
def test_quota_of_zero(server: FakeAws, watched: Watched, spot: dict[str, Any], quota: str) -> None:
    server.answers["CreateTrainingJob"] = Refusal("ResourceLimitExceeded", "limit is 0 Instances.")
    with pytest.raises(LaunchError) as info:
        watched.submit(watched.backend.plan(job(spot)))
    assert "limit is 0 Instances; ask for at least 2 for " + quota in str(info.value)
    assert "in us-east-1, or take another instance type" in str(info.value)


def test_lost_answer_to_the_request(server: FakeAws, watched: Watched) -> None:
    server.answers["CreateTrainingJob"] = DROPPED
    with pytest.raises(LaunchError, match="may have started all the same, see `rayasr jobs status"):
        watched.submit(watched.backend.plan(job()))


def test_wait_tells_each_stage_once_and_all_lines(
    server: FakeAws, logs: FakeLogs, watched: Watched
) -> None:
    starting = stage("Starting", 0, 65, "Launching requested ML instances")
    training = stage("Training", 65, None, "Training in progress.")

    def describe(_: Any) -> Any:
        look = len(server.asked("DescribeTrainingJob"))
        logs.streams["job/algo-1-17"] = [(i, f"line {i}") for i in range(1, min(look, 3) + 1)]
        if look == 4:  # the job is over since the third look; CloudWatch is late
            logs.write("job/algo-2-17", (0, "late"))
        stages = [starting] if look == 1 else [starting, training]
        state = "InProgress" if look < 3 else "Completed"
        return described_job(state, SecondaryStatusTransitions=stages)

    server.answers["DescribeTrainingJob"] = describe
    assert watched.wait().status == "Completed"
    assert watched.notes == [
        "job: Starting: Launching requested ML instances",
        "job: Training: Training in progress.",
    ]
    assert watched.lines == ["algo-1 line 1", "algo-1 line 2", "algo-1 line 3", "algo-2 late"]
    assert watched.slept == [POLL_S] * 4
    assert POLL_S >= 1


def test_many_hosts_are_asked_more_slowly(
    server: FakeAws, logs: FakeLogs, watched: Watched
) -> None:
    for host in range(1, 101):
        logs.write(f"job/algo-{host}-17", (host, "hello"))
    server.answers["DescribeTrainingJob"] = DONE
    watched.wait()
    assert len(watched.lines) == 100
    assert min(watched.slept) == pytest.approx(10.0)


def test_spot_restart_is_told(server: FakeAws, watched: Watched) -> None:
    stages = [
        stage("Starting", 0, 60),
        stage("Training", 60, 90),
        stage("Interrupted", 90, 100),
        stage("Starting", 100, 150),
        stage("Training", 150, 160),
    ]
    server.answers["DescribeTrainingJob"] = DONE | {"SecondaryStatusTransitions": stages}
    watched.wait()
    assert watched.notes == [f"job: {stage['Status']}" for stage in stages]


def test_lost_connection_is_taken_up_again(
    server: FakeAws, logs: FakeLogs, watched: Watched
) -> None:
    logs.write("job/algo-1-17", (1, "a"), (2, "b"))
    server.answers["DescribeTrainingJob"] = [RUNNING, DROPPED, DROPPED, RUNNING, DONE]
    assert watched.wait().status == "Completed"
    assert watched.lines == ["algo-1 a", "algo-1 b"]
    first, second = watched.notes
    assert first.endswith("; the job goes on, trying again in 4 s")
    assert second.endswith("; the job goes on, trying again in 8 s")
    assert watched.slept[1:3] == [4.0, 8.0]


def test_connection_that_stays_lost(server: FakeAws, watched: Watched) -> None:
    server.answers["DescribeTrainingJob"] = [RUNNING, DROPPED]
    with pytest.raises(LaunchError) as info:
        watched.wait()
    options = f"--endpoint-url {server.url}"
    assert "lost touch with job job, which goes on: cannot look at job job" in str(info.value)
    assert f"look again with `rayasr jobs logs job -f {options}`" in str(info.value)
    assert f"stop it with `rayasr jobs stop job {options}`" in str(info.value)
    assert len(watched.notes) == TRIES - 1
    assert 240 < sum(watched.slept) < 480
    assert server.asked("StopTrainingJob") == []


def test_credentials_that_expire_while_waiting(server: FakeAws, watched: Watched) -> None:
    expired = Refusal("ExpiredTokenException", "The token is expired.")
    server.answers["DescribeTrainingJob"] = [RUNNING, expired]
    with pytest.raises(
        LaunchError, match=r"job, which goes on: .*renew the credentials.*look again"
    ):
        watched.wait()


def test_job_that_never_was(server: FakeAws, watched: Watched) -> None:
    server.answers["DescribeTrainingJob"] = Refusal("ResourceNotFound", "no")
    with pytest.raises(LaunchError, match=r"^there is no job 'job' in us-east-1"):
        watched.wait()


def test_missing_right_to_logs_does_not_end_the_waiting(server: FakeAws, watched: Watched) -> None:
    server.answers["DescribeTrainingJob"] = [RUNNING, RUNNING, DONE]
    server.answers["DescribeLogStreams"] = Refusal("AccessDeniedException", "not authorized")
    assert watched.wait().status == "Completed"
    assert [note for note in watched.notes if "no logs here" in note] == watched.notes
    assert len(watched.notes) == 1


def test_nothing_depends_on_a_message(server: FakeAws, watched: Watched) -> None:
    """A stage may say anything, even that the job failed."""
    lie = stage("Training", 0, None, "Failed: Completed, Stopped")
    server.answers["DescribeTrainingJob"] = [RUNNING | {"SecondaryStatusTransitions": [lie]}, DONE]
    assert watched.wait().status == "Completed"
