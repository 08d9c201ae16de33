"""Checks of the terms: the API's limits, time, spot, and money."""

import re
from collections.abc import Iterator

from launcher.aws.request import training_job_request
from launcher.cloud_plan import CloudPlan
from launcher.cloud_spec import seconds
from launcher.instances import INSTANCES
from launcher.plan import TRAINING_VERBS
from launcher.preflight.facts import Facts
from launcher.preflight.findings import Finding, error, note, warning
from launcher.preflight.recipe import is_kept, option
from launcher.prices import ADD_PRICE, estimate
from rayasr.errors import ConfigError


def check_terms(plan: CloudPlan, _facts: Facts) -> Iterator[Finding]:
    """What the service would refuse, and what the job may take and cost."""
    try:
        training_job_request(plan)
    except ConfigError as problem:
        yield error(
            "request",
            str(problem),
            "its API limits lengths, numbers and characters",
            "correct the value in the job file",
        )
    yield from _pending(plan)
    yield from _own_limit(plan)
    yield from _spot(plan)
    yield from _price(plan)


def _pending(plan: CloudPlan) -> Iterator[Finding]:
    place = plan.place
    machines = [INSTANCES.get(group.instance_type) for group in place.groups]
    if place.max_pending and not any(m is None or m.num_gpus for m in machines):
        yield error(
            "max-pending",
            "sagemaker.max_pending is set, and no machine has a GPU",
            "SageMaker lets only jobs with GPUs wait, and refuses the job",
            "leave sagemaker.max_pending out",
        )


def _own_limit(plan: CloudPlan) -> Iterator[Finding]:
    """The verb's own limit ends in a model; SageMaker's leaves time for a checkpoint only."""
    own = option(plan.command, "--max-time") or ""
    if plan.command[0] not in TRAINING_VERBS or not re.fullmatch(r"\d+(\.\d+)?[smhd]", own):
        return
    if seconds(own) >= plan.job.time_limit_s:
        yield warning(
            "max-time",
            f"--max-time {own} is not less than time_limit ({plan.job.time_limit})",
            "SageMaker would stop the job before training averages its checkpoints into a model",
            "set time_limit so that there are minutes left to start up and to finish",
        )


def _spot(plan: CloudPlan) -> Iterator[Finding]:
    place = plan.place
    if not place.spot or place.max_wait is None:
        return
    if seconds(place.max_wait) == plan.job.time_limit_s:
        yield warning(
            "spot-wait",
            f"max_wait is as long as time_limit ({plan.job.time_limit})",
            "every minute of waiting for machines is then taken from training, and interruptions "
            "too",
            "set sagemaker.max_wait to twice the time limit, for example; waiting costs nothing",
        )
    if plan.command[0] in TRAINING_VERBS and not is_kept(plan):
        yield warning(
            "spot-checkpoints",
            "the job trains on spot machines, and its checkpoints lie on their own disks",
            "each interruption would lose the whole run",
            "put `run` into an FSx or EFS channel, or set sagemaker.checkpoints and a relative "
            "`run`",
        )


def _price(plan: CloudPlan) -> Iterator[Finding]:
    price = estimate(plan.job, plan.region)
    limit = plan.place.max_cost
    if price.max_bill is None:
        severity = note if limit is None else error
        yield severity(
            "price",
            f"no price in {price.currency} is known for {', '.join(price.unknown)}",
            "so the bill is not known before it comes"
            if limit is None
            else f"so it cannot be promised to stay below {limit:g} {price.currency}",
            ADD_PRICE,
        )
    elif limit is not None and price.max_bill > limit:
        yield error(
            "max-cost",
            f"the job may cost {price.max_bill:.2f} {price.currency}, more than "
            f"{limit:g} {price.currency}",
            "its time limit, not its work, ends the worst case",
            "lower time_limit, take fewer or smaller machines, or raise sagemaker.max_cost",
        )
