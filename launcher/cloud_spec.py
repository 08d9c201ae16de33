"""The parts of a job file that only SageMaker needs: machines, network, money, where data lies."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from rayasr.settings import Section

_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DAY_S = 86400


def seconds(time: str) -> float:
    """A time of a job file, such as 20m, in seconds."""
    return float(time[:-1]) * _TIME_UNITS[time[-1]]


def _check_time(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,7}(\.[0-9]{1,6})?[smhd]", text) or float(text[:-1]) == 0:
        raise ValueError("is not a time; write 90s, 20m, 8h or 2d")
    return text


def _check_s3(url: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s]*)?", url):
        raise ValueError("must be s3://BUCKET/PREFIX")
    return url.rstrip("/")


def _check_inside(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/"):
        raise ValueError("must begin with / and stay inside the file system")
    return path.rstrip("/") or "/"


Time = Annotated[str, AfterValidator(_check_time)]
S3Url = Annotated[str, AfterValidator(_check_s3)]
InsidePath = Annotated[str, AfterValidator(_check_inside)]


class FsxSource(Section):
    """A folder of an FSx for Lustre file system."""

    id: str = Field(pattern=r"^fs-[0-9a-f]{8,}$")
    """The file system, fs-…."""
    path: InsidePath = "/"
    """Folder inside it, without the mount name."""
    mount_name: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,8}$")
    """The file system's MountName; asked from AWS where left out."""


class EfsSource(Section):
    """A folder of an EFS file system."""

    id: str = Field(pattern=r"^fs-[0-9a-f]{8,}$")
    """The file system, fs-…."""
    path: InsidePath = "/"
    """Folder inside it."""


class InstanceGroup(Section):
    """Some machines of one type in a cluster of several types."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """Name of the group, to which channels and `head_group` refer."""
    instance_type: str = Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")
    """Such as ml.c5.4xlarge."""
    instance_count: int = Field(1, ge=1, le=100)
    """How many."""


class VpcSpec(Section):
    """The network that the machines are put into; FSx and EFS need one."""

    subnets: tuple[str, ...] = Field(min_length=1, max_length=16)
    """Subnets, in the file system's zone."""
    security_groups: tuple[str, ...] = Field(min_length=1, max_length=5)
    """Security groups; they must admit each other, and Lustre's ports."""


class CodeSpec(Section):
    """Our own code, taken along so that a change needs no new image."""

    folder: str = "."
    """The checkout; its `rayasr` and `launcher` packages travel."""
    exclude: tuple[str, ...] = ()
    """More patterns of files to leave out; secrets and data always are."""
    max_mb: float = Field(20.0, gt=0)
    """A larger archive is refused."""


class SageMakerSpec(Section):
    """Where and on what a job runs on SageMaker."""

    region: str | None = None
    """AWS region; default: the image's, or the profile's."""
    role: str = Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/\S{1,512}$")
    """ARN of the role that the job takes."""
    image: str = Field(min_length=3, max_length=255)
    """The image in ECR, by digest or by tag."""
    output: S3Url
    """Where the job file, the model and the exports are put."""
    instance_type: str | None = Field(None, pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")
    """Such as ml.g5.12xlarge; or give `instance_groups`."""
    instance_count: int = Field(1, ge=1, le=100)
    """How many machines."""
    instance_groups: tuple[InstanceGroup, ...] = Field((), max_length=5)
    """Machines of several types in one cluster, such as CPUs beside GPUs."""
    head_group: str | None = None
    """Group whose first machine is the head of the cluster; default: that of algo-1."""
    volume_gb: int = Field(50, ge=1, le=16384)
    """Disk of each machine; types with their own NVMe disks ignore it."""
    vpc: VpcSpec | None = None
    """Subnets and security groups."""
    checkpoints: S3Url | None = None
    """Copied to /opt/ml/checkpoints of all machines at the start, and back while the job runs."""
    spot: bool = False
    """Take spare machines for less, which may be taken away."""
    max_wait: Time | None = None
    """Waiting and running together, for spot; at least the time limit."""
    max_pending: Time | None = None
    """How long the request may wait for machines (GPU types, 30 minutes to 28 days)."""
    keep_alive: Time | None = None
    """Keep the machines for the next job, paid for (a warm pool), up to 6 hours."""
    volume_kms_key: str | None = Field(None, max_length=2048)
    """Key of the machines' disks; NVMe types refuse one."""
    output_kms_key: str | None = Field(None, max_length=2048)
    """Key of the model archive in S3."""
    tags: dict[str, str] = Field(default_factory=dict, max_length=50)
    """Tags of the job, for bills."""
    metrics: dict[str, str] = Field(default_factory=dict, max_length=40)
    """Name to regular expression over the log, for CloudWatch; default: loss, dev CER, speed."""
    network_isolation: bool = False
    """The machines reach each other only; no S3 from inside."""
    encrypt_traffic: bool = False
    """Encrypt traffic between the machines, slower."""
    attempts: int | None = Field(None, ge=1, le=30)
    """Starts again after an internal error of the service, this many times."""
    code: CodeSpec | None = None
    """Take a checkout along; default: the image's code."""
    max_cost: float | None = Field(None, gt=0)
    """Refuse where the bill could become larger, in `currency`."""
    prices: dict[str, float] = Field(default_factory=dict)
    """Price of an instance hour by type, over the built-in table's."""
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$")
    """Currency of the prices."""

    @property
    def groups(self) -> tuple[InstanceGroup, ...]:
        """The machines as groups, whichever way they were given."""
        if self.instance_groups:
            return self.instance_groups
        kind = self.instance_type or ""
        return (
            InstanceGroup(
                name="homogeneousCluster", instance_type=kind, instance_count=self.instance_count
            ),
        )

    @property
    def num_hosts(self) -> int:
        """How many machines there are in all."""
        return sum(group.instance_count for group in self.groups)

    @model_validator(mode="after")
    def _check_machines(self) -> Self:
        names = [group.name for group in self.instance_groups]
        if (self.instance_type is None) != bool(names):
            raise ValueError("give either instance_type and instance_count, or instance_groups")
        if names and "instance_count" in self.model_fields_set:
            raise ValueError("instance_count belongs to instance_type; each group has its own")
        if len(set(names)) != len(names):
            raise ValueError("instance_groups: two groups have the same name")
        if self.head_group is not None and self.head_group not in names:
            raise ValueError(f"head_group: there is no group '{self.head_group}'")
        if names and self.keep_alive:
            raise ValueError("keep_alive (a warm pool) does not go with instance_groups")
        if names and self.checkpoints and len(names) > 1:
            raise ValueError("checkpoints in S3 do not go with instance_groups; use FSx")
        return self

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        if self.spot and self.max_wait is None:
            raise ValueError("spot needs max_wait: how long waiting and running may take together")
        if self.max_wait is not None and not self.spot:
            raise ValueError("max_wait goes with spot: true only")
        if self.spot and self.keep_alive:
            raise ValueError("keep_alive (a warm pool) does not go with spot")
        if self.keep_alive and seconds(self.keep_alive) > 21600:
            raise ValueError("keep_alive: at most 6h")
        if self.max_pending and not 1800 <= seconds(self.max_pending) <= 28 * DAY_S:
            raise ValueError("max_pending: 30m to 28d")
        return self
