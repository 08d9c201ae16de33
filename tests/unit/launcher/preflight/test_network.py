"""Faults of subnets, security groups, file systems and routes."""

from typing import Any

import pytest

from launcher.preflight.facts import Rule, SecurityGroup
from tests.cloud_jobs import FILE_SYSTEM, REGION
from tests.sound_job import (
    GROUP,
    SUBNET,
    VPC,
    Fault,
    see_that_it_is_found,
    sound_file_system,
    sound_subnet,
)

OTHER = "sg-0fedcba9876543210"
ANYWHERE = Rule("-1", 0, 65535, cidrs=("0.0.0.0/0",))
FROM_ITSELF = Rule("-1", 0, 65535, groups=frozenset({GROUP}))


def tcp(first: int, last: int, **peers: Any) -> Rule:
    return Rule("tcp", first, last, **({"groups": frozenset({GROUP})} | peers))


def group(*inward: Rule, outward: tuple[Rule, ...] = (ANYWHERE,), vpc: str = VPC) -> Any:
    return {GROUP: SecurityGroup(vpc, inward, outward)}


FAULTS = [
    Fault("subnet", f"no subnet {SUBNET}", facts={"subnets": {}}),
    Fault("security-group", f"no security group {GROUP}", facts={"security_groups": {}}),
    Fault("one-vpc", "is in vpc-2", facts={"security_groups": group(FROM_ITSELF, vpc="vpc-2")}),
    Fault(
        "free-addresses",
        "9 free addresses, 2 machines need 10",
        facts={"subnets": {SUBNET: sound_subnet(free_addresses=9)}},
    ),
    Fault("group-itself", "(inward)", facts={"security_groups": group(tcp(988, 1023))}),
    Fault(
        "group-itself",
        "(outward)",
        facts={
            "security_groups": group(
                FROM_ITSELF, outward=(tcp(443, 443, cidrs=("0.0.0.0/0",), groups=frozenset()),)
            )
        },
    ),
    Fault(
        "group-itself",
        "(inward)",
        facts={"security_groups": group(tcp(0, 65535, groups=frozenset(), cidrs=("10.0.2.0/24",)))},
    ),
    Fault(
        "group-efa",
        "no inward rule for all protocols",
        facts={"security_groups": group(tcp(0, 65535))},
        severity="warning",
    ),
    Fault("file-system", f"{FILE_SYSTEM} of channel 'work'", facts={"file_systems": {}}),
    Fault(
        "file-system",
        "it is ONTAP",
        facts={"file_systems": {FILE_SYSTEM: sound_file_system(kind="ONTAP")}},
    ),
    Fault(
        "file-system-available",
        "is CREATING",
        facts={"file_systems": {FILE_SYSTEM: sound_file_system(lifecycle="CREATING")}},
    ),
    Fault(
        "mount-name",
        "is abcdefgh, the job says fsxmount",
        facts={"file_systems": {FILE_SYSTEM: sound_file_system(mount_name="abcdefgh")}},
    ),
    Fault(
        "file-system-vpc",
        "is in vpc-2",
        facts={
            "subnets": {SUBNET: sound_subnet(), "subnet-2": sound_subnet(vpc="vpc-2")},
            "file_systems": {FILE_SYSTEM: sound_file_system(subnets=frozenset({"subnet-2"}))},
        },
    ),
    Fault(
        "file-system-zone",
        f"is in {REGION}b",
        facts={
            "subnets": {SUBNET: sound_subnet(), "subnet-2": sound_subnet(zone=f"{REGION}b")},
            "file_systems": {FILE_SYSTEM: sound_file_system(subnets=frozenset({"subnet-2"}))},
        },
    ),
    Fault(
        "file-system-zone",
        "subnet-2 in",
        {"vpc": {"subnets": [SUBNET, "subnet-2"], "security_groups": [GROUP]}},
        facts={"subnets": {SUBNET: sound_subnet(), "subnet-2": sound_subnet(zone=f"{REGION}b")}},
        severity="warning",
    ),
    Fault(
        "file-system-ports",
        "TCP 988 and 1018-1023",
        {"instance_count": 1},
        {"workers": "4"},
        {"security_groups": group(tcp(988, 988))},
    ),
    Fault(
        "file-system-ports",
        "(inward of the file system, inward of the machines)",
        {"instance_count": 1},
        facts={"security_groups": group(tcp(998, 998))},
    ),
    Fault(
        "file-system-ports",
        "(inward of the file system)",
        facts={
            "security_groups": {
                **group(FROM_ITSELF, Rule("-1", 0, 65535, groups=frozenset({OTHER}))),
                OTHER: SecurityGroup(VPC, (tcp(988, 988),), (ANYWHERE,)),
            },
            "file_systems": {FILE_SYSTEM: sound_file_system(security_groups=frozenset({OTHER}))},
        },
    ),
    Fault(
        "file-system-ports",
        "TCP 2049",
        {"instance_count": 1},
        {"channels": {"work": {"access": "write", "efs": {"id": FILE_SYSTEM}}}},
        {
            "security_groups": group(tcp(988, 1023)),
            "file_systems": {FILE_SYSTEM: sound_file_system(kind="EFS", lifecycle="available")},
        },
    ),
    Fault(
        "s3-route",
        f"{SUBNET} have no way to S3",
        facts={"subnets": {SUBNET: sound_subnet(way_out=None, endpoints=frozenset())}},
    ),
    Fault(
        "s3-route",
        "internet gateway is no use",
        facts={"subnets": {SUBNET: sound_subnet(way_out="igw-1", endpoints=frozenset())}},
    ),
    Fault(
        "service-routes",
        "to ecr.api, ecr.dkr, logs",
        facts={"subnets": {SUBNET: sound_subnet(way_out=None)}},
        severity="note",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_found(fault: Fault) -> None:
    see_that_it_is_found(fault)
