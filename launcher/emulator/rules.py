"""What CreateTrainingJob refuses beyond its own model: fields that do not go together."""

from collections.abc import Collection, Mapping
from typing import Any

_LOCAL_CHECKPOINTS = "/opt/ml/checkpoints"


def request_conflicts(request: Mapping[str, Any], file_systems: Collection[str]) -> list[str]:
    """Sentences about fields that contradict each other; `file_systems` are those served here."""
    return [
        *_machines(request),
        *_times(request),
        *_checkpoints(request),
        *_channels(request, file_systems),
    ]


def _machines(request: Mapping[str, Any]) -> list[str]:
    resources = request.get("ResourceConfig")
    if resources is None:
        return ["ResourceConfig is missing"]
    problems = []
    groups = resources.get("InstanceGroups")
    single = [key for key in ("InstanceType", "InstanceCount") if key in resources]
    if groups and single:
        problems.append(f"ResourceConfig: InstanceGroups do not go with {' and '.join(single)}")
    elif not groups and len(single) < 2:
        problems.append("ResourceConfig: give InstanceType and InstanceCount, or InstanceGroups")
    if resources.get("KeepAlivePeriodInSeconds"):
        if groups:
            problems.append("ResourceConfig: a warm pool does not go with InstanceGroups")
        if request.get("EnableManagedSpotTraining"):
            problems.append("ResourceConfig: a warm pool does not go with managed spot training")
    if "TrainingImage" not in request.get("AlgorithmSpecification", {}):
        problems.append("AlgorithmSpecification: TrainingImage is missing")
    return problems


def _times(request: Mapping[str, Any]) -> list[str]:
    limits = request.get("StoppingCondition")
    if limits is None:
        return ["StoppingCondition is missing"]
    longest_wait = limits.get("MaxWaitTimeInSeconds")
    if request.get("EnableManagedSpotTraining"):
        if longest_wait is None or longest_wait < limits.get("MaxRuntimeInSeconds", 86400):
            return [
                "Invalid MaxWaitTimeInSeconds. It must be present and be greater than or equal "
                "to MaxRuntimeInSeconds when EnableManagedSpotTraining is true"
            ]
    elif longest_wait is not None:
        return ["MaxWaitTimeInSeconds goes with EnableManagedSpotTraining only"]
    return []


def _checkpoints(request: Mapping[str, Any]) -> list[str]:
    checkpoints = request.get("CheckpointConfig")
    if checkpoints is None:
        return []
    problems = []
    if len(request.get("ResourceConfig", {}).get("InstanceGroups", ())) > 1:
        problems.append("CheckpointConfig does not go with several InstanceGroups")
    if checkpoints.get("LocalPath", _LOCAL_CHECKPOINTS) != _LOCAL_CHECKPOINTS:
        problems.append(f"CheckpointConfig: the emulator knows LocalPath {_LOCAL_CHECKPOINTS} only")
    return problems


def _channels(request: Mapping[str, Any], file_systems: Collection[str]) -> list[str]:
    problems = []
    channels = request.get("InputDataConfig", ())
    names = [channel["ChannelName"] for channel in channels]
    if len(set(names)) != len(names):
        problems.append("InputDataConfig: two channels have the same name")
    groups = {g["InstanceGroupName"] for g in _groups(request)}
    with_groups = 0
    for channel in channels:
        where = f"InputDataConfig '{channel['ChannelName']}'"
        source = channel["DataSource"]
        if len(source) != 1:
            problems.append(f"{where}: give S3DataSource or FileSystemDataSource")
        if "S3DataSource" in source:
            named = source["S3DataSource"].get("InstanceGroupNames", ())
            with_groups += bool(named)
            problems += [f"{where}: there is no group '{n}'" for n in named if n not in groups]
            problems += _s3(where, source["S3DataSource"])
        if "FileSystemDataSource" in source:
            problems += _file_system(where, request, source["FileSystemDataSource"], file_systems)
    num_s3 = sum("S3DataSource" in channel["DataSource"] for channel in channels)
    if 0 < with_groups < num_s3:
        problems.append("InputDataConfig: all S3 channels name InstanceGroupNames, or none does")
    return problems


def _groups(request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    groups: list[Mapping[str, Any]] = request.get("ResourceConfig", {}).get("InstanceGroups", [])
    return groups


def _s3(where: str, source: Mapping[str, Any]) -> list[str]:
    if source["S3DataType"] != "S3Prefix":
        return [f"{where}: the emulator knows S3DataType S3Prefix only"]
    return []


def _file_system(
    where: str, request: Mapping[str, Any], source: Mapping[str, Any], served: Collection[str]
) -> list[str]:
    problems = []
    if "VpcConfig" not in request:
        problems.append(f"{where}: a file system needs VpcConfig")
    if source["FileSystemId"] not in served:
        identity = source["FileSystemId"]
        problems.append(
            f"{where}: the emulator serves no {identity}; start it with --file-system "
            f"{identity}=DIR"
        )
    if not source["DirectoryPath"].startswith("/"):
        problems.append(f"{where}: DirectoryPath must begin with /")
    elif source["FileSystemType"] == "FSxLustre" and source["DirectoryPath"] == "/":
        problems.append(f"{where}: DirectoryPath must begin with /MOUNTNAME")
    return problems
