"""Facts through real boto3 clients: faults planted in an account of moto's, and lacking rights."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("moto")

from moto.core import enable_iam_authentication

from launcher.preflight import gather as facts
from launcher.preflight.check import check, has_errors
from launcher.preflight.facts import S3Data
from launcher.preflight.findings import Severity
from launcher.preflight.gather import find_mount_names, gather_facts
from tests.cloud_jobs import REGION, cloud_job
from tests.moto_account import REPOSITORY, ROLE, TRUST, MotoAccount, client, moto_account
from tests.sound_job import BUCKET

SUBMITTER = Path(__file__).parents[4] / "configs" / "iam" / "submitter.json"

Job = dict[str, Any] | None


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoAccount]:
    with moto_account(monkeypatch) as account:
        yield account


def test_a_sound_job_has_no_finding(account: MotoAccount) -> None:
    assert account.check() == []


def test_a_sound_job_on_efs_and_s3_has_no_finding(account: MotoAccount) -> None:
    client("s3").put_object(Bucket=BUCKET, Key="corpus/a.wav", Body=b"1234")
    channels = {
        "work": {"access": "write", "efs": {"id": make_efs(account, account.subnet)}},
        "corpus": {"s3": f"s3://{BUCKET}/corpus"},
    }
    assert account.check(channels=channels) == []


def make_efs(account: MotoAccount, subnet: str) -> str:
    efs = client("efs")
    made = str(efs.create_file_system(CreationToken="x")["FileSystemId"])
    efs.create_mount_target(FileSystemId=made, SubnetId=subnet, SecurityGroups=[account.group])
    return made


def delete_role(_account: MotoAccount) -> Job:
    client("iam").delete_role(RoleName=ROLE)
    return None


def let_ec2_take_the_role(_account: MotoAccount) -> Job:
    trust = json.dumps(TRUST).replace("sagemaker.amazonaws.com", "ec2.amazonaws.com")
    client("iam").update_assume_role_policy(RoleName=ROLE, PolicyDocument=trust)
    return None


def name_another_tag(_account: MotoAccount) -> Job:
    return {"image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/{REPOSITORY}:2.0"}


def name_another_repository(_account: MotoAccount) -> Job:
    return {"image": f"123456789012.dkr.ecr.{REGION}.amazonaws.com/else:1.0"}


def build_for_arm(account: MotoAccount) -> Job:
    account.architecture = "arm64"
    return None


def build_for_cpus(account: MotoAccount) -> Job:
    account.labels["rayasr.arch_list"] = ""
    return None


def build_without_labels(account: MotoAccount) -> Job:
    account.labels.clear()
    return None


def use_v100s(_account: MotoAccount) -> Job:
    return {"instance_type": "ml.p3.8xlarge"}


def name_another_subnet(account: MotoAccount) -> Job:
    return {"vpc": {"subnets": ["subnet-00000000"], "security_groups": [account.group]}}


def name_another_group(account: MotoAccount) -> Job:
    return {"vpc": {"subnets": [account.subnet], "security_groups": ["sg-00000000"]}}


def mix_vpcs(account: MotoAccount) -> Job:
    group = account.make_group(account.make_vpc("10.1.0.0/16"))
    return {"vpc": {"subnets": [account.subnet], "security_groups": [account.group, group]}}


def use_up_addresses(account: MotoAccount) -> Job:
    small = account.make_subnet("10.0.2.0/28")  # AWS keeps five of sixteen
    for _ in range(2):
        account.ec2.create_network_interface(SubnetId=small)
    return {"vpc": {"subnets": [small], "security_groups": [account.group]}}


def let_nothing_in(account: MotoAccount) -> Job:
    account.forbid()
    return None


def let_only_lustre_in(account: MotoAccount) -> Job:
    account.forbid()
    account.allow(account.group, account.group, (988, 988))
    account.allow(account.group, account.group, (1018, 1023))
    return None


def mistake_a_port(account: MotoAccount) -> Job:
    account.forbid()
    account.allow(account.group, account.group, (998, 998))  # as a tutorial says
    return {"instance_count": 1}


def shut_the_file_system_in(account: MotoAccount) -> Job:
    alone = account.make_group(account.vpc, "alone")
    account.allow(account.group, alone)
    account.file_system = account.make_file_system(account.subnet, alone)
    return None


def delete_file_system(account: MotoAccount) -> Job:
    client("fsx").delete_file_system(FileSystemId=account.file_system)
    return None


def catch_it_in_creation(account: MotoAccount) -> Job:
    account.lustre["Lifecycle"] = "CREATING"
    return None


def give_it_another_mount_name(account: MotoAccount) -> Job:
    account.lustre["LustreConfiguration"] = {"MountName": "abcdefgh"}
    return None


def move_it_to_another_zone(account: MotoAccount) -> Job:
    account.file_system = account.make_file_system(
        account.make_subnet("10.0.3.0/24", "b"), account.group
    )
    return None


def move_it_to_another_vpc(account: MotoAccount) -> Job:
    vpc = account.make_vpc("10.1.0.0/16")
    subnet = account.make_subnet("10.1.1.0/24", vpc=vpc)
    account.file_system = account.make_file_system(subnet, account.make_group(vpc, "there"))
    return None


def delete_the_way_to_s3(account: MotoAccount) -> Job:
    account.ec2.delete_vpc_endpoints(VpcEndpointIds=[account.endpoint])
    return None


def trust_an_internet_gateway(account: MotoAccount) -> Job:
    delete_the_way_to_s3(account)
    gateway = account.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    account.ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=account.vpc)
    account.ec2.create_route(
        RouteTableId=account.table, DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway
    )
    return None


def forget_the_bucket(_account: MotoAccount) -> Job:
    return {"output": "s3://another-bucket/rayasr"}


def put_the_bucket_elsewhere(_account: MotoAccount) -> Job:
    client("s3", "us-east-1").create_bucket(Bucket="far-bucket")
    return {"output": "s3://far-bucket/rayasr"}


def name_a_key_that_is_not_there(_account: MotoAccount) -> Job:
    return {"output_kms_key": f"arn:aws:kms:{REGION}:123456789012:key/1234"}


def disable_the_key(_account: MotoAccount) -> Job:
    key = client("kms").create_key()["KeyMetadata"]
    client("kms").disable_key(KeyId=key["KeyId"])
    return {"output_kms_key": key["Arn"]}


def use_a_signing_key(_account: MotoAccount) -> Job:
    made = client("kms").create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    return {"output_kms_key": made["KeyMetadata"]["Arn"]}


@dataclass(frozen=True)
class Planted:
    """How a fault gets into the account, and what must be found."""

    plant: Callable[[MotoAccount], Job]  # → changes of the job's `sagemaker` section
    check: str
    says: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return self.plant.__name__


PLANTED = [
    Planted(delete_role, "role", "there is no role"),
    Planted(let_ec2_take_the_role, "role-trust", "may be taken by ec2.amazonaws.com"),
    Planted(name_another_tag, "image", "rayasr:2.0"),
    Planted(name_another_repository, "image", "else:1.0"),
    Planted(build_for_arm, "image-architecture", "the image is for arm64"),
    Planted(build_for_cpus, "image-kernels", "for CPUs only"),
    Planted(build_without_labels, "image-labels", "does not say which torch", "note"),
    Planted(use_v100s, "image-kernels", "the V100 of ml.p3.8xlarge is sm_70"),
    Planted(use_v100s, "instance-offered", "EC2 offers no ml.p3.8xlarge", "warning"),
    Planted(name_another_subnet, "subnet", "subnet-00000000"),
    Planted(name_another_group, "security-group", "sg-00000000"),
    Planted(mix_vpcs, "one-vpc", " is in vpc-"),
    Planted(use_up_addresses, "free-addresses", "have 9 free addresses, 2 machines need 10"),
    Planted(let_nothing_in, "group-itself", "(inward)"),
    Planted(let_only_lustre_in, "group-itself", "(inward)"),
    Planted(mistake_a_port, "file-system-ports", "TCP 988 and 1018-1023"),
    Planted(shut_the_file_system_in, "file-system-ports", "(inward of the file system)"),
    Planted(delete_file_system, "file-system", "is no FSx for Lustre file system"),
    Planted(catch_it_in_creation, "file-system-available", "is CREATING"),
    Planted(give_it_another_mount_name, "mount-name", "abcdefgh"),
    Planted(move_it_to_another_zone, "file-system-zone", f"is in {REGION}b"),
    Planted(move_it_to_another_vpc, "file-system-vpc", "is not"),
    Planted(delete_the_way_to_s3, "s3-route", "no way to S3"),
    Planted(trust_an_internet_gateway, "s3-route", "internet gateway is no use"),
    Planted(forget_the_bucket, "bucket", "no bucket another-bucket"),
    Planted(put_the_bucket_elsewhere, "bucket-region", "is in us-east-1"),
    Planted(name_a_key_that_is_not_there, "kms-key", "does not exist here"),
    Planted(disable_the_key, "kms-key", "is Disabled"),
    Planted(use_a_signing_key, "kms-key", "is no symmetric key"),
]


@pytest.mark.parametrize("planted", PLANTED, ids=str)
def test_planted_fault_is_found(planted: Planted, account: MotoAccount) -> None:
    findings = account.check(planted.plant(account))
    found = [finding for finding in findings if finding.check == planted.check]
    assert any(planted.says in finding.found for finding in found), findings
    assert {finding.severity for finding in found} == {planted.severity}


def test_an_empty_prefix_is_found(account: MotoAccount) -> None:
    client("s3").put_object(Bucket=BUCKET, Key="corpus-old/a.wav", Body=b"1234")
    channels = {"work": {"s3": f"s3://{BUCKET}/corpus"}}
    assert [f.check for f in account.check(channels=channels, run="runs/x")] == ["data"]


def test_efs_in_another_zone_is_found(account: MotoAccount) -> None:
    far = make_efs(account, account.make_subnet("10.0.3.0/24", "b"))
    channels = {"work": {"access": "write", "efs": {"id": far}}}
    assert [f.check for f in account.check(channels=channels)] == ["file-system-zone"]


def test_a_region_that_the_account_has_not_enabled_is_found(account: MotoAccount) -> None:
    plan = replace(account.plan(), region="ap-east-1")
    found = [f for f in check(plan, gather_facts(plan, client)) if f.check == "region"]
    assert "not opted in to ap-east-1" in found[0].found


def test_the_labels_of_an_image_for_two_processors(account: MotoAccount) -> None:
    inner = account.push_image("inner")
    platforms = [
        {"digest": digest, "platform": {"architecture": architecture, "os": system}}
        for digest, architecture, system in (
            (inner, "amd64", "linux"),
            ("sha256:" + "2" * 64, "arm64", "linux"),
            ("sha256:" + "3" * 64, "unknown", "unknown"),  # a signature
        )
    ]
    account.push_image("1.0", {"manifests": platforms})
    image = gather_facts(account.plan(), client, account.download).image
    assert image is not None
    assert image.architectures == {"amd64", "arm64"}
    assert image.labels["rayasr.torch"] == "2.13.0+cu130"


def test_labels_that_cannot_be_fetched_are_a_note(account: MotoAccount) -> None:
    def refuse(_url: str) -> bytes:
        raise ConnectionRefusedError("no way to that address")

    plan = account.plan()
    findings = check(plan, gather_facts(plan, client, refuse))
    assert [f.check for f in findings] == ["unchecked-image-contents"]
    assert "no way to that address" in findings[0].found


def test_data_is_counted_to_a_limit(account: MotoAccount, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "LISTED_PAGES", 1)
    for number in range(3):
        client("s3").put_object(Bucket=BUCKET, Key=f"corpus/{number}", Body=b"1234")
    plan = account.plan(channels={"work": {"s3": f"s3://{BUCKET}/corpus"}}, run="runs/x")
    assert gather_facts(plan, client, account.download).data["work"] == S3Data(3, 12)


def test_without_rights_every_check_is_a_note_and_nothing_is_blocked(
    account: MotoAccount,
) -> None:
    plan = account.plan({"output_kms_key": "alias/mine"})
    nobody = user("nobody")
    with enable_iam_authentication():
        findings = check(plan, gather_facts(plan, nobody, account.download))
    assert {f.severity for f in findings} == {"note"}
    assert {f.check for f in findings} >= {
        "unchecked-role",
        "unchecked-image",
        "unchecked-subnets",
        "unchecked-security-groups",
        "unchecked-file-system",
        "unchecked-bucket",
        "unchecked-key",
        "unchecked-regions",
        "unchecked-instance-offers",
    }
    assert not has_errors(findings)


def test_a_submitters_rights_are_enough(account: MotoAccount) -> None:
    plan = account.plan()
    clients = user("somebody", json.loads(SUBMITTER.read_text()))
    with enable_iam_authentication():
        assert check(plan, gather_facts(plan, clients, account.download)) == []


def test_a_mount_name_that_is_not_to_be_had_gets_a_stand_in(account: MotoAccount) -> None:
    work = {"access": "write", "fsx": {"id": account.file_system}}
    job = cloud_job(channels={"work": work})
    assert find_mount_names(job, client) == {account.file_system: "fsxmount"}
    client("fsx").delete_file_system(FileSystemId=account.file_system)
    assert find_mount_names(job, client) == {account.file_system: "unknown"}


def user(name: str, policy: dict[str, Any] | None = None) -> Callable[[str], Any]:
    """The clients of a new user. Of a policy moto knows the actions, not resources and conditions,
    and that HeadBucket asks for a right of its own, which it does not at AWS."""
    iam = client("iam")
    iam.create_user(UserName=name)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    for number, statement in enumerate(policy["Statement"] if policy else ()):
        actions = (
            [statement["Action"]]
            if isinstance(statement["Action"], str)
            else [*statement["Action"]]
        )
        actions += ["s3:HeadBucket"] * ("s3:ListBucket" in actions)
        known = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [known]})
        iam.put_user_policy(UserName=name, PolicyName=f"p{number}", PolicyDocument=document)
    return lambda service: client(service, REGION, key["AccessKeyId"], key["SecretAccessKey"])
