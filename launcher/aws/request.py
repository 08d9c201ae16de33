"""The body of CreateTrainingJob: pure JSON, exactly what `launch --dry-run` prints."""

import math
from typing import Any

from launcher.aws.request_check import request_problems
from launcher.cloud_plan import CloudPlan, directory_path
from launcher.cloud_spec import SageMakerSpec, seconds
from launcher.job_file import DIGEST_VARIABLE
from launcher.spec import JOB_CHANNEL, ChannelSpec
from rayasr.errors import ConfigError

CHECKPOINT_PATH = "/opt/ml/checkpoints"

DEFAULT_METRICS = {
    "train:loss": r"step [0-9]+/[0-9]+ epoch [0-9]+: loss ([0-9.]+)",
    "train:audio_hours_per_hour": r"([0-9]+) audio-h/h",
    "dev:loss": r"dev at step [0-9]+ \(epoch [0-9]+\): loss ([0-9.]+)",
    "dev:error_rate": r"greedy [CW]ER ([0-9.]+) %",
}
"""Name → the number in a line of the training's log."""


def training_job_request(plan: CloudPlan) -> dict[str, Any]:
    """The request for a plan, without any secret; raises ConfigError where it breaks a limit."""
    place = plan.place
    request: dict[str, Any] = {
        "TrainingJobName": plan.name,
        "RoleArn": place.role,
        "AlgorithmSpecification": {
            "TrainingImage": place.image,
            "TrainingInputMode": "File",
            "MetricDefinitions": [
                {"Name": name, "Regex": regex}
                for name, regex in (place.metrics or DEFAULT_METRICS).items()
            ],
        },
        "Environment": {DIGEST_VARIABLE: plan.digest},
        "InputDataConfig": _channels(plan),
        "OutputDataConfig": _with({"S3OutputPath": place.output}, KmsKeyId=place.output_kms_key),
        "ResourceConfig": _resources(place),
        "StoppingCondition": _times(plan),
        "EnableNetworkIsolation": place.network_isolation,
        "EnableInterContainerTrafficEncryption": place.encrypt_traffic,
        "EnableManagedSpotTraining": place.spot,
        "ProfilerConfig": {"DisableProfiler": True},
    }
    if place.vpc is not None:
        request["VpcConfig"] = {
            "SecurityGroupIds": list(place.vpc.security_groups),
            "Subnets": list(place.vpc.subnets),
        }
    if place.checkpoints is not None:
        request["CheckpointConfig"] = {
            "S3Uri": place.checkpoints,
            "LocalPath": CHECKPOINT_PATH,
        }
    if place.attempts is not None:
        request["RetryStrategy"] = {"MaximumRetryAttempts": place.attempts}
    if place.tags:
        request["Tags"] = [{"Key": key, "Value": value} for key, value in place.tags.items()]
    if problems := request_problems(request):
        raise ConfigError(f"SageMaker would refuse the job: {'; '.join(problems[:3])}")
    return request


def _channels(plan: CloudPlan) -> list[dict[str, Any]]:
    """The job's own channel and the user's; of S3 channels all name their groups, or none."""
    every = tuple(group.name for group in plan.place.instance_groups)
    named = any(channel.groups for channel in plan.job.channels.values())
    channels = [
        {
            "ChannelName": JOB_CHANNEL,
            "DataSource": _s3_source(plan.job_prefix, every if named else ()),
            "InputMode": "File",
        }
    ]
    for name, channel in plan.job.channels.items():
        if channel.s3 is None:
            source = _file_system(channel, plan)
            channels.append({"ChannelName": name, "DataSource": source})
            continue
        groups = (channel.groups or every) if named else ()
        channels.append(
            {
                "ChannelName": name,
                "DataSource": _s3_source(channel.s3, groups),
                "InputMode": channel.input_mode,
            }
        )
    return channels


def _s3_source(url: str, groups: tuple[str, ...]) -> dict[str, Any]:
    source: dict[str, Any] = {
        "S3DataType": "S3Prefix",
        "S3Uri": f"{url}/",  # without the slash, `corpus` would also mean `corpus-old/…`
        "S3DataDistributionType": "FullyReplicated",
    }
    return {"S3DataSource": source | ({"InstanceGroupNames": list(groups)} if groups else {})}


def _file_system(channel: ChannelSpec, plan: CloudPlan) -> dict[str, Any]:
    source = channel.fsx or channel.efs
    assert source is not None
    return {
        "FileSystemDataSource": {
            "FileSystemId": source.id,
            "FileSystemType": "FSxLustre" if channel.fsx else "EFS",
            "FileSystemAccessMode": "rw" if channel.access == "write" else "ro",
            "DirectoryPath": directory_path(channel, plan.mount_names),
        }
    }


def _resources(place: SageMakerSpec) -> dict[str, Any]:
    resources: dict[str, Any] = {"VolumeSizeInGB": place.volume_gb}
    if place.instance_groups:
        resources["InstanceGroups"] = [
            {
                "InstanceGroupName": group.name,
                "InstanceType": group.instance_type,
                "InstanceCount": group.instance_count,
            }
            for group in place.instance_groups
        ]
    else:
        resources["InstanceType"] = place.instance_type
        resources["InstanceCount"] = place.instance_count
    return _with(
        resources,
        VolumeKmsKeyId=place.volume_kms_key,
        KeepAlivePeriodInSeconds=_whole_seconds(place.keep_alive),
    )


def _times(plan: CloudPlan) -> dict[str, Any]:
    return _with(
        {"MaxRuntimeInSeconds": math.ceil(plan.job.time_limit_s)},
        MaxWaitTimeInSeconds=_whole_seconds(plan.place.max_wait),
        MaxPendingTimeInSeconds=_whole_seconds(plan.place.max_pending),
    )


def _whole_seconds(time: str | None) -> int | None:
    return None if time is None else math.ceil(seconds(time))


def _with(values: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """The values and those optional ones that are set."""
    return values | {name: value for name, value in optional.items() if value is not None}
