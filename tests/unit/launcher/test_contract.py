"""The files of the contract, as the real service writes them."""

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.contract import (
    FileSystem,
    Mount,
    TransferError,
    contract_environment,
    file_system_mounts,
    lay_out,
    write_contract,
)
from tests.rehearsal import fsx_channel, request, s3_channel

GROUPS = [
    {"InstanceGroupName": "cpu", "InstanceType": "ml.c5.xlarge", "InstanceCount": 2},
    {"InstanceGroupName": "gpu", "InstanceType": "ml.g5.xlarge", "InstanceCount": 3},
]


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"input/config/{name}.json").read_text(encoding="utf-8"))


def write_all(body: dict[str, Any], folder: Path) -> dict[str, Path]:
    hosts = lay_out(body, folder)
    for host in hosts:
        write_contract(host, hosts, body, "eth0")
    return {host.name: host.ml for host in hosts}


def test_hosts_are_sorted_as_text_and_those_of_a_group_are_not(tmp_path: Path) -> None:
    folders = write_all(request("job", hosts=12), tmp_path)
    assert list(folders) == [f"algo-{n}" for n in range(1, 13)]
    config = read(folders["algo-2"], "resourceconfig")
    assert config["hosts"][:5] == ["algo-1", "algo-10", "algo-11", "algo-12", "algo-2"]
    (group,) = config["instance_groups"]
    assert group["hosts"] != config["hosts"]
    assert sorted(group["hosts"]) == config["hosts"]
    assert group["instance_group_name"] == config["current_group_name"] == "homogeneousCluster"
    assert config["current_host"] == "algo-2"
    assert config["current_instance_type"] == "ml.c5.xlarge"
    assert config["network_interface_name"] == "eth0"


def test_any_group_may_get_the_first_host(tmp_path: Path) -> None:
    groups_of_first = set()
    for name in ("a", "b", "c", "d", "e", "f"):
        body = request(name) | {"ResourceConfig": {"InstanceGroups": GROUPS}}
        folders = write_all(body, tmp_path / name)
        config = read(folders["algo-1"], "resourceconfig")
        groups_of_first.add(config["current_group_name"])
        kinds = {g["instance_group_name"]: g["instance_type"] for g in config["instance_groups"]}
        assert kinds == {"cpu": "ml.c5.xlarge", "gpu": "ml.g5.xlarge"}
        assert config["current_instance_type"] == kinds[config["current_group_name"]]
        assert [len(g["hosts"]) for g in config["instance_groups"]] in ([2, 3], [3, 2])
    assert groups_of_first == {"cpu", "gpu"}


def test_channels_are_shown_without_their_places(tmp_path: Path) -> None:
    body = request("job") | {
        "InputDataConfig": [
            fsx_channel("work", "fs-01234567", "/mount/x"),
            s3_channel("text", "text/") | {"InputMode": "FastFile", "ContentType": "text/plain"},
        ],
        "CheckpointConfig": {"S3Uri": "s3://bucket/checkpoints"},
        "HyperParameters": {"quotes": "'\"$(x) `y`\n语音"},
    }
    ml = write_all(body, tmp_path)["algo-1"]
    shown = {
        "TrainingInputMode": "File",
        "S3DistributionType": "FullyReplicated",
        "RecordWrapperType": "None",
    }
    channels = {"work": shown, "text": shown | {"ContentType": "text/plain"}}
    assert read(ml, "inputdataconfig") == channels
    assert read(ml, "checkpointconfig") == {"LocalPath": "/opt/ml/checkpoints"}
    assert read(ml, "hyperparameters") == body["HyperParameters"]
    for name in ("model", "output/data", "checkpoints", "input/data"):
        assert (ml / name).is_dir()


def test_a_channel_of_a_group_is_only_there(tmp_path: Path) -> None:
    body = request("job") | {
        "ResourceConfig": {"InstanceGroups": GROUPS},
        "InputDataConfig": [s3_channel("audio", "audio/", InstanceGroupNames=["gpu"])],
    }
    for ml in write_all(body, tmp_path).values():
        on_gpu = read(ml, "resourceconfig")["current_group_name"] == "gpu"
        assert list(read(ml, "inputdataconfig")) == (["audio"] if on_gpu else [])


def test_paths_in_lustre_begin_with_the_mount_name(tmp_path: Path) -> None:
    (tmp_path / "l/deep/folder").mkdir(parents=True)
    (tmp_path / "e/deep").mkdir(parents=True)
    served = {"fs-0": FileSystem(tmp_path / "l", "mount"), "fs-1": FileSystem(tmp_path / "e")}
    lustre = fsx_channel("a", "fs-0", "/mount/deep/folder", "ro")
    efs = fsx_channel("b", "fs-1", "/deep")
    efs["DataSource"]["FileSystemDataSource"]["FileSystemType"] = "EFS"
    root = fsx_channel("c", "fs-0", "/mount")
    assert file_system_mounts({"InputDataConfig": [lustre, efs, root]}, served) == (
        Mount(tmp_path / "l/deep/folder", "input/data/a", read_only=True),
        Mount(tmp_path / "e/deep", "input/data/b", read_only=False),
        Mount(tmp_path / "l", "input/data/c", read_only=False),
    )


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/other/deep", "cannot mount /other of fs-0: its MountName is mount"),
        ("/mount/nothing", "cannot mount /nothing of fs-0: there is no such folder"),
    ],
)
def test_what_is_not_there_cannot_be_mounted(tmp_path: Path, path: str, says: str) -> None:
    body = {"InputDataConfig": [fsx_channel("a", "fs-0", path)]}
    with pytest.raises(TransferError) as raised:
        file_system_mounts(body, {"fs-0": FileSystem(tmp_path, "mount")})
    assert str(raised.value) == says


def test_the_service_adds_its_own_variables() -> None:
    body = request("job") | {"Environment": {"X": "1", "TRAINING_JOB_NAME": "other"}}
    assert contract_environment(body, "arn:…", "cn-north-1") == {
        "X": "1",
        "TRAINING_JOB_NAME": "job",
        "TRAINING_JOB_ARN": "arn:…",
        "AWS_REGION": "cn-north-1",
    }
