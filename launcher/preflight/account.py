"""Checks of who asks, the role, and the image's address."""

from collections.abc import Iterator

from launcher.cloud_plan import CloudPlan
from launcher.preflight.facts import EcrAddress, Facts
from launcher.preflight.findings import Finding, error

SERVICE = "sagemaker.amazonaws.com"
"""Who takes a job's role; the same name in China."""


def check_account(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    """Credentials, region, role, and that the image can be pulled."""
    if facts.identity is None:
        reasons = [missing.reason for missing in facts.unknown if missing.topic == "credentials"]
        yield error(
            "credentials",
            "; ".join(reasons) or "AWS did not say who asks",
            "nothing can be sent, and nothing in the account could be checked",
            "renew them (`aws sso login`, new keys), or name others with --profile",
        )
    else:
        yield from _region(plan, facts)
    yield from _role(plan, facts)
    yield from _image(plan, facts)


def _region(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    assert facts.identity is not None
    if facts.identity.partition != plan.partition:
        yield error(
            "credentials-partition",
            f"{facts.identity.arn} is of partition {facts.identity.partition}, but {plan.region} "
            f"is in {plan.partition}",
            "accounts of one partition do not exist in another",
            "take a profile of that partition (--profile), or another region",
        )
    elif facts.knows("regions") and plan.region not in facts.regions:
        yield error(
            "region",
            f"AWS knows no region {plan.region}",
            "the request would go nowhere",
            f"take one of: {', '.join(sorted(facts.regions))}",
        )
    elif facts.regions.get(plan.region) == "not-opted-in":
        yield error(
            "region",
            f"the account has not opted in to {plan.region}",
            "AWS refuses every request there",
            "enable the region in the account's settings, or take another one",
        )


def _role(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    arn = plan.place.role
    account = arn.split(":")[4]
    if facts.identity is not None and facts.identity.account != account:
        yield error(
            "role-account",
            f"the role {arn} is of account {account}, you are in {facts.identity.account}",
            "SageMaker runs a job only with a role of the account it runs in",
            "give sagemaker.role a role of this account, or take another --profile",
        )
    elif facts.knows("role") and facts.role is None:
        yield error(
            "role",
            f"there is no role {arn}",
            "SageMaker refuses the job",
            "correct sagemaker.role, or make the role with configs/iam/job-role.json",
        )
    elif facts.role is not None and SERVICE not in facts.role.services:
        taken_by = ", ".join(sorted(facts.role.services)) or "no service"
        yield error(
            "role-trust",
            f"the role {arn} may be taken by {taken_by}",
            "SageMaker cannot take it, and refuses the job",
            f"add {SERVICE} to the role's trust policy (configs/iam/README.md)",
        )


def _image(plan: CloudPlan, facts: Facts) -> Iterator[Finding]:
    image = plan.place.image
    address = EcrAddress.parse(image)
    if address is None or address.dns_suffix != plan.dns_suffix:
        yield error(
            "image-registry",
            f"{image} is no image in ECR of partition {plan.partition}",
            "SageMaker pulls images from there only",
            "push it with `rayasr image push` and give its address: "
            f"ACCOUNT.dkr.ecr.{plan.region}.{plan.dns_suffix}/REPOSITORY@sha256:…",
        )
    elif address.region != plan.region:
        yield error(
            "image-region",
            f"the image is in {address.region}, the job in {plan.region}",
            "SageMaker pulls images of its own region only",
            f"push it there with `rayasr image push --region {plan.region}`",
        )
    elif facts.knows("image") and facts.image is None:
        yield error(
            "image",
            f"there is no {image}",
            "the machines start, cannot pull it, and the job fails",
            "push it with `rayasr image push`, which writes its digest into the job file",
        )
