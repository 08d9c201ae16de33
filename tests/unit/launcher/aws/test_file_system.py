"""File systems as data: what AWS would refuse, what it is asked for, what is told."""

import pytest

from launcher.aws.file_system import (
    THROUGHPUTS,
    Deployment,
    FileSystem,
    FileSystemOptions,
    S3Link,
    Volume,
    default_volume,
)
from launcher.aws.request_check import request_problems
from rayasr.errors import ConfigError

SMALL = Volume("PERSISTENT_2", 1200, 125)


def options(volume: Volume = SMALL, **fields: str) -> FileSystemOptions:
    groups = ("sg-01234567",)
    return FileSystemOptions("asr", "subnet-01234567", groups, volume, **fields)


VOLUMES = [
    Volume(kind, size, speed)
    for kind, speeds in THROUGHPUTS.items()
    for speed in speeds or (None,)
    for size in (1200, 2400, 7200)
]


@pytest.mark.parametrize("volume", VOLUMES, ids=Volume.describe)
def test_requests_hold_against_the_model_of_aws(volume: Volume) -> None:
    request = options(volume).request
    assert request_problems(request, "CreateFileSystem", "fsx") == []
    assert request["FileSystemTypeVersion"] == "2.15"
    assert request["LustreConfiguration"]["DataCompressionType"] == "LZ4"
    assert request["LustreConfiguration"].get("PerUnitStorageThroughput") == volume.throughput


def test_key_and_name_of_a_request() -> None:
    request = options(kms_key="arn:aws:kms:eu-west-1:123456789012:key/k").request
    assert request["KmsKeyId"] == "arn:aws:kms:eu-west-1:123456789012:key/k"
    assert request["Tags"] == [{"Key": "Name", "Value": "asr"}]
    assert "KmsKeyId" not in options().request


@pytest.mark.parametrize("size", [0, -2400, 1, 600, 1199, 3600, 2401])
def test_sizes_that_there_are_not(size: int) -> None:
    with pytest.raises(ConfigError, match=f"--capacity {size}: give 1200, 2400, or more"):
        options(Volume("SCRATCH_2", size, None))


def test_throughput_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="of PERSISTENT_1 must be one of 50, 100, 200"):
        options(Volume("PERSISTENT_1", 1200, 125))
    with pytest.raises(ConfigError, match="SCRATCH_2 has no --throughput"):
        options(Volume("SCRATCH_2", 1200, 50))


def test_scratch_with_a_key() -> None:
    with pytest.raises(ConfigError, match="no --kms-key"):
        options(Volume("SCRATCH_2", 1200, None), kms_key="k")


@pytest.mark.parametrize("s3", ["bucket/x", "http://bucket", "s3://", "s3://B/x", "s3://b/a b"])
def test_addresses_that_are_not_in_s3(s3: str) -> None:
    with pytest.raises(ConfigError, match="must be s3://BUCKET/PREFIX"):
        options(s3=s3)


def test_a_path_without_its_slash() -> None:
    with pytest.raises(ConfigError, match="--s3-path data must begin with /"):
        options(s3="s3://bucket", s3_path="data")


@pytest.mark.parametrize(
    ("partition", "kind", "speed", "made"),
    [
        ("aws", None, None, Volume("PERSISTENT_2", 1200, 125)),
        ("aws-cn", None, None, Volume("PERSISTENT_1", 1200, 50)),
        ("aws-us-gov", None, 200, Volume("PERSISTENT_1", 1200, 200)),
        ("aws", "SCRATCH_2", None, Volume("SCRATCH_2", 1200, None)),
        ("aws-cn", "PERSISTENT_2", 500, Volume("PERSISTENT_2", 1200, 500)),
    ],
)
def test_what_is_made_where_nothing_is_said(
    partition: str, kind: Deployment | None, speed: int | None, made: Volume
) -> None:
    assert default_volume(partition, 1200, kind, speed) == made


def test_price_of_a_month() -> None:
    assert SMALL.describe_price().startswith("174.00 USD a month, used or not (us-east-1, as of ")
    assert SMALL.describe_price(0.2) == "240.00 a month, used or not"
    assert Volume("PERSISTENT_2", 1200, 7).describe_price() == "not known; give --price"


def test_every_kind_has_a_price() -> None:
    assert [volume for volume in VOLUMES if "not known" in volume.describe_price()] == []


ANSWER = {
    "FileSystemId": "fs-01234567",
    "Lifecycle": "AVAILABLE",
    "StorageCapacity": 2400,
    "VpcId": "vpc-1",
    "SubnetIds": ["subnet-1"],
    "DNSName": "fs-01234567.fsx.eu-west-1.amazonaws.com",
    "FileSystemTypeVersion": "2.15",
    "Tags": [{"Key": "x", "Value": "y"}, {"Key": "Name", "Value": "asr"}],
    "LustreConfiguration": {
        "DeploymentType": "PERSISTENT_2",
        "PerUnitStorageThroughput": 250,
        "MountName": "abcd1234",
    },
}
LINK = {
    "AssociationId": "dra-1",
    "FileSystemPath": "/data",
    "DataRepositoryPath": "s3://bucket/data/",
    "Lifecycle": "AVAILABLE",
    "S3": {"AutoImportPolicy": {"Events": ["NEW"]}},
}


def test_a_file_system_for_a_person() -> None:
    found = FileSystem.from_answer(ANSWER)
    assert found.describe([S3Link.from_answer(LINK)], price=0.1).splitlines() == [
        "file system  fs-01234567 (asr), AVAILABLE",
        "volume       2400 GiB PERSISTENT_2, 250 MB/s per TiB, Lustre 2.15",
        "network      vpc-1, subnet-1",
        "mount        fs-01234567.fsx.eu-west-1.amazonaws.com@tcp:/abcd1234",
        "S3           /data = s3://bucket/data, AVAILABLE; automatic import on, export off",
        "price        240.00 a month, used or not",
    ]


def test_a_file_system_that_is_being_made() -> None:
    found = FileSystem.from_answer({"FileSystemId": "fs-01234567"})
    lines = found.describe([]).splitlines()
    assert lines[0] == "file system  fs-01234567, CREATING"
    assert "mount        not yet" in lines
    assert "S3           no link: what is in it, is nowhere else" in lines
