"""Fills an empty account of moto's with what job files name, so that nothing is missing there."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

from launcher.aws.session import REHEARSAL_REGION, Aws, aws_errors
from launcher.cloud_spec import SageMakerSpec
from launcher.emulator.objects import split_url
from launcher.preflight.facts import EcrAddress, region_of
from launcher.spec import JobSpec

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
_MANIFEST = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "config": {"digest": "sha256:" + "0" * 64, "size": 1, "mediaType": "application/json"},
    "layers": [],
}
"""An image that is there and cannot be pulled; only the docker runner uses images, its engine's."""


def furnish(jobs: Iterable[JobSpec], url: str) -> None:
    """Make the jobs' buckets, roles, images and networks, each in its own region.

    Raises LaunchError.
    """
    by_region: dict[str, list[JobSpec]] = {}
    for job in jobs:
        by_region.setdefault(rehearsal_region(job), []).append(job)
    for region, those in by_region.items():
        aws = Aws(region=region, endpoint_url=url)
        with aws_errors("have ready what the job files name"):
            _make_buckets(aws, those)
            _make_roles(aws, those)
            _make_images(aws, those)
            _make_network(aws, those)


def rehearsal_region(job: JobSpec) -> str:
    """The region in which a job is looked for here."""
    found = region_of(job.sagemaker) if job.sagemaker is not None else None
    return found or REHEARSAL_REGION


def _make_buckets(aws: Aws, jobs: list[JobSpec]) -> None:
    urls = [channel.s3 for job in jobs for channel in job.channels.values()]
    urls += [url for place in _places(jobs) for url in (place.output, place.checkpoints)]
    s3 = aws.client("s3")
    here = {"CreateBucketConfiguration": {"LocationConstraint": aws.region}}
    options = {} if aws.region == "us-east-1" else here
    for name in sorted({split_url(url)[0] for url in urls if url is not None}):
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):  # names are for all regions
            s3.create_bucket(Bucket=name, **options)


def _make_roles(aws: Aws, jobs: list[JobSpec]) -> None:
    iam = aws.client("iam")
    for name in sorted({place.role.rpartition("/")[2] for place in _places(jobs)}):
        with suppress(iam.exceptions.EntityAlreadyExistsException):  # IAM is for all regions
            iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))


def _make_images(aws: Aws, jobs: list[JobSpec]) -> None:
    ecr = aws.client("ecr")
    parsed = (EcrAddress.parse(place.image) for place in _places(jobs))
    addresses = {address for address in parsed if address is not None}
    for repository in sorted({address.repository for address in addresses}):
        ecr.create_repository(repositoryName=repository)
    for address in addresses:
        named = {"imageDigest": address.digest} if address.digest else {"imageTag": address.tag}
        ecr.put_image(
            repositoryName=address.repository, imageManifest=json.dumps(_MANIFEST), **named
        )


def _make_network(aws: Aws, jobs: list[JobSpec]) -> None:
    """One VPC with a way to S3, and in it the subnets and groups, whose members may all talk."""
    networks = [place.vpc for place in _places(jobs) if place.vpc is not None]
    if not networks:
        return
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = sorted({name for network in networks for name in network.subnets})
    for number, name in enumerate(subnets):
        with _next_id("moto.ec2.models.subnets", "random_subnet_id", name):
            ec2.create_subnet(
                VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{aws.region}a"
            )
    for name in sorted({name for network in networks for name in network.security_groups}):
        with _next_id("moto.ec2.models.security_groups", "random_security_group_id", name):
            ec2.create_security_group(GroupName=name[3:], Description="of a job", VpcId=vpc)
        everything = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": name}]}
        ec2.authorize_security_group_ingress(GroupId=name, IpPermissions=[everything])
        ec2.authorize_security_group_egress(GroupId=name, IpPermissions=[everything])
    of_vpc = [{"Name": "vpc-id", "Values": [vpc]}]
    (table,) = ec2.describe_route_tables(Filters=of_vpc)["RouteTables"]
    for service in ("s3", "ecr.api", "ecr.dkr", "logs"):
        kind = {"VpcEndpointType": "Gateway", "RouteTableIds": [table["RouteTableId"]]}
        ec2.create_vpc_endpoint(
            VpcId=vpc,
            ServiceName=f"com.amazonaws.{aws.region}.{service}",
            **(kind if service == "s3" else {"VpcEndpointType": "Interface"}),
        )


def _places(jobs: list[JobSpec]) -> list[SageMakerSpec]:
    return [job.sagemaker for job in jobs if job.sagemaker is not None]


@contextmanager
def _next_id(module: str, function: str, wanted: str) -> Iterator[None]:
    """Have moto, which makes up ids, call the next thing as a job file does."""
    home = import_module(module)
    made_up = getattr(home, function)
    setattr(home, function, lambda: wanted)
    try:
        yield
    finally:
        setattr(home, function, made_up)
