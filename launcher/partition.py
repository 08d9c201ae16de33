"""Which of AWS's separate worlds a region belongs to, and how host names end there."""

import difflib
import re
from dataclasses import dataclass

from rayasr.errors import ConfigError


@dataclass(frozen=True)
class Partition:
    """A world of its own: its ARNs begin with `arn:<name>:`, its hosts end in `dns_suffix`."""

    name: str
    dns_suffix: str


def partition_of(region: str) -> Partition:
    """The partition of a region, from botocore's data; raises ConfigError."""
    from botocore.loaders import Loader  # late: --help never loads botocore

    known: list[str] = []
    for entry in Loader().load_data("partitions")["partitions"]:
        known += entry["regions"]
        # The pattern also knows regions that are newer than the data.
        if re.fullmatch(entry["regionRegex"], region, re.ASCII):
            return Partition(entry["id"], entry["outputs"]["dnsSuffix"])
    near = difflib.get_close_matches(region, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "such as eu-central-1 or cn-north-1"
    raise ConfigError(f"there is no AWS region '{region}'; {hint}")
