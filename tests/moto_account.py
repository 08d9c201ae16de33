"""An account of moto's in which nothing is wrong with a job; tests then break something."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from moto import mock_aws
from moto.fsx.models import FileSystem

from launcher.cloud_plan import CloudPlan
from launcher.emulator.furnish import TRUST
from launcher.preflight.check import check
from launcher.preflight.findings import Finding
from launcher.preflight.gather import gather_facts
from tests.cloud_jobs import REGION
from tests.sound_job import BUCKET, LABELS, sound_plan

ROLE = "rayasr-job"
REPOSITORY = "rayasr"
CONFIG_URL = "https://layers.example/config"


@cache
def client(name: str, region: str = REGION, key: str = "testing", secret: str = "testing") -> Any:
    """A real boto3 client; made once, for making one costs more than a test."""
    made = boto3.client(name, region, aws_access_key_id=key, aws_secret_access_key=secret)
    if name == "ecr":  # moto has no layers
        event = "before-call.ecr.GetDownloadUrlForLayer"
        answer = (AWSResponse(CONFIG_URL, 200, {}, None), {"downloadUrl": CONFIG_URL})
        made.meta.events.register(event, lambda **_: answer)
    return made


class MotoAccount:
    """The ids of what is there, and the ways to break it."""

    def __init__(self) -> None:
        self.labels = dict(LABELS)
        self.architecture = "amd64"
        self.lustre: dict[str, Any] = {"Lifecycle": "AVAILABLE"}
        client("iam").create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(TRUST))
        client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION}
        )
        client("ecr").create_repository(repositoryName=REPOSITORY)
        self.push_image()
        self.ec2 = client("ec2")
        self.vpc = self.make_vpc("10.0.0.0/16")
        self.subnet = self.make_subnet("10.0.1.0/24")
        self.table = self.ec2.describe_route_tables(
            Filters=[{"Name": "vpc-id", "Values": [self.vpc]}]
        )["RouteTables"][0]["RouteTableId"]
        self.endpoint = self.make_endpoint("s3", VpcEndpointType="Gateway")
        for service in ("ecr.api", "ecr.dkr", "logs"):
            self.make_endpoint(service, VpcEndpointType="Interface")
        self.group = self.make_group(self.vpc)
        self.allow(self.group, self.group)
        self.file_system = self.make_file_system(self.subnet, self.group)

    def make_vpc(self, cidr: str) -> str:
        return str(self.ec2.create_vpc(CidrBlock=cidr)["Vpc"]["VpcId"])

    def make_subnet(self, cidr: str, zone: str = "a", vpc: str | None = None) -> str:
        made = self.ec2.create_subnet(
            VpcId=vpc or self.vpc, CidrBlock=cidr, AvailabilityZone=f"{REGION}{zone}"
        )
        return str(made["Subnet"]["SubnetId"])

    def make_endpoint(self, service: str, **options: Any) -> str:
        made = self.ec2.create_vpc_endpoint(
            VpcId=self.vpc,
            ServiceName=f"com.amazonaws.{REGION}.{service}",
            RouteTableIds=[self.table] if options["VpcEndpointType"] == "Gateway" else [],
            **options,
        )
        return str(made["VpcEndpoint"]["VpcEndpointId"])

    def make_group(self, vpc: str, name: str = "job") -> str:
        made = self.ec2.create_security_group(GroupName=name, Description="x", VpcId=vpc)
        return str(made["GroupId"])

    def allow(self, group: str, source: str, ports: tuple[int, int] | None = None) -> None:
        """Let traffic from `source` into `group`: TCP on some ports, or all of it both ways."""
        rule: dict[str, Any] = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": source}]}
        if ports is None:
            self.ec2.authorize_security_group_egress(GroupId=group, IpPermissions=[rule])
        else:
            rule |= {"IpProtocol": "tcp", "FromPort": ports[0], "ToPort": ports[1]}
        self.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])

    def forbid(self) -> None:
        """Take away what the job's security group lets in."""
        rules = self.ec2.describe_security_groups(GroupIds=[self.group])["SecurityGroups"][0]
        self.ec2.revoke_security_group_ingress(
            GroupId=self.group, IpPermissions=rules["IpPermissions"]
        )

    def make_file_system(self, subnet: str, group: str) -> str:
        interface = self.ec2.create_network_interface(SubnetId=subnet, Groups=[group])
        made = client("fsx").create_file_system(
            FileSystemType="LUSTRE",
            StorageCapacity=1200,
            SubnetIds=[subnet],
            SecurityGroupIds=[group],
            LustreConfiguration={"DeploymentType": "SCRATCH_2"},
        )["FileSystem"]
        interface_id = interface["NetworkInterface"]["NetworkInterfaceId"]
        self.lustre["NetworkInterfaceIds"] = [interface_id]
        return str(made["FileSystemId"])

    def push_image(self, tag: str = "1.0", manifest: dict[str, Any] | None = None) -> str:
        """Put an image into ECR, or an index of several; its digest."""
        config = {"digest": "sha256:" + "1" * 64, "size": 1, "mediaType": "x"}
        made = client("ecr").put_image(
            repositoryName=REPOSITORY,
            imageManifest=json.dumps(manifest or {"config": config, "layers": []}),
            imageManifestMediaType="application/vnd.oci.image.manifest.v1+json",
            imageTag=tag,
        )
        return str(made["image"]["imageId"]["imageDigest"])

    def download(self, url: str) -> bytes:
        """The image's config, from where ECR would have it fetched."""
        assert url == CONFIG_URL
        config = {"architecture": self.architecture, "config": {"Labels": self.labels}}
        return json.dumps(config).encode()

    def plan(self, place: dict[str, Any] | None = None, **job: Any) -> CloudPlan:
        """The sound job, in this account."""
        vpc = {"subnets": [self.subnet], "security_groups": [self.group]}
        source = {"id": self.file_system, "mount_name": "fsxmount"}
        channels = {"work": {"access": "write", "fsx": source}}
        return sound_plan({"vpc": vpc} | (place or {}), **({"channels": channels} | job))

    def check(self, place: dict[str, Any] | None = None, **job: Any) -> list[Finding]:
        """What the checks find, through boto3."""
        plan = self.plan(place, **job)
        return check(plan, gather_facts(plan, client, self.download))


@contextmanager
def moto_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[MotoAccount]:
    """A fresh account, with what moto leaves out of FSx's answers put in."""
    answer = FileSystem.to_dict
    with mock_aws():
        account = MotoAccount()

        def full_answer(system: FileSystem) -> dict[str, Any]:
            lustre = {"MountName": "fsxmount"} | account.lustre.get("LustreConfiguration", {})
            return answer(system) | account.lustre | {"LustreConfiguration": lustre}

        monkeypatch.setattr(FileSystem, "to_dict", full_answer)
        yield account
