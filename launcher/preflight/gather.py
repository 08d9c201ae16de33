"""Asks AWS what the checks need to know; what may not be asked is noted, and stops nothing."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

from launcher.aws.session import aws_errors, error_code
from launcher.cloud_plan import CloudPlan
from launcher.preflight.facts import (
    Bucket,
    EcrAddress,
    Facts,
    FileSystem,
    Identity,
    Image,
    Key,
    Role,
    S3Data,
    SecurityGroup,
    Subnet,
    Topic,
    Unknown,
)
from launcher.preflight.gather_image import Download, fetch, find_manifest, read_image
from launcher.preflight.gather_network import (
    add_routes,
    find_efs,
    find_fsx,
    find_groups,
    find_interface_groups,
    find_offers,
    find_subnets,
)
from launcher.preflight.storage import bucket_of, kms_keys, s3_places
from launcher.spec import JobSpec
from rayasr.errors import LaunchError

P = ParamSpec("P")
T = TypeVar("T")
Json = dict[str, Any]
Clients = Callable[[str], Any]
"""`clients("ec2")` is boto3's client of that service."""

LISTED_PAGES = 50
"""Pages of 1,000 objects that are counted in a channel."""
UNKNOWN_MOUNT = "unknown"
"""Stands for a MountName that AWS does not tell, so that the rest of a job can be checked."""


def gather_facts(plan: CloudPlan, clients: Clients, download: Download = fetch) -> Facts:
    """What AWS says of a job's account, role, image, network, file systems, data and keys."""
    questions = _Questions(clients)
    ask = questions.ask
    identity = ask("credentials", "", _identity, clients)
    if identity is None:
        return Facts(unknown=tuple(questions.unknown))
    ec2 = clients("ec2")
    types = sorted({group.instance_type for group in plan.place.groups})
    systems = _file_systems(plan, questions)
    return Facts(
        identity=identity,
        regions=ask("regions", "", _regions, ec2) or {},
        role=ask("role", "", _role, clients("iam"), plan.place.role),
        image=_image(plan, questions, download),
        offers=ask("instance offers", "", find_offers, ec2, types) or {},
        subnets=_subnets(plan, systems, questions),
        security_groups=_groups(plan, systems, questions),
        file_systems=systems,
        buckets=_buckets(plan, questions),
        data=_data(plan, questions),
        keys=_keys(plan, questions),
        unknown=tuple(questions.unknown),
    )


def find_mount_names(job: JobSpec, clients: Clients) -> dict[str, str]:
    """The MountName of each FSx file system, or a word that stands for it; raises nothing."""
    questions, names = _Questions(clients), {}
    for channel in job.channels.values():
        if channel.fsx is not None and channel.fsx.mount_name is None:
            system = questions.ask("file system", channel.fsx.id, _fsx, clients, channel.fsx.id)
            names[channel.fsx.id] = (system and system.mount_name) or UNKNOWN_MOUNT
    return names


class _Questions:
    """Asks, and keeps what was not answered."""

    def __init__(self, clients: Clients) -> None:
        self.clients = clients
        self.unknown: list[Unknown] = []

    def ask(
        self,
        topic: Topic,
        subject: str,
        find: Callable[P, T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """The answer; None where there is none."""
        try:
            with aws_errors(f"look up {topic}{f' {subject}' if subject else ''}"):
                return find(*args, **kwargs)
        except LaunchError as error:
            self.unknown.append(Unknown(topic, subject, str(error)))
            return None


def _identity(clients: Clients) -> Identity:
    found = clients("sts").get_caller_identity()
    return Identity(account=found["Account"], arn=found["Arn"])


def _regions(ec2: Any) -> dict[str, str]:
    found = ec2.describe_regions(AllRegions=True)["Regions"]
    return {region["RegionName"]: region.get("OptInStatus", "") for region in found}


def _role(iam: Any, arn: str) -> Role | None:
    try:
        found = iam.get_role(RoleName=arn.rpartition("/")[2])["Role"]
    except iam.exceptions.NoSuchEntityException:
        return None
    statements = found["AssumeRolePolicyDocument"].get("Statement", [])
    if isinstance(statements, dict):
        statements = [statements]
    return Role(frozenset(name for statement in statements for name in _trusted(statement)))


def _trusted(statement: Json) -> list[str]:
    """The services that a statement of a trust policy lets take the role."""
    actions, principal = statement.get("Action", []), statement.get("Principal", {})
    actions = [actions] if isinstance(actions, str) else actions
    if statement.get("Effect") != "Allow" or not {"sts:AssumeRole", "sts:*", "*"} & set(actions):
        return []
    services = principal.get("Service", []) if isinstance(principal, dict) else []
    return [services] if isinstance(services, str) else services


def _image(plan: CloudPlan, questions: _Questions, download: Download) -> Image | None:
    """The image, where its address is one that the job can use at all."""
    address = EcrAddress.parse(plan.place.image)
    if address is None or address.region != plan.region:
        return None
    ecr = questions.clients("ecr")
    entry = questions.ask("image", "", find_manifest, ecr, address)
    if entry is None:
        return None
    image = questions.ask("image contents", "", read_image, ecr, address, entry, download)
    return image or Image(entry["imageId"]["imageDigest"])


def _file_systems(plan: CloudPlan, questions: _Questions) -> dict[str, FileSystem]:
    """The file systems of the channels that exist, with their security groups."""
    systems = {}
    for channel in plan.job.channels.values():
        source = channel.fsx or channel.efs
        if source is None or source.id in systems:
            continue
        find = _fsx if channel.fsx else _efs
        system = questions.ask("file system", source.id, find, questions.clients, source.id)
        if system is not None:
            systems[source.id] = _with_groups(source.id, system, questions)
    return systems


def _fsx(clients: Clients, system_id: str) -> FileSystem | None:
    return find_fsx(clients("fsx"), system_id)


def _efs(clients: Clients, system_id: str) -> FileSystem | None:
    return find_efs(clients("efs"), system_id)


def _with_groups(system_id: str, system: FileSystem, questions: _Questions) -> FileSystem:
    if not system.interfaces:
        return system
    ec2 = questions.clients("ec2")
    groups = questions.ask(
        "file system network", system_id, find_interface_groups, ec2, system.interfaces
    )
    return replace(system, security_groups=groups or frozenset())


def _subnets(
    plan: CloudPlan, systems: Mapping[str, FileSystem], questions: _Questions
) -> Mapping[str, Subnet]:
    """The subnets of the job and of its file systems."""
    if plan.place.vpc is None:
        return {}
    ec2 = questions.clients("ec2")
    ids = set(plan.place.vpc.subnets).union(*(system.subnets for system in systems.values()))
    subnets = questions.ask("subnets", "", find_subnets, ec2, ids)
    if not subnets:
        return {}
    return questions.ask("routes", "", add_routes, ec2, subnets) or subnets


def _groups(
    plan: CloudPlan, systems: Mapping[str, FileSystem], questions: _Questions
) -> Mapping[str, SecurityGroup]:
    """The security groups of the job and of its file systems."""
    if plan.place.vpc is None:
        return {}
    ids = set(plan.place.vpc.security_groups).union(
        *(system.security_groups for system in systems.values())
    )
    ec2 = questions.clients("ec2")
    return questions.ask("security groups", "", find_groups, ec2, ids) or {}


def _buckets(plan: CloudPlan, questions: _Questions) -> dict[str, Bucket]:
    s3 = questions.clients("s3")
    names = sorted({bucket_of(url) for url in s3_places(plan).values()})
    asked = {name: questions.ask("bucket", name, _bucket, s3, name) for name in names}
    return {name: bucket for name, bucket in asked.items() if bucket is not None}


def _bucket(s3: Any, name: str) -> Bucket | None:
    try:
        return Bucket(s3.head_bucket(Bucket=name).get("BucketRegion"))
    except s3.exceptions.ClientError as error:
        if error_code(error) == "404":
            return None
        raise


def _data(plan: CloudPlan, questions: _Questions) -> dict[str, S3Data]:
    """The objects of the S3 channels."""
    s3 = questions.clients("s3")
    urls = {name: spec.s3 for name, spec in plan.job.channels.items() if spec.s3 is not None}
    asked = {name: questions.ask("data", name, _objects, s3, url) for name, url in urls.items()}
    return {name: data for name, data in asked.items() if data is not None}


def _objects(s3: Any, url: str) -> S3Data | None:
    """How much there is under a prefix; None where there is no such bucket."""
    prefix = url.removeprefix(f"s3://{bucket_of(url)}").lstrip("/")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket_of(url), Prefix=f"{prefix}/" if prefix else ""
    )
    num_objects = num_bytes = 0
    try:
        for number, page in enumerate(pages, start=1):
            sizes = [item["Size"] for item in page.get("Contents", ())]
            num_objects, num_bytes = num_objects + len(sizes), num_bytes + sum(sizes)
            if number == LISTED_PAGES and page["IsTruncated"]:
                return S3Data(num_objects, num_bytes, complete=False)
    except s3.exceptions.NoSuchBucket:
        return None
    return S3Data(num_objects, num_bytes)


def _keys(plan: CloudPlan, questions: _Questions) -> dict[str, Key]:
    ids = sorted(set(kms_keys(plan).values()))
    if not ids:
        return {}
    kms = questions.clients("kms")
    asked = {key_id: questions.ask("key", key_id, _key, kms, key_id) for key_id in ids}
    return {key_id: key for key_id, key in asked.items() if key is not None}


def _key(kms: Any, key_id: str) -> Key | None:
    try:
        found = kms.describe_key(KeyId=key_id)["KeyMetadata"]
    except (kms.exceptions.NotFoundException, kms.exceptions.InvalidArnException):
        return None
    return Key(found["KeyState"], found.get("KeySpec", "SYMMETRIC_DEFAULT") == "SYMMETRIC_DEFAULT")
