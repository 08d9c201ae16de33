"""The walker finds what botocore lets pass."""

import datetime
import re
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel

from launcher.aws.request_check import python_pattern, request_problems

ROLE = "arn:aws:iam::123456789012:role/job"
SOUND: dict[str, Any] = {
    "TrainingJobName": "job-1",
    "RoleArn": ROLE,
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
}


def test_a_sound_request_has_no_problem() -> None:
    assert request_problems(SOUND) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"TrainingJobName": "x" * 64}, "TrainingJobName: has 64 characters, more than 63"),
        ({"TrainingJobName": ""}, "TrainingJobName: has 0 characters, fewer than 1"),
        ({"TrainingJobName": "a_b"}, "TrainingJobName: 'a_b' does not match [a-zA-Z0-9]"),
        ({"TrainingJobName": "job\n"}, "TrainingJobName: 'job\\n' does not match"),
        ({"TrainingJobName": "语音"}, "TrainingJobName: '语音' does not match"),
        ({"TrainingJobName": 7}, "TrainingJobName: must be of type string, found int"),
        ({"RoleArn": None}, "RoleArn: must be of type string, found NoneType"),
        ({"OutputDataConfig": {}}, "OutputDataConfig.S3OutputPath: is required"),
        ({"Trainingjobname": "x"}, "Trainingjobname: is unknown"),
        ({"EnableManagedSpotTraining": 1}, "EnableManagedSpotTraining: must be of type boolean"),
        ({"HyperParameters": {str(i): "" for i in range(101)}}, "HyperParameters: has 101 entries"),
        ({"HyperParameters": {"a": "x" * 2501}}, "HyperParameters.a: has 2501 characters"),
        ({"Environment": {"a-b": "1"}}, "Environment (name 'a-b'): 'a-b' does not match"),
        ({"InputDataConfig": []}, "InputDataConfig: has 0 items, fewer than 1"),
        ({"InputDataConfig": [{}]}, "InputDataConfig[0].ChannelName: is required"),
        (
            {"ResourceConfig": {"InstanceType": "ml.g5.13xlarge"}},
            "ResourceConfig.InstanceType: 'ml.g5.13xlarge' is none of its",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.g5.13xlarge"}},
            "did you mean ml.g5",
        ),
        (
            {"ResourceConfig": {"InstanceCount": True}},
            "InstanceCount: must be of type integer, found bool",
        ),
        (
            {"RetryStrategy": {"MaximumRetryAttempts": 31}},
            "RetryStrategy.MaximumRetryAttempts: has 31, more than 30",
        ),
        (
            {"StoppingCondition": {"MaxWaitTimeInSeconds": 2**31}},
            "StoppingCondition.MaxWaitTimeInSeconds: has 2147483648, more than 2147483647",
        ),
        ({"Tags": [{"Key": "a\u0007", "Value": ""}]}, "Tags[0].Key: 'a\\x07' does not match"),
    ],
)
def test_each_limit_of_the_model(changes: dict[str, Any], problem: str) -> None:
    problems = request_problems(SOUND | changes)
    assert len(problems) >= 1
    assert problem in problems[0]


def test_all_problems_are_told() -> None:
    problems = request_problems({"TrainingJobName": "_", "OutputDataConfig": {}})
    assert [problem.split(":")[0] for problem in problems] == [
        "RoleArn",
        "TrainingJobName",
        "OutputDataConfig.S3OutputPath",
    ]


def test_letters_of_every_script_are_letters() -> None:
    assert request_problems(SOUND | {"Tags": [{"Key": "项目 é_1", "Value": "語音 2026"}]}) == []


def test_times_may_be_numbers_or_dates() -> None:
    now = datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC)
    for value in (now, 1.7e9):
        assert request_problems({"CreationTimeAfter": value}, "ListTrainingJobs") == []


def test_other_services_have_models_too() -> None:
    request = {"logGroupName": "/aws/sagemaker/TrainingJobs", "limit": 51}
    assert request_problems(request, "DescribeLogStreams", "logs") == [
        "limit: has 51, more than 50"
    ]


@pytest.mark.parametrize(
    ("service", "operations"),
    [
        (
            "sagemaker",
            [
                *("CreateTrainingJob", "DescribeTrainingJob", "ListTrainingJobs", "AddTags"),
                *("StopTrainingJob", "CreateNotebookInstanceLifecycleConfig"),
            ],
        ),
        ("logs", ["DescribeLogStreams", "GetLogEvents"]),
        (
            "fsx",
            ["CreateFileSystem", "CreateDataRepositoryAssociation", "CreateDataRepositoryTask"],
        ),
        ("ecr", ["CreateRepository", "DescribeImages", "BatchGetImage"]),
        ("iam", ["GetRole"]),
    ],
)
def test_patterns_of_what_we_call_are_understood(service: str, operations: list[str]) -> None:
    """Java's patterns compile here, without a warning."""
    model = ServiceModel(Loader().load_service_model(service, "service-2"))
    patterns = set()
    for operation in operations:
        todo, seen = [model.operation_model(operation).input_shape], set()
        while todo:
            shape = todo.pop()
            if shape.name in seen:
                continue
            seen.add(shape.name)
            patterns.add(shape.metadata.get("pattern", ""))
            inner = getattr(shape, "members", {}).values()
            parts = [getattr(shape, part, None) for part in ("member", "key", "value")]
            todo += [*inner, *(part for part in parts if part is not None)]
    assert len(patterns) > 1
    for pattern in patterns:
        re.compile(python_pattern(pattern))
