"""The request is what the golden files say, breaks no limit, and holds no secret."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from launcher.aws.request import DEFAULT_METRICS, training_job_request
from launcher.aws.request_check import request_problems
from launcher.spec import load_spec
from rayasr.errors import ConfigError
from rayasr.train.display import describe_step, describe_validation
from tests.cloud_jobs import TOKEN, cloud_job, cloud_plan

ROOT = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(
    ("job", "region"),
    [
        ("configs/jobs/train-2x4gpu.yaml", "eu-central-1"),
        ("tests/golden/china.yaml", "cn-north-1"),
        ("tests/golden/groups.yaml", "us-west-2"),
        ("tests/golden/spot.yaml", "eu-central-1"),
    ],
)
def test_golden_requests(job: str, region: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = cloud_plan(load_spec(job), region)
    expected = json.loads(Path(f"tests/golden/{Path(job).stem}.json").read_text(encoding="utf-8"))
    # A recipe that gains a setting changes the digest, and nothing else.
    expected["Environment"]["RAYASR_JOB_DIGEST"] = plan.digest
    request = training_job_request(plan)
    assert request == expected
    assert request_problems(request) == []
    assert json.loads(json.dumps(request)) == request


def test_secrets_and_long_values_are_not_in_the_request() -> None:
    job = cloud_job(
        command=["transcribe", "x" * 2500, "$(id)"], environment={"PASSWORD": "hush" * 200}
    )
    sent = json.dumps(training_job_request(cloud_plan(job)))
    for text in (TOKEN, "hush", "xxx", "$(id)", "PASSWORD"):
        assert text not in sent


def test_only_the_digest_stands_in_the_request() -> None:
    plan = cloud_plan(cloud_job())
    request = training_job_request(plan)
    assert request["Environment"] == {"RAYASR_JOB_DIGEST": plan.digest}
    assert "HyperParameters" not in request
    assert "ContainerEntrypoint" not in request["AlgorithmSpecification"]


def test_parts_of_a_second_are_given() -> None:
    request = training_job_request(cloud_plan(cloud_job(time_limit="1.5s")))
    assert request["StoppingCondition"] == {"MaxRuntimeInSeconds": 2}


def test_the_root_of_a_file_system() -> None:
    channels = {"work": {"efs": {"id": "fs-0123456789abcdef0"}}}
    request = training_job_request(cloud_plan(cloud_job(channels=channels)))
    source = request["InputDataConfig"][1]["DataSource"]["FileSystemDataSource"]
    assert source["DirectoryPath"] == "/"
    assert source["FileSystemAccessMode"] == "ro"


@pytest.mark.parametrize(
    ("place", "field"),
    [
        ({"instance_type": "ml.g5.13xlarge"}, "ResourceConfig.InstanceType: 'ml.g5.13xlarge'"),
        ({"tags": {"a": "x" * 257}}, "Tags[0].Value: has 257 characters, more than 256"),
        ({"tags": {"a": "b;c"}}, "Tags[0].Value: 'b;c' does not match"),
        ({"metrics": {"loss": "x" * 501}}, "MetricDefinitions[0].Regex: has 501 characters"),
        ({"output_kms_key": "alias/my key"}, "OutputDataConfig.KmsKeyId: 'alias/my key'"),
        ({"output": "s3://my-bucket/" + "x" * 1024}, "S3Uri: has 1064 characters, more than 1024"),
        ({"role": "arn:aws:iam::123456789012:role/a(b)"}, "RoleArn: "),
        ({"vpc": {"subnets": ["a b"], "security_groups": ["sg-1"]}}, "VpcConfig.Subnets[0]: 'a b'"),
    ],
)
def test_what_the_service_would_refuse_is_an_error_here(place: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        training_job_request(cloud_plan(cloud_job(place=place)))
    assert str(caught.value).startswith("SageMaker would refuse the job: ")
    assert field in str(caught.value)


def test_too_many_channels() -> None:
    channels = {f"c{number}": {"s3": "s3://bucket/x"} for number in range(20)}
    job = cloud_job(command=["score"], run=None, channels=channels)
    with pytest.raises(ConfigError, match="InputDataConfig: has 21 items, more than 20"):
        training_job_request(cloud_plan(job))


def test_default_metrics_read_the_lines_of_a_training() -> None:
    step = describe_step(
        {
            **{"step": 20, "total_steps": 7934, "epoch": 1, "loss": 78.864, "loss_ctc": 97.1},
            **{"loss_att": 71.0, "lr": 1e-5, "grad_norm": 3.0, "audio_hours_per_hour": 1234.4},
            **{"mfu": 0.12, "padding": 0.03, "data_wait": 0.0, "eta_s": 60.0},
        }
    )
    dev = {"step": 40, "epoch": 2, "dev_loss": 12.345, "dev_loss_ctc": 1.0, "dev_loss_att": 2.0}
    lines = [f"[algo-1] (TrainWorker pid=7) {step}"]
    lines += [describe_validation({**dev, rate: 23.5}) for rate in ("dev_cer", "dev_wer")]
    found = {
        name: [match[1] for line in lines if (match := re.search(regex, line))]
        for name, regex in DEFAULT_METRICS.items()
    }
    assert found == {
        "train:loss": ["78.864"],
        "train:audio_hours_per_hour": ["1234"],
        "dev:loss": ["12.345", "12.345"],
        "dev:error_rate": ["23.50", "23.50"],
    }
