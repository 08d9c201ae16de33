"""The verb itself: dry run, exit code, unknown backends; the whole way of a job to SageMaker."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from launcher import local
from launcher.aws.last_job import LastJob, recall
from launcher.cli.launch import register
from launcher.preflight.facts import Facts
from launcher.preflight.findings import Finding, error, warning
from rayasr.errors import ConfigError, LaunchError
from tests.fake_aws import FakeAws, FakeLogs, described_job

JOB = "name: job\ncommand: [score, a, b]\nrun: runs/x\ntime_limit: 1m\n"
CLOUD = (
    JOB
    + """
sagemaker:
  region: us-east-1
  role: arn:aws:iam::111122223333:role/job
  image: 111122223333.dkr.ecr.us-east-1.amazonaws.com/rayasr:1
  output: s3://bucket/out
  instance_type: ml.g5.12xlarge
  instance_count: 2
"""
)


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # keeps `launch` a verb of its own
    register(app)
    return app


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


def test_dry_run_starts_nothing(app: typer.Typer, job_file: str) -> None:
    result = CliRunner().invoke(app, ["launch", job_file, "--dry-run", "--set", "time_limit=2h"])
    assert result.exit_code == 0
    assert "command      rayasr score a b" in result.stdout
    assert "time limit   2h" in result.stdout


def test_exit_code_of_the_command(
    app: typer.Typer, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.LocalBackend, "_run", lambda _self, _plan: 5)
    assert CliRunner().invoke(app, ["launch", job_file]).exit_code == 5


def test_unknown_backend(app: typer.Typer, job_file: str) -> None:
    result = CliRunner().invoke(app, ["launch", job_file, "--on", "moon"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--on moon is unknown; there are: local, docker, sagemaker"


@pytest.mark.parametrize("option", ["--detach", "--max-cost=3", "--throughput=3"])
def test_option_that_only_sagemaker_has(app: typer.Typer, job_file: str, option: str) -> None:
    result = CliRunner().invoke(app, ["launch", job_file, option])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == f"{option.partition('=')[0]} goes with --on sagemaker only"


class Cloud:
    """`rayasr launch --on sagemaker` against the fake AWS."""

    def __init__(self, app: typer.Typer, folder: Path, server: FakeAws) -> None:
        self.app = app
        self.file = folder / "cloud.yaml"
        self.file.write_text(CLOUD)
        self.server = server
        self.findings: list[Finding] = []
        server.answers["CreateTrainingJob"] = {"TrainingJobArn": "arn"}
        server.answers["DescribeTrainingJob"] = described_job("Completed")

    def launch(self, *options: str, answer: str = "") -> Any:
        where = ["--on", "sagemaker", "--endpoint-url", self.server.url]
        arguments = ["launch", str(self.file), *where, *options]
        return CliRunner().invoke(self.app, arguments, input=answer)

    @property
    def requests(self) -> list[Any]:
        return self.server.asked("CreateTrainingJob")


@pytest.fixture
def cloud(
    app: typer.Typer,
    tmp_path: Path,
    server: FakeAws,
    logs: FakeLogs,  # noqa: ARG001 - there are no logs at first
    aws_of_the_verbs: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Cloud:
    cloud = Cloud(app, tmp_path, server)
    monkeypatch.setattr("launcher.preflight.gather.gather_facts", lambda _plan, _clients: Facts())
    monkeypatch.setattr("launcher.preflight.check.check", lambda _plan, _facts: cloud.findings)
    return cloud


def test_job_is_shown_submitted_and_followed(cloud: Cloud, logs: FakeLogs) -> None:
    logs.write("job/algo-1-17", (1, "never of this job"))
    result = cloud.launch(answer="y\n")
    assert result.exit_code == 0
    [request] = cloud.requests
    name = request["TrainingJobName"]
    for said in (f"job          {name}", "price        14.18 USD an hour", "submit it? [y/N]"):
        assert said in result.stderr
    assert result.stdout == ""
    assert recall(os.environ) == LastJob(name, None, "us-east-1", cloud.server.url)


def test_request_dry_run_prints_is_the_request_sent(cloud: Cloud) -> None:
    result = cloud.launch("--dry-run")
    assert cloud.server.calls == []
    assert cloud.server.objects == {}
    printed = json.loads(result.stdout)
    cloud.launch("--yes")
    [sent] = cloud.requests
    # Each has its own time and token.
    assert printed.keys() == sent.keys()
    own = {"TrainingJobName", "Environment", "InputDataConfig"}
    assert {key for key in sent if printed[key] != sent[key]} <= own


def test_token_is_never_shown(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda n: "5ec2e7" * (n // 3) + "00" * (n % 3))
    for options in (["--dry-run"], ["--yes"], ["--yes", "--detach"]):
        assert "5ec2e7" not in cloud.launch(*options).output
    [content, *_] = [v for k, v in cloud.server.objects.items() if k.endswith("/job.json")]
    assert b"5ec2e7" in content


def test_detach_prints_the_name_and_leaves(cloud: Cloud) -> None:
    result = cloud.launch("--yes", "--detach")
    [request] = cloud.requests
    assert result.stdout == f"{request['TrainingJobName']}\n"
    assert cloud.server.asked("DescribeTrainingJob") == []


@pytest.mark.parametrize("answer", ["n\n", "\n", "yesterday\n"])
def test_nothing_is_sent_without_a_yes(cloud: Cloud, answer: str) -> None:
    result = cloud.launch(answer=answer)
    assert (result.exit_code, cloud.requests) == (1, [])
    assert "nothing was done" in result.stderr


def test_nobody_there_to_answer(cloud: Cloud) -> None:
    result = cloud.launch()
    assert isinstance(result.exception, ConfigError)
    assert "give --yes" in str(result.exception)
    assert cloud.requests == []


def test_bill_that_could_become_too_large(cloud: Cloud) -> None:
    limit = ("--set", "time_limit=2h", "--yes")
    for options in (
        ["--max-cost", "28"],
        ["--set", "sagemaker.max_cost=28"],
        ["--max-cost", "28", "--dry-run"],
        ["--max-cost", "28", "--set", "sagemaker.max_cost=100"],
    ):
        result = cloud.launch(*limit, *options)
        assert isinstance(result.exception, ConfigError)
        assert result.exception.exit_code == 2
        assert str(result.exception).startswith("the bill could become 28.36 USD, above the 28.00")
        assert result.stdout == ""
    assert cloud.requests == []
    high, low = ("--max-cost", "29"), ("--set", "sagemaker.max_cost=28")
    assert cloud.launch(*limit, *low, *high).exit_code == 0


def test_bill_that_is_not_known(cloud: Cloud) -> None:
    kind = ("--set", "sagemaker.instance_type=ml.c7i.48xlarge", "--yes")
    result = cloud.launch(*kind, "--max-cost", "1000000")
    assert isinstance(result.exception, ConfigError)
    assert "the price of ml.c7i.48xlarge is not known" in str(result.exception)
    assert cloud.launch(*kind).exit_code == 0


def test_error_of_a_check_stops_the_job(cloud: Cloud) -> None:
    cloud.findings = [error("role", "no such role", "it is needed", "make it")]
    result = cloud.launch("--yes")
    assert isinstance(result.exception, LaunchError)
    assert "no such role" in result.stderr
    assert cloud.server.calls == []
    cloud.findings = [warning("role", "an odd role", "it may matter", "look")]
    assert cloud.launch("--yes").exit_code == 0


def test_failed_job_gives_its_reason(cloud: Cloud) -> None:
    cloud.server.answers["DescribeTrainingJob"] = described_job(
        "Failed", FailureReason="AlgorithmError: algo-2: disk full, exit code: 3"
    )
    result = cloud.launch("--yes")
    assert isinstance(result.exception, LaunchError)
    assert "algo-2: disk full, exit code: 3" in str(result.exception)


def test_region_of_the_option_comes_first(cloud: Cloud) -> None:
    result = cloud.launch("--dry-run", "--region", "eu-central-1")
    assert "on SageMaker in eu-central-1" in result.stderr


def test_region_of_a_job_that_does_not_say_it_is_its_image_s(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    text = CLOUD.replace("  region: us-east-1\n", "").replace("us-east-1", "eu-central-1")
    cloud.file.write_text(text)
    result = cloud.launch("--dry-run")
    assert "on SageMaker in eu-central-1" in result.stderr


def test_job_without_a_place_in_the_cloud(cloud: Cloud, job_file: str) -> None:
    cloud.file = Path(job_file)
    result = cloud.launch("--yes")
    assert isinstance(result.exception, ConfigError)
    assert "no 'sagemaker:' section" in str(result.exception)
