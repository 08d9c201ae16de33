"""Fields that do not go together."""

from typing import Any

import pytest

from launcher.emulator.rules import request_conflicts
from tests.rehearsal import fsx_channel, request, s3_channel

SYSTEM = "fs-0123456789"
VPC = {"VpcConfig": {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}
GROUP = {"InstanceGroupName": "cpu", "InstanceType": "ml.c5.xlarge", "InstanceCount": 1}
OTHER = GROUP | {"InstanceGroupName": "gpu"}


def conflicts(**fields: Any) -> list[str]:
    body = {key: value for key, value in (request("job") | fields).items() if value is not None}
    return request_conflicts(body, {SYSTEM})


def test_sound_requests_have_none() -> None:
    assert conflicts() == []
    assert conflicts(**VPC, InputDataConfig=[fsx_channel("work", SYSTEM, "/mount/x")]) == []
    assert conflicts(ResourceConfig={"InstanceGroups": [GROUP, OTHER]}) == []
    spot = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 60}
    assert conflicts(EnableManagedSpotTraining=True, StoppingCondition=spot) == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ResourceConfig": None}, "ResourceConfig is missing"),
        ({"ResourceConfig": {"InstanceType": "ml.c5.xlarge"}}, "give InstanceType and"),
        (
            {"ResourceConfig": {"InstanceGroups": [GROUP], "InstanceCount": 1}},
            "InstanceGroups do not go with InstanceCount",
        ),
        (
            {"ResourceConfig": {"InstanceGroups": [GROUP], "KeepAlivePeriodInSeconds": 60}},
            "a warm pool does not go with InstanceGroups",
        ),
        ({"AlgorithmSpecification": {"TrainingInputMode": "File"}}, "TrainingImage is missing"),
        ({"StoppingCondition": None}, "StoppingCondition is missing"),
        ({"EnableManagedSpotTraining": True}, "Invalid MaxWaitTimeInSeconds"),
        (
            {"StoppingCondition": {"MaxWaitTimeInSeconds": 60}},
            "MaxWaitTimeInSeconds goes with EnableManagedSpotTraining only",
        ),
        (
            {
                "ResourceConfig": {"InstanceGroups": [GROUP, OTHER]},
                "CheckpointConfig": {"S3Uri": "s3://b/c"},
            },
            "CheckpointConfig does not go with several InstanceGroups",
        ),
        (
            {"CheckpointConfig": {"S3Uri": "s3://b/c", "LocalPath": "/tmp/x"}},
            "knows LocalPath /opt/ml/checkpoints only",
        ),
        ({"InputDataConfig": [s3_channel("a", "x"), s3_channel("a", "y")]}, "the same name"),
        (
            {"InputDataConfig": [fsx_channel("a", SYSTEM, "/mount")]},
            "a file system needs VpcConfig",
        ),
        (
            VPC | {"InputDataConfig": [fsx_channel("a", "fs-99999999", "/mount")]},
            "serves no fs-99999999; start it with --file-system fs-99999999=DIR",
        ),
        (VPC | {"InputDataConfig": [fsx_channel("a", SYSTEM, "/")]}, "begin with /MOUNTNAME"),
        (VPC | {"InputDataConfig": [fsx_channel("a", SYSTEM, "mount")]}, "must begin with /"),
        (
            {"InputDataConfig": [s3_channel("a", "x", InstanceGroupNames=["gpu"])]},
            "there is no group 'gpu'",
        ),
        (
            {
                "ResourceConfig": {"InstanceGroups": [GROUP, OTHER]},
                "InputDataConfig": [
                    s3_channel("a", "x", InstanceGroupNames=["gpu"]),
                    s3_channel("b", "y"),
                ],
            },
            "all S3 channels name InstanceGroupNames, or none does",
        ),
        (
            {"InputDataConfig": [s3_channel("a", "x", S3DataType="ManifestFile")]},
            "knows S3DataType S3Prefix only",
        ),
    ],
)
def test_conflicts_are_found(fields: dict[str, Any], says: str) -> None:
    (problem,) = conflicts(**fields)
    assert says in problem
