"""Partitions come from botocore's data."""

import pytest

from launcher.partition import Partition, partition_of
from rayasr.errors import ConfigError


@pytest.mark.parametrize(
    ("region", "name", "suffix"),
    [
        ("eu-central-1", "aws", "amazonaws.com"),
        ("cn-northwest-1", "aws-cn", "amazonaws.com.cn"),
        ("us-gov-west-1", "aws-us-gov", "amazonaws.com"),
        ("eu-future-9", "aws", "amazonaws.com"),  # newer than the data
    ],
)
def test_partition_of_a_region(region: str, name: str, suffix: str) -> None:
    assert partition_of(region) == Partition(name, suffix)


@pytest.mark.parametrize(
    ("region", "hint"),
    [("eu-central1", "did you mean eu-central-1"), ("北京", "such as"), ("", "such as")],
)
def test_unknown_region(region: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no AWS region '{region}'; {hint}"):
        partition_of(region)
