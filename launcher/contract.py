"""The hosts of a job and the files that SageMaker puts on each of them."""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONE_GROUP = "homogeneousCluster"
"""Name of the only group of a cluster that was asked for without groups."""
FAILURE_LENGTH = 1024

_FOLDERS = ("input/config", "input/data", "model", "output/data", "checkpoints")


class TransferError(Exception):
    """Objects could not be copied; the message says which and why."""


@dataclass(frozen=True)
class FileSystem:
    """A folder of this machine that is served as FSx or EFS."""

    folder: Path
    mount_name: str = "rayasr"  # Lustre's


@dataclass(frozen=True)
class Mount:
    """A folder of this machine that a host sees under its own /opt/ml."""

    source: Path
    target: str  # relative to /opt/ml
    read_only: bool


@dataclass(frozen=True)
class Host:
    """One machine of a job, for one attempt."""

    name: str
    instance_type: str
    group: str
    folder: Path
    mounts: tuple[Mount, ...] = ()

    @property
    def ml(self) -> Path:
        """What the host sees as /opt/ml."""
        return self.folder / "ml"

    def failure(self) -> str:
        """What the host says of its failure, cut as the service cuts it."""
        try:
            text = (self.ml / "output/failure").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return text[:FAILURE_LENGTH]


def lay_out(
    request: Mapping[str, Any], folder: Path, mounts: tuple[Mount, ...] = ()
) -> tuple[Host, ...]:
    """The hosts that a request asks for, algo-1 first; of several groups any may get algo-1."""
    resources = request["ResourceConfig"]
    groups = resources.get("InstanceGroups") or [resources | {"InstanceGroupName": LONE_GROUP}]
    places = [
        (group["InstanceGroupName"], group["InstanceType"])
        for group in groups
        for _ in range(group["InstanceCount"])
    ]
    random.Random(request["TrainingJobName"]).shuffle(places)
    return tuple(
        Host(f"algo-{number}", kind, group, folder / f"algo-{number}", mounts)
        for number, (group, kind) in enumerate(places, start=1)
    )


def num_hosts(request: Mapping[str, Any]) -> int:
    """How many machines a request asks for."""
    resources = request["ResourceConfig"]
    groups = resources.get("InstanceGroups") or [resources]
    return sum(group["InstanceCount"] for group in groups)


def write_contract(
    host: Host, hosts: Sequence[Host], request: Mapping[str, Any], interface: str
) -> None:
    """Make a host's /opt/ml as the service does before it starts the container."""
    for name in _FOLDERS:
        (host.ml / name).mkdir(parents=True)
    files = {
        "resourceconfig": _resource_config(host, hosts, interface),
        "hyperparameters": request.get("HyperParameters", {}),
        "inputdataconfig": {
            channel["ChannelName"]: _channel(channel) for channel in channels_of(host, request)
        },
    }
    if "CheckpointConfig" in request:
        files["checkpointconfig"] = {"LocalPath": "/opt/ml/checkpoints"}
    for name, content in files.items():
        path = host.ml / f"input/config/{name}.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def contract_environment(request: Mapping[str, Any], arn: str, region: str) -> dict[str, str]:
    """The environment variables of every host: the request's, and the service's own."""
    return {
        **request.get("Environment", {}),
        "TRAINING_JOB_NAME": request["TrainingJobName"],
        "TRAINING_JOB_ARN": arn,
        "AWS_REGION": region,
    }


def channels_of(host: Host, request: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The channels that a host gets: those that name its group, or none."""
    return [
        channel
        for channel in request.get("InputDataConfig", ())
        if host.group in _named_groups(channel) or not _named_groups(channel)
    ]


def file_system_mounts(
    request: Mapping[str, Any], file_systems: Mapping[str, FileSystem]
) -> tuple[Mount, ...]:
    """The folders that channels mean; raises TransferError where one cannot be mounted."""
    mounts = []
    for channel in request.get("InputDataConfig", ()):
        source = channel["DataSource"].get("FileSystemDataSource")
        if source is None:
            continue
        folder = _mounted_folder(source, file_systems[source["FileSystemId"]])
        target = f"input/data/{channel['ChannelName']}"
        mounts.append(Mount(folder, target, source.get("FileSystemAccessMode") != "rw"))
    return tuple(mounts)


def _mounted_folder(source: Mapping[str, Any], system: FileSystem) -> Path:
    """A channel's folder of a file system; in FSx its path begins with the mount name."""
    name, path = source["FileSystemId"], source["DirectoryPath"].strip("/")
    if source["FileSystemType"] == "FSxLustre":
        mount_name, _, path = path.partition("/")
        if mount_name != system.mount_name:
            raise TransferError(
                f"cannot mount /{mount_name} of {name}: its MountName is {system.mount_name}"
            )
    folder: Path = system.folder / path
    if not folder.is_dir():
        raise TransferError(f"cannot mount /{path} of {name}: there is no such folder")
    return folder


def _named_groups(channel: Mapping[str, Any]) -> Sequence[str]:
    source = channel["DataSource"].get("S3DataSource", {})
    groups: Sequence[str] = source.get("InstanceGroupNames", ())
    return groups


def _resource_config(host: Host, hosts: Sequence[Host], interface: str) -> dict[str, Any]:
    """Hosts are sorted as text, algo-10 before algo-2; those of a group have no order."""
    groups: dict[tuple[str, str], list[str]] = {}
    for other in hosts:
        groups.setdefault((other.group, other.instance_type), []).append(other.name)
    for names in groups.values():
        random.Random(len(names)).shuffle(names)
    return {
        "current_host": host.name,
        "current_instance_type": host.instance_type,
        "current_group_name": host.group,
        "hosts": sorted(other.name for other in hosts),
        "instance_groups": [
            {"instance_group_name": group, "instance_type": kind, "hosts": names}
            for (group, kind), names in groups.items()
        ],
        "network_interface_name": interface,
    }


def _channel(channel: Mapping[str, Any]) -> dict[str, str]:
    """A channel as inputdataconfig.json shows it: no path, no file system, FastFile as File."""
    source = channel["DataSource"].get("S3DataSource", {})
    shown = {
        "TrainingInputMode": "File",
        "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
        "RecordWrapperType": channel.get("RecordWrapperType", "None"),
    }
    if "ContentType" in channel:
        shown["ContentType"] = channel["ContentType"]
    return shown
