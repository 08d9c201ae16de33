"""All checks of a job before money is spent: pure, over a plan and what AWS said."""

from collections.abc import Callable, Iterator

from launcher.cloud_plan import CloudPlan
from launcher.preflight.account import check_account
from launcher.preflight.facts import Facts, Topic, Unknown
from launcher.preflight.findings import Finding, has_errors, note, worst_first
from launcher.preflight.machines import check_machines
from launcher.preflight.network import check_network
from launcher.preflight.recipe import check_recipe
from launcher.preflight.storage import check_storage
from launcher.preflight.terms import check_terms

__all__ = ["Facts", "Finding", "check", "has_errors"]

_CHECKS: tuple[Callable[[CloudPlan, Facts], Iterator[Finding]], ...] = (
    check_account,
    check_machines,
    check_recipe,
    check_network,
    check_storage,
    check_terms,
)

_UNCHECKED: dict[Topic, str] = {
    "regions": "that the account may use the region",
    "role": "that the role exists and lets SageMaker take it",
    "image": "that the image is there",
    "image contents": "that the image fits the machines' processors and GPUs",
    "instance offers": "that the instance types are to be had in these zones",
    "subnets": "that the subnets exist, have free addresses and lie in the file system's zone",
    "security groups": "that the security groups let the machines and the file system talk",
    "routes": "that S3 can be reached from the subnets",
    "file system": "that the file system is there, and what its MountName is",
    "file system network": "that the file system lets the machines in",
    "bucket": "that the bucket exists and lies in the job's region",
    "data": "that there is data, and that it fits on the disks",
    "key": "that the key exists and is enabled",
}


def check(plan: CloudPlan, facts: Facts) -> list[Finding]:
    """Everything wrong or doubtful about a job, the worst first; [] for a sound one."""
    findings = [finding for checks in _CHECKS for finding in checks(plan, facts)]
    findings += [_unchecked(missing) for missing in facts.unknown if missing.topic in _UNCHECKED]
    return worst_first(findings)


def _unchecked(missing: Unknown) -> Finding:
    about = f" ({missing.subject})" if missing.subject else ""
    return note(
        f"unchecked-{missing.topic.replace(' ', '-')}",
        f"{missing.reason}{about}",
        f"so it was not checked {_UNCHECKED[missing.topic]}",
        "allow the call (configs/iam/submitter.json has all of them), or look for yourself",
    )
