"""`rayasr jobs`: what is printed, and the exit codes."""

import json
import os
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from launcher.aws.last_job import LastJob, remember
from launcher.aws.sagemaker import SageMakerBackend
from launcher.aws.session import Aws
from launcher.cli.jobs import follow_job, register
from rayasr.errors import ConfigError, LaunchError
from tests.fake_aws import FakeAws, FakeLogs, described_job, stage

pytestmark = pytest.mark.usefixtures("no_account", "aws_of_the_verbs")


def run(*arguments: str) -> Any:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["jobs", *arguments])


def test_ls(server: FakeAws) -> None:
    job = {
        "TrainingJobName": "job-1",
        "TrainingJobArn": "arn:aws:sagemaker:us-east-1:111122223333:training-job/job-1",
        "TrainingJobStatus": "InProgress",
        "SecondaryStatus": "Training",
        "CreationTime": 1_700_000_000,
    }
    server.answers["ListTrainingJobs"] = {"TrainingJobSummaries": [job]}
    result = run("ls", "--endpoint-url", server.url)
    assert result.stdout.split() == [
        "2023-11-14", "22:13", "UTC", "job-1", "InProgress", "(Training)",
    ]  # fmt: skip
    [listed] = json.loads(run("ls", "--json", "--endpoint-url", server.url).stdout)
    assert listed["created"] == "2023-11-14T22:13:20+00:00"
    assert (listed["name"], listed["ended"]) == ("job-1", None)


def test_ls_of_nothing(server: FakeAws) -> None:
    server.answers["ListTrainingJobs"] = {"TrainingJobSummaries": []}
    result = run("ls", "--endpoint-url", server.url)
    assert (result.stdout, result.stderr) == ("", "there are no jobs in us-east-1\n")
    assert json.loads(run("ls", "--json", "--endpoint-url", server.url).stdout) == []


def test_status_as_json(server: FakeAws) -> None:
    server.answers["DescribeTrainingJob"] = described_job(
        "Completed",
        BillableTimeInSeconds=3600,
        TrainingTimeInSeconds=7200,
        SecondaryStatusTransitions=[stage("Training", 0, 60)],
    )
    found = json.loads(run("status", "job", "--json", "--endpoint-url", server.url).stdout)
    assert found["saving"] == 0.5
    assert found["currency"] == "USD"
    assert found["price"] > 0
    assert found["transitions"][0]["ended"] == "2023-11-14T22:14:20+00:00"


def test_last_is_asked_where_it_was_submitted(server: FakeAws) -> None:
    remember(LastJob("job-7", region="eu-west-1", endpoint_url=server.url), os.environ)
    server.answers["DescribeTrainingJob"] = described_job()
    result = run("status", "last")
    assert "InProgress (Training)" in result.stdout
    assert server.asked("DescribeTrainingJob") == [{"TrainingJobName": "job-7"}]


def test_last_of_nothing() -> None:
    result = run("stop", "last")
    assert isinstance(result.exception, ConfigError)


def test_logs_print_what_is_there(server: FakeAws, logs: FakeLogs) -> None:
    logs.write("job/algo-1-17", (2000, "algo-1 | said by the container"))
    logs.write("job/algo-2-17", (1000, "said before it began"))
    result = run("logs", "job", "--endpoint-url", server.url)
    assert result.stdout.splitlines() == [
        "algo-2 | said before it began",
        "algo-1 | said by the container",
    ]
    first, _ = run("logs", "job", "--json", "--endpoint-url", server.url).stdout.splitlines()
    time = "1970-01-01T00:00:01+00:00"
    assert json.loads(first) == {"host": "algo-2", "time": time, "text": "said before it began"}


@pytest.mark.usefixtures("logs")
def test_logs_before_the_first_line(server: FakeAws) -> None:
    result = run("logs", "job", "--endpoint-url", server.url)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "job: no host has logged anything yet\n"


def test_follow_to_a_good_end(server: FakeAws, logs: FakeLogs) -> None:
    logs.write("job/algo-1-17", (1, "algo-1 | x"))
    server.answers["DescribeTrainingJob"] = described_job("Completed")
    result = run("logs", "job", "-f", "--endpoint-url", server.url)
    assert (result.exit_code, result.stdout) == (0, "algo-1 | x\n")
    assert "status    Completed" in result.stderr


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"status": "Failed", "FailureReason": "AlgorithmError: x"}, "failed: AlgorithmError: x"),
        ({"status": "Failed"}, "failed: SageMaker gives no reason"),
        ({"status": "Stopped"}, "was stopped; launch again to go on where it was"),
        (
            {"status": "Stopped", "SecondaryStatus": "MaxRuntimeExceeded"},
            "was stopped at its time limit",
        ),
        (
            {"status": "Stopped", "SecondaryStatus": "MaxWaitTimeExceeded"},
            r"was stopped at its sagemaker.max_wait",
        ),
    ],
)
@pytest.mark.usefixtures("logs")
def test_follow_to_a_bad_end(server: FakeAws, fields: dict[str, Any], sentence: str) -> None:
    server.answers["DescribeTrainingJob"] = described_job(**fields)
    result = run("logs", "job", "-f", "--endpoint-url", server.url)
    assert isinstance(result.exception, LaunchError)
    assert sentence in str(result.exception)


def test_ctrl_c_asks_nothing_of_the_job(
    server: FakeAws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SageMakerBackend, "wait", interrupted)
    with pytest.raises(typer.Exit) as info:
        follow_job(Aws(region="eu-west-1", endpoint_url=server.url), "job")
    assert info.value.exit_code == 130
    options = f"--region eu-west-1 --endpoint-url {server.url}"
    said = capsys.readouterr().err
    assert f"`rayasr jobs stop job {options}`" in said
    assert f"`rayasr jobs logs job -f {options}`" in said
    assert server.calls == []


def test_stop(server: FakeAws) -> None:
    server.answers |= {"DescribeTrainingJob": described_job(), "StopTrainingJob": {}}
    assert "job is asked to stop" in run("stop", "job", "--endpoint-url", server.url).stdout
    server.answers["DescribeTrainingJob"] = described_job("Failed")
    result = run("stop", "job", "--endpoint-url", server.url)
    assert result.stdout == "job is over already: Failed\n"
    answer = json.loads(run("stop", "job", "--json", "--endpoint-url", server.url).stdout)
    assert answer == {"name": "job", "status": "Failed", "asked": False}
