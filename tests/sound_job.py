"""A job that nothing is wrong with, and what AWS would say of its account."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from launcher.cloud_plan import CloudPlan
from launcher.preflight.check import check, has_errors
from launcher.preflight.facts import (
    Bucket,
    Facts,
    FileSystem,
    Identity,
    Image,
    Role,
    Rule,
    SecurityGroup,
    Subnet,
)
from launcher.preflight.findings import Severity
from tests.cloud_jobs import FILE_SYSTEM, REGION, cloud_job, cloud_plan

RECIPE = Path(__file__).parents[1] / "configs" / "aishell_u2pp_conformer.yaml"
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/rayasr-job"
BUCKET = "my-bucket"
SUBNET = "subnet-0123456789abcdef0"
GROUP = "sg-0123456789abcdef0"
VPC = "vpc-0123456789abcdef0"
ZONE = f"{REGION}a"
DIGEST = "sha256:" + "5" * 64
LABELS = {
    "rayasr.torch": "2.13.0+cu130",
    "rayasr.cuda": "13.0",
    "rayasr.arch_list": "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120 compute_120",
}

CPUS: dict[str, Any] = {"instance_type": "ml.c5.4xlarge", "instance_count": 3}
T4S: dict[str, Any] = {"instance_type": "ml.g4dn.12xlarge", "instance_count": 2}
V100S: dict[str, Any] = {"instance_type": "ml.p3.8xlarge", "instance_count": 2}
LOCAL_RUN: dict[str, Any] = {
    "channels": {"work": {"s3": f"s3://{BUCKET}/corpus"}},
    "run": "runs/x",
}
OFFERS = {
    name: frozenset({ZONE})
    for name in ("ml.g5.12xlarge", "ml.c5.4xlarge", "ml.g4dn.12xlarge", "ml.p3.8xlarge")
}


@dataclass(frozen=True)
class Fault:
    """What is wrong, in the job or in the account, and what must be said of it."""

    check: str
    says: str
    place: dict[str, Any] = field(default_factory=dict)
    job: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.check}: {self.says}"


def see_that_it_is_found(fault: Fault) -> None:
    """Plant a fault, and look for its finding."""
    offers = {} if "offers" in fault.facts else {"offers": OFFERS}
    findings = check(sound_plan(fault.place, **fault.job), sound_facts(**fault.facts, **offers))
    found = [finding for finding in findings if finding.check == fault.check]
    assert any(fault.says in finding.found for finding in found), findings
    assert {finding.severity for finding in found} == {fault.severity}
    assert has_errors(findings) == any(finding.severity == "error" for finding in findings)


def sound_plan(
    place: dict[str, Any] | None = None, *, recipe: dict[str, Any] | None = None, **fields: Any
) -> CloudPlan:
    """Training on two machines of four GPUs each; `recipe` holds dotted settings."""
    settings = {"batch.micro_batches": 8} | (recipe or {})
    command = ["train", str(RECIPE), "--store", "{channel:work}/store", "--out", "{run}"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    command += fields.pop("options", [])
    return cloud_plan(cloud_job(place, **({"command": command} | fields)))


def sound_facts(**changes: Any) -> Facts:
    """What AWS says of the account that the sound job runs in."""
    everything = Rule("-1", 0, 65535, groups=frozenset({GROUP}))
    anywhere = Rule("-1", 0, 65535, cidrs=("0.0.0.0/0",))
    facts = Facts(
        identity=Identity(ACCOUNT, f"arn:aws:iam::{ACCOUNT}:user/someone"),
        regions={REGION: "opt-in-not-required", "us-east-1": "opt-in-not-required"},
        role=Role(frozenset({"sagemaker.amazonaws.com"})),
        image=Image(DIGEST, frozenset({"amd64"}), LABELS),
        offers={"ml.g5.12xlarge": frozenset({ZONE, f"{REGION}b"})},
        subnets={SUBNET: sound_subnet()},
        security_groups={GROUP: SecurityGroup(VPC, (everything,), (anywhere, everything))},
        file_systems={FILE_SYSTEM: sound_file_system()},
        buckets={BUCKET: Bucket(REGION)},
    )
    return replace(facts, **changes)


def sound_subnet(**changes: Any) -> Subnet:
    """A private subnet with an endpoint for S3 and a NAT."""
    subnet = Subnet(VPC, ZONE, "10.0.1.0/24", 200, "nat-0123", frozenset({"s3"}))
    return replace(subnet, **changes)


def sound_file_system(**changes: Any) -> FileSystem:
    """A Lustre file system in the same subnet and group."""
    system = FileSystem(
        "LUSTRE", "AVAILABLE", frozenset({SUBNET}), "fsxmount", ("eni-01",), frozenset({GROUP})
    )
    return replace(system, **changes)
