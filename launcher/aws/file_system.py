"""An FSx for Lustre file system as data: what may be asked for, what AWS tells, what it costs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

from rayasr.errors import ConfigError

Deployment = Literal["SCRATCH_2", "PERSISTENT_1", "PERSISTENT_2"]

LUSTRE_VERSION = "2.15"
"""Always asked for: AWS's default is older, and 2.10 has no links to S3."""
THROUGHPUTS: Mapping[Deployment, tuple[int, ...]] = {
    "SCRATCH_2": (),
    "PERSISTENT_1": (50, 100, 200),
    "PERSISTENT_2": (125, 250, 500, 1000),
}
"""MB/s for each TiB that an SSD file system can be asked for."""
ALL_EVENTS = ("NEW", "CHANGED", "DELETED")
"""What a link carries over: new files, changes, and that one was deleted."""
USABLE = ("AVAILABLE", "UPDATING")
"""States in which it can be mounted."""
DEAD = ("FAILED", "DELETING")

PRICES_AS_OF = "2025-06"
PRICES: Mapping[tuple[Deployment, int | None], float] = {
    ("SCRATCH_2", None): 0.140,
    ("PERSISTENT_1", 50): 0.130,
    ("PERSISTENT_1", 100): 0.190,
    ("PERSISTENT_1", 200): 0.290,
    ("PERSISTENT_2", 125): 0.145,
    ("PERSISTENT_2", 250): 0.210,
    ("PERSISTENT_2", 500): 0.340,
    ("PERSISTENT_2", 1000): 0.600,
}
"""USD for a GiB and month of SSD in us-east-1: approximate, not asked from AWS; --price overrides.
Other regions differ, and China bills in CNY."""

_UNKNOWN_REASON = "AWS gives no reason"


@dataclass(frozen=True)
class Volume:
    """Kind and size of a file system; `throughput` is MB/s per TiB, None for scratch."""

    deployment: Deployment
    capacity_gib: int
    throughput: int | None

    def describe(self) -> str:
        """It in a few words."""
        speed = f", {self.throughput} MB/s per TiB" if self.throughput else ""
        return f"{self.capacity_gib} GiB {self.deployment}{speed}"

    def describe_price(self, price: float | None = None) -> str:
        """What a month costs, used or not; `price` is a GiB's, over the table's."""
        if price is not None:
            return f"{price * self.capacity_gib:.2f} a month, used or not"
        per_gib = PRICES.get((self.deployment, self.throughput))
        if per_gib is None:
            return "not known; give --price"
        return (
            f"{per_gib * self.capacity_gib:.2f} USD a month, used or not (us-east-1, as of "
            f"{PRICES_AS_OF}; give --price for another region)"
        )


@dataclass(frozen=True)
class FileSystemOptions:
    """What a new file system is to be; raises ConfigError where AWS would refuse it."""

    name: str
    subnet: str
    security_groups: tuple[str, ...]
    volume: Volume
    kms_key: str | None = None
    s3: str | None = None
    s3_path: str = "/"

    def __post_init__(self) -> None:
        size = self.volume.capacity_gib
        if size <= 0 or (size != 1200 and size % 2400):
            raise ConfigError(f"--capacity {size}: give 1200, 2400, or more in steps of 2400 GiB")
        kind, allowed = self.volume.deployment, THROUGHPUTS[self.volume.deployment]
        if allowed and self.volume.throughput not in allowed:
            choices = ", ".join(map(str, allowed))
            raise ConfigError(f"--throughput of {kind} must be one of {choices}")
        if not allowed and (self.volume.throughput or self.kms_key):
            raise ConfigError(f"{kind} has no --throughput and no --kms-key")
        if self.s3 and not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+(/\S*)?", self.s3):
            raise ConfigError(f"--s3 {self.s3} must be s3://BUCKET/PREFIX")
        if not self.s3_path.startswith("/"):
            raise ConfigError(f"--s3-path {self.s3_path} must begin with /")

    @property
    def request(self) -> dict[str, Any]:
        """The CreateFileSystem body."""
        lustre: dict[str, Any] = {
            "DeploymentType": self.volume.deployment,
            "DataCompressionType": "LZ4",
        }
        if self.volume.throughput:
            lustre["PerUnitStorageThroughput"] = self.volume.throughput
        request: dict[str, Any] = {
            "FileSystemType": "LUSTRE",
            "FileSystemTypeVersion": LUSTRE_VERSION,
            "StorageCapacity": self.volume.capacity_gib,
            "StorageType": "SSD",
            "SubnetIds": [self.subnet],
            "SecurityGroupIds": list(self.security_groups),
            "LustreConfiguration": lustre,
            "Tags": [{"Key": "Name", "Value": self.name}],
        }
        return request | ({"KmsKeyId": self.kms_key} if self.kms_key else {})


@dataclass(frozen=True)
class FileSystem:
    """A file system as AWS describes it."""

    id: str
    name: str
    lifecycle: str
    failure: str
    volume: Volume
    version: str
    mount_name: str
    dns_name: str
    vpc: str
    subnets: tuple[str, ...]

    @classmethod
    def from_answer(cls, found: Mapping[str, Any]) -> Self:
        """Read an entry of DescribeFileSystems."""
        lustre = found.get("LustreConfiguration", {})
        names = [tag["Value"] for tag in found.get("Tags", ()) if tag["Key"] == "Name"]
        return cls(
            id=found["FileSystemId"],
            name=names[0] if names else "",
            lifecycle=found.get("Lifecycle", "CREATING"),
            failure=found.get("FailureDetails", {}).get("Message", _UNKNOWN_REASON),
            volume=Volume(
                lustre.get("DeploymentType", "SCRATCH_2"),
                found.get("StorageCapacity", 0),
                lustre.get("PerUnitStorageThroughput"),
            ),
            version=found.get("FileSystemTypeVersion", ""),
            mount_name=lustre.get("MountName", ""),
            dns_name=found.get("DNSName", ""),
            vpc=found.get("VpcId", ""),
            subnets=tuple(found.get("SubnetIds", ())),
        )

    @property
    def source(self) -> str:
        """What `mount -t lustre` takes; empty while it is being made."""
        return f"{self.dns_name}@tcp:/{self.mount_name}" if self.mount_name else ""

    def describe(self, links: Sequence["S3Link"], price: float | None = None) -> str:
        """It for a person, one line each."""
        name = f" ({self.name})" if self.name else ""
        lines = [
            f"file system  {self.id}{name}, {self.lifecycle}",
            f"volume       {self.volume.describe()}, Lustre {self.version or 'of unknown version'}",
            f"network      {', '.join((self.vpc, *self.subnets))}",
            f"mount        {self.source or 'not yet'}",
        ]
        lines += [f"S3           {link.describe()}" for link in links]
        lines += [] if links else ["S3           no link: what is in it, is nowhere else"]
        lines.append(f"price        {self.volume.describe_price(price)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class S3Link:
    """A data repository association: a folder of the file system that mirrors an S3 prefix."""

    id: str
    path: str
    s3: str
    lifecycle: str
    failure: str
    auto_import: tuple[str, ...]  # events
    auto_export: tuple[str, ...]

    @classmethod
    def from_answer(cls, found: Mapping[str, Any]) -> Self:
        """Read an entry of DescribeDataRepositoryAssociations."""
        s3 = found.get("S3", {})
        return cls(
            id=found["AssociationId"],
            path=found.get("FileSystemPath", "/"),
            s3=found["DataRepositoryPath"].rstrip("/"),
            lifecycle=found.get("Lifecycle", "CREATING"),
            failure=found.get("FailureDetails", {}).get("Message", _UNKNOWN_REASON),
            auto_import=tuple(s3.get("AutoImportPolicy", {}).get("Events", ())),
            auto_export=tuple(s3.get("AutoExportPolicy", {}).get("Events", ())),
        )

    def describe(self) -> str:
        """It in a few words."""
        imports, exports = ("on" if x else "off" for x in (self.auto_import, self.auto_export))
        return (
            f"{self.path} = {self.s3}, {self.lifecycle}; automatic import {imports}, "
            f"export {exports}"
        )


def default_volume(
    partition: str, capacity_gib: int, deployment: Deployment | None, throughput: int | None
) -> Volume:
    """A volume with what was left out; PERSISTENT_1 is the kind that every partition has."""
    kind = deployment or ("PERSISTENT_2" if partition == "aws" else "PERSISTENT_1")
    return Volume(kind, capacity_gib, throughput or next(iter(THROUGHPUTS[kind]), None))
