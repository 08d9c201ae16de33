"""Faults of the account, the role and the image's address."""

import pytest

from launcher.preflight.facts import Identity, Role, Unknown
from tests.cloud_jobs import REGION
from tests.sound_job import ACCOUNT, ROLE, Fault, see_that_it_is_found

FAULTS = [
    Fault(
        "credentials",
        "the security token is expired",
        facts={
            "identity": None,
            "unknown": (Unknown("credentials", "", "the security token is expired"),),
        },
    ),
    Fault(
        "credentials-partition",
        "is in aws",
        facts={"identity": Identity(ACCOUNT, f"arn:aws-cn:iam::{ACCOUNT}:user/x")},
    ),
    Fault("region", "knows no region", facts={"regions": {"us-east-1": "opted-in"}}),
    Fault("region", "not opted in", facts={"regions": {REGION: "not-opted-in"}}),
    Fault("role", f"there is no role {ROLE}", facts={"role": None}),
    Fault(
        "role-trust",
        "may be taken by ec2.amazonaws.com",
        facts={"role": Role(frozenset({"ec2.amazonaws.com"}))},
    ),
    Fault("role-account", "of account 210987654321", {"role": "arn:aws:iam::210987654321:role/x"}),
    Fault("image", "there is no 123456789012.dkr", facts={"image": None}),
    Fault("image-registry", "no image in ECR", {"image": "python:3.11"}),
    Fault(
        "image-registry",
        "of partition aws",
        {"image": f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/rayasr:1.0"},
    ),
    Fault(
        "image-region",
        "the image is in us-east-1",
        {"image": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/rayasr:1.0"},
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found(fault: Fault) -> None:
    see_that_it_is_found(fault)
