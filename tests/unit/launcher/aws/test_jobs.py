"""Jobs as data: what is asked, and what is made of the answers."""

import pytest

from launcher.aws.jobs import describe_job, list_jobs, stop_job
from launcher.aws.session import Aws
from launcher.prices import PRICES
from rayasr.errors import LaunchError
from tests.fake_aws import FakeAws, Refusal, described_job, stage


def test_finished_job_tells_its_bill(server: FakeAws, aws: Aws) -> None:
    server.answers["DescribeTrainingJob"] = described_job(
        "Completed",
        TrainingTimeInSeconds=1000,
        BillableTimeInSeconds=360,
        ModelArtifacts={"S3ModelArtifacts": "s3://bucket/out/job/output/model.tar.gz"},
        SecondaryStatusTransitions=[stage("Starting", 0, 65), stage("Training", 65, 1065)],
    )
    job = describe_job(aws, "job")
    assert job.is_over
    assert job.saving == pytest.approx(0.64)
    assert job.price == pytest.approx(2 * PRICES["ml.g5.12xlarge"] * 0.1)
    lines = job.describe().splitlines()
    assert lines[:4] == [
        "job       job",
        "status    Completed",
        "machines  2 x ml.g5.12xlarge",
        "created   2023-11-14 22:13:20 UTC",
    ]
    assert lines[4] == "Starting  2023-11-14 22:13:20 UTC, 65 s"
    assert "billed    360 s of each machine, spot saved 64%" in lines
    assert lines[-2].startswith("price     1.42 USD at the prices of us-east-1, ")
    assert lines[-1] == "model     s3://bucket/out/job/output/model.tar.gz"


def test_running_job_has_no_bill_yet(server: FakeAws, aws: Aws) -> None:
    server.answers["DescribeTrainingJob"] = described_job()
    job = describe_job(aws, "job")
    assert (job.is_over, job.billable_s, job.saving, job.price) == (False, None, None, None)
    assert "status    InProgress (Training)" in job.describe()
    assert "billed" not in job.describe()


def test_groups_of_machines_are_paid_for_together(server: FakeAws, aws: Aws) -> None:
    groups = [
        {"InstanceType": kind, "InstanceCount": count, "InstanceGroupName": str(i)}
        for i, (kind, count) in enumerate(
            [("ml.c5.xlarge", 3), ("ml.g5.xlarge", 1), ("ml.c5.xlarge", 1)]
        )
    ]
    server.answers["DescribeTrainingJob"] = described_job(
        "Stopped", ResourceConfig={"InstanceGroups": groups}, BillableTimeInSeconds=3600
    )
    job = describe_job(aws, "job")
    assert job.hosts == {"ml.c5.xlarge": 4, "ml.g5.xlarge": 1}
    assert job.price == pytest.approx(4 * PRICES["ml.c5.xlarge"] + PRICES["ml.g5.xlarge"])


def test_unknown_price_is_not_guessed(server: FakeAws, aws: Aws) -> None:
    machines = {"InstanceType": "ml.new.xlarge", "InstanceCount": 1}
    server.answers["DescribeTrainingJob"] = described_job(
        "Completed", ResourceConfig=machines, BillableTimeInSeconds=3600
    )
    assert describe_job(aws, "job").price is None
    server.answers["DescribeTrainingJob"] = described_job(
        "Completed", ResourceConfig={}, BillableTimeInSeconds=3600
    )
    assert describe_job(aws, "job").price is None  # a job without machines of its own
    server.answers["DescribeTrainingJob"] = described_job("Completed", BillableTimeInSeconds=3600)
    china = Aws(region="cn-north-1", endpoint_url=server.url)
    assert describe_job(china, "job").price is None  # the table is in USD


@pytest.mark.parametrize("code", ["ResourceNotFound", "ValidationException"])
def test_job_that_is_not_there(server: FakeAws, aws: Aws, code: str) -> None:
    server.answers["DescribeTrainingJob"] = Refusal(code, "Requested resource not found.")
    with pytest.raises(LaunchError, match=r"no job 'job' in us-east-1; `rayasr jobs ls --endpoint"):
        describe_job(aws, "job")


def test_expired_credentials(server: FakeAws, aws: Aws) -> None:
    server.answers["DescribeTrainingJob"] = Refusal("ExpiredTokenException", "The token expired.")
    with pytest.raises(LaunchError, match=r"cannot look at job job: .*; renew the credentials"):
        describe_job(aws, "job")


def test_latest_jobs(server: FakeAws, aws: Aws) -> None:
    def summary(name: str) -> dict[str, object]:
        return {
            "TrainingJobName": name,
            "TrainingJobArn": "arn:aws:sagemaker:us-east-1:111122223333:training-job/job",
            "TrainingJobStatus": "InProgress",
            "CreationTime": 1_700_000_000,
        }

    server.answers["ListTrainingJobs"] = [
        {"TrainingJobSummaries": [summary("c"), summary("b")], "NextToken": "more"},
        {"TrainingJobSummaries": [summary("a"), summary("z")], "NextToken": "more"},
    ]
    assert [job.name for job in list_jobs(aws, 3, "x")] == ["c", "b", "a"]
    first, second = server.asked("ListTrainingJobs")
    assert first["SortBy"] == "CreationTime"
    assert (first["SortOrder"], first["NameContains"]) == ("Descending", "x")
    assert second["NextToken"] == "more"


def test_no_jobs_at_all(server: FakeAws, aws: Aws) -> None:
    server.answers["ListTrainingJobs"] = {"TrainingJobSummaries": []}
    assert list_jobs(aws, 3) == []


def test_stop_asks_a_running_job(server: FakeAws, aws: Aws) -> None:
    server.answers |= {"DescribeTrainingJob": described_job(), "StopTrainingJob": {}}
    assert not stop_job(aws, "job").is_over
    assert server.asked("StopTrainingJob") == [{"TrainingJobName": "job"}]


def test_stop_asks_nothing_of_a_job_that_is_over(server: FakeAws, aws: Aws) -> None:
    server.answers["DescribeTrainingJob"] = described_job("Failed")
    assert stop_job(aws, "job").status == "Failed"
    assert server.asked("StopTrainingJob") == []
