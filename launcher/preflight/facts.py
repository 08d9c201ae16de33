"""What is known of an AWS account before a job is sent: plain data, gathered by gather.py."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from launcher.cloud_spec import SageMakerSpec

Topic = Literal[
    "credentials",
    "regions",
    "role",
    "image",
    "image contents",
    "instance offers",
    "subnets",
    "security groups",
    "routes",
    "file system",
    "file system network",
    "bucket",
    "data",
    "key",
]


@dataclass(frozen=True)
class Unknown:
    """A question that AWS did not answer, often for a lacking permission."""

    topic: Topic
    subject: str  # such as a bucket's name
    reason: str


@dataclass(frozen=True)
class Identity:
    """Who asks."""

    account: str
    arn: str

    @property
    def partition(self) -> str:
        """ "aws", "aws-cn"."""
        return self.arn.split(":")[1]


@dataclass(frozen=True)
class Role:
    """A role, and the services that may take it."""

    services: frozenset[str]


@dataclass(frozen=True)
class Image:
    """An image in ECR."""

    digest: str
    architectures: frozenset[str] = frozenset()  # "amd64"; empty: not known
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EcrAddress:
    """The parts of an image's address in ECR."""

    account: str
    region: str
    dns_suffix: str
    repository: str
    tag: str  # "" where a digest is given
    digest: str

    @classmethod
    def parse(cls, image: str) -> Self | None:
        """The parts; None for an image that is elsewhere."""
        match = re.fullmatch(
            r"(\d{12})\.dkr\.ecr(?:-fips)?\.([a-z0-9-]+)\.([a-z0-9.-]+)/([a-z0-9][a-z0-9._/-]*)"
            r"(?::([\w.-]+))?(?:@(sha256:[0-9a-f]{64}))?",
            image,
        )
        if match is None:
            return None
        account, region, suffix, repository, tag, digest = match.groups(default="")
        return cls(account, region, suffix, repository, tag or ("" if digest else "latest"), digest)


def region_of(place: SageMakerSpec) -> str | None:
    """The region of a job that may not say it: where its image is, as SageMaker wants them to be.

    None where the image is elsewhere.
    """
    address = EcrAddress.parse(place.image)
    return place.region or (address.region if address else None)


@dataclass(frozen=True)
class Rule:
    """What a security group lets through, one way."""

    protocol: str  # "tcp", "udp", "-1" for all
    first_port: int
    last_port: int
    groups: frozenset[str] = frozenset()
    cidrs: tuple[str, ...] = ()
    prefix_lists: bool = False  # also addresses that are not looked up


@dataclass(frozen=True)
class SecurityGroup:
    """A security group's rules."""

    vpc: str
    inward: tuple[Rule, ...] = ()
    outward: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Subnet:
    """A subnet, and where its traffic can go."""

    vpc: str
    zone: str
    cidr: str
    free_addresses: int
    way_out: str | None = None  # what its default route leads to: nat-…, igw-…
    endpoints: frozenset[str] = frozenset()  # "s3", "ecr.api", "ecr.dkr", "logs"


@dataclass(frozen=True)
class FileSystem:
    """An FSx or EFS file system."""

    kind: str  # "LUSTRE", "EFS", or another of FSx's
    lifecycle: str | None  # None: AWS did not say
    subnets: frozenset[str]  # where it is mounted from
    mount_name: str | None = None
    interfaces: tuple[str, ...] = ()
    security_groups: frozenset[str] = frozenset()  # of its interfaces; empty: not known


@dataclass(frozen=True)
class Bucket:
    """A bucket of S3."""

    region: str | None  # None: AWS did not say


@dataclass(frozen=True)
class S3Data:
    """The objects under a channel's prefix."""

    num_objects: int
    num_bytes: int
    complete: bool = True  # False: there are more, which were not counted


@dataclass(frozen=True)
class Key:
    """A key of KMS."""

    state: str  # "Enabled", …
    symmetric: bool = True


@dataclass(frozen=True)
class Facts:
    """What AWS said; what is missing from a mapping does not exist, unless it is in `unknown`."""

    identity: Identity | None = None
    regions: Mapping[str, str] = field(default_factory=dict)  # → whether the account opted in
    role: Role | None = None
    image: Image | None = None
    offers: Mapping[str, frozenset[str]] = field(default_factory=dict)  # instance type → zones
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    security_groups: Mapping[str, SecurityGroup] = field(default_factory=dict)
    file_systems: Mapping[str, FileSystem] = field(default_factory=dict)
    buckets: Mapping[str, Bucket] = field(default_factory=dict)
    data: Mapping[str, S3Data] = field(default_factory=dict)  # by channel
    keys: Mapping[str, Key] = field(default_factory=dict)
    unknown: tuple[Unknown, ...] = ()

    def knows(self, topic: Topic, subject: str = "") -> bool:
        """Whether the answer to a question is here, even if it is that there is no such thing."""
        if self.identity is None:
            return False
        return not any(
            missing.topic == topic and missing.subject == subject for missing in self.unknown
        )
