"""The wire protocol, as a boto3 client sees it."""

import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from launcher.aws.logs import LOG_GROUP
from tests.rehearsal import BUCKET, LEAVE_WHEN_ASKED, Rehearsal, request, s3_channel


def refusal(call: Any, **body: Any) -> tuple[str, str]:
    """Code and message of what a client gets."""
    with pytest.raises(ClientError) as raised:
        call(**body)
    error = raised.value.response["Error"]
    return error["Code"], error["Message"]


def test_a_job_is_described_as_it_was_asked_for(rehearsal: Rehearsal) -> None:
    fields: dict[str, Any] = {
        "Environment": {"X": "语音 $(x)"},
        "RetryStrategy": {"MaximumRetryAttempts": 2},
        "Tags": [{"Key": "project", "Value": "rayasr"}],
        "ProfilerConfig": {"DisableProfiler": True},
    }
    body = request("described", "print(os.environ['X'])", 2) | fields
    arn = rehearsal.sagemaker.create_training_job(**body)["TrainingJobArn"]
    assert arn == "arn:aws:sagemaker:eu-central-1:123456789012:training-job/described"
    job = rehearsal.end("described")
    assert {key: job[key] for key in body.keys() - {"Tags"}} == {
        key: value for key, value in body.items() if key != "Tags"
    }
    assert job["TrainingJobArn"] == arn
    assert job["EnableManagedSpotTraining"] is False
    assert rehearsal.sagemaker.list_tags(ResourceArn=arn)["Tags"] == fields["Tags"]
    assert rehearsal.lines("described") == {"algo-1": ["语音 $(x)"], "algo-2": ["语音 $(x)"]}


def test_tags_are_added(rehearsal: Rehearsal) -> None:
    name = rehearsal.start("")
    arn = rehearsal.end(name)["TrainingJobArn"]
    rehearsal.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "1"}])
    rehearsal.sagemaker.add_tags(ResourceArn=arn, Tags=[{"Key": "a", "Value": "2"}])
    assert rehearsal.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "a", "Value": "2"}]


def test_jobs_are_listed(rehearsal: Rehearsal) -> None:
    for name in ("list-c", "list-a", "list-b"):
        rehearsal.end(rehearsal.start("", TrainingJobName=name))
    ask = rehearsal.sagemaker.list_training_jobs

    def names(**body: Any) -> list[str]:
        jobs = ask(NameContains="list-", **body)["TrainingJobSummaries"]
        return [job["TrainingJobName"] for job in jobs]

    assert names() == ["list-c", "list-a", "list-b"]
    assert names(SortOrder="Descending") == ["list-b", "list-a", "list-c"]
    assert names(SortBy="Name") == ["list-a", "list-b", "list-c"]
    assert names(StatusEquals="Completed", MaxResults=2) == ["list-c", "list-a"]
    assert names(StatusEquals="Failed") == []
    now, hour = datetime.now(UTC), timedelta(hours=1)
    for moment in ("CreationTime", "LastModifiedTime"):
        assert len(names(**{f"{moment}After": now - hour, f"{moment}Before": now + hour})) == 3
        assert names(**{f"{moment}After": now + hour}) == []
        assert names(**{f"{moment}Before": now - hour}) == []
    pages = rehearsal.sagemaker.get_paginator("list_training_jobs").paginate(
        NameContains="list-", PaginationConfig={"PageSize": 1}
    )
    assert len([job for page in pages for job in page["TrainingJobSummaries"]]) == 3
    code, _ = refusal(ask, NextToken="x")
    assert code == "ValidationException"


def test_regions_know_nothing_of_each_other(rehearsal: Rehearsal) -> None:
    rehearsal.end(rehearsal.start("print('here')", TrainingJobName="regional"))
    china = rehearsal.client("sagemaker", "cn-north-1")
    code, _ = refusal(china.describe_training_job, TrainingJobName="regional")
    assert code == "ValidationException"
    arn = china.create_training_job(**request("regional"))["TrainingJobArn"]
    assert arn.startswith("arn:aws-cn:sagemaker:cn-north-1:")
    logs = rehearsal.client("logs", "us-west-2")
    code, _ = refusal(logs.describe_log_streams, logGroupName=LOG_GROUP)
    assert code == "ResourceNotFoundException"


def test_what_the_model_forbids_is_refused(rehearsal: Rehearsal) -> None:
    create = rehearsal.sagemaker.create_training_job
    for change, says in [
        ({"TrainingJobName": "a_b"}, "TrainingJobName"),
        ({"TrainingJobName": "语音"}, "TrainingJobName"),
        ({"Environment": {f"X{n}": "" for n in range(101)}}, "Environment"),
        ({"HyperParameters": {"x": "y" * 2501}}, "HyperParameters"),
        ({"RoleArn": "arn:aws:iam::12:role/too-few-digits"}, "RoleArn"),
        ({"EnableManagedSpotTraining": True}, "MaxWaitTimeInSeconds"),
    ]:
        code, message = refusal(create, **request("refused") | change)
        assert code == "ValidationException"
        assert says in message
    code, _ = refusal(rehearsal.sagemaker.describe_training_job, TrainingJobName="refused")
    assert code == "ValidationException"


def test_a_name_is_taken_for_ever(rehearsal: Rehearsal) -> None:
    rehearsal.end(rehearsal.start("", TrainingJobName="taken"))
    code, message = refusal(rehearsal.sagemaker.create_training_job, **request("taken"))
    assert code == "ResourceInUse"
    assert "training-job/taken" in message


def test_inputs_must_be_there_at_the_start(rehearsal: Rehearsal) -> None:
    create = rehearsal.sagemaker.create_training_job
    body = request("no-input")
    code, message = refusal(create, **body, InputDataConfig=[s3_channel("a", "nothing/")])
    assert code == "ValidationException"
    assert f'No S3 objects found under S3 URL "s3://{BUCKET}/nothing/"' in message
    channel = s3_channel("a", "x", S3Uri="s3://no-such-bucket/x")
    code, message = refusal(create, **body, InputDataConfig=[channel])
    assert code == "ValidationException"
    assert "NoSuchBucket" in message


def test_unknown_jobs_are_answered_as_the_service_does(rehearsal: Rehearsal) -> None:
    for operation in ("describe_training_job", "stop_training_job"):
        answer = refusal(getattr(rehearsal.sagemaker, operation), TrainingJobName="nobody")
        assert answer == ("ValidationException", "Requested resource not found.")


def test_a_job_that_is_over_cannot_be_stopped(rehearsal: Rehearsal) -> None:
    name = rehearsal.start("")
    rehearsal.end(name)
    code, message = refusal(rehearsal.sagemaker.stop_training_job, TrainingJobName=name)
    assert code == "ValidationException"
    assert message.endswith("the training job is in status Completed.")


def test_a_stop_shows_at_once(rehearsal: Rehearsal) -> None:
    name = rehearsal.start(LEAVE_WHEN_ASKED)
    rehearsal.until_line(name, "ready")
    rehearsal.sagemaker.stop_training_job(TrainingJobName=name)
    job = rehearsal.sagemaker.describe_training_job(TrainingJobName=name)
    assert job["TrainingJobStatus"] in ("Stopping", "Stopped")
    assert rehearsal.end(name)["TrainingJobStatus"] == "Stopped"


def test_other_services_are_motos(rehearsal: Rehearsal) -> None:
    assert rehearsal.client("sts").get_caller_identity()["Account"] == "123456789012"
    logs = rehearsal.logs
    logs.create_log_group(logGroupName="/other")
    logs.create_log_stream(logGroupName="/other", logStreamName="x")
    streams = logs.describe_log_streams(logGroupName="/other")["logStreams"]
    assert [stream["logStreamName"] for stream in streams] == ["x"]


def post(rehearsal: Rehearsal, headers: dict[str, str], body: bytes = b"{}") -> int:
    target = {"X-Amz-Target": "SageMaker.ListTrainingJobs"}
    call = urllib.request.Request(rehearsal.emulator.url, body, target | headers, method="POST")
    try:
        with urllib.request.urlopen(call) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_pages_of_browsers_and_unsigned_requests_are_refused(rehearsal: Rehearsal) -> None:
    signed = {
        "Authorization": "AWS4-HMAC-SHA256 Credential=x/20261124/us-east-1/sagemaker/aws4_request"
    }
    assert post(rehearsal, signed) == 200
    assert post(rehearsal, {}) == 403
    assert post(rehearsal, signed | {"Origin": "http://example.org"}) == 403
    assert post(rehearsal, signed, b"no json") == 400
    assert post(rehearsal, signed, b"[]") == 400
