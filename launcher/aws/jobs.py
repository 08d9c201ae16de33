"""Training jobs on SageMaker as data: what they are doing, how they ended, what they cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from launcher.aws.session import Aws, aws_errors, error_code
from launcher.job_file import DIGEST_VARIABLE
from launcher.prices import AS_OF, PRICES, TABLE_CURRENCY, TABLE_REGION
from rayasr.errors import LaunchError

OVER = ("Completed", "Failed", "Stopped")
"""States that a job does not leave again."""

# The model knows ResourceNotFound; the service is said to answer ValidationException.
_NOT_FOUND = ("ResourceNotFound", "ValidationException")


@dataclass(frozen=True)
class JobSummary:
    """A job in the list."""

    name: str
    status: str
    secondary: str
    created: datetime
    ended: datetime | None


@dataclass(frozen=True)
class Transition:
    """A stage that a job went through, or is in."""

    status: str
    started: datetime
    ended: datetime | None
    message: str  # for people; nothing depends on its words


@dataclass(frozen=True)
class JobStatus:
    """All that is told about a job."""

    name: str
    status: str  # InProgress, Stopping, or one of OVER
    secondary: str  # the stage it is in, or the manner of its end
    reason: str | None  # why it failed
    created: datetime
    started: datetime | None
    ended: datetime | None
    hosts: Mapping[str, int]  # instance type → how many
    training_s: int | None  # known at the end
    billable_s: int | None  # of each machine
    saving: float | None  # share of the training time that spot left unbilled
    price: float | None  # of all machines; None where it is not known
    model: str | None
    digest: str | None  # of the job file
    transitions: tuple[Transition, ...]
    currency: str = TABLE_CURRENCY

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.status in OVER

    def describe(self) -> str:
        """The job for a person, one line each."""
        stage = "" if self.secondary == self.status else f" ({self.secondary})"
        machines = " + ".join(f"{count} x {kind}" for kind, count in self.hosts.items())
        rows = [
            ("job", self.name),
            ("status", f"{self.status}{stage}"),
            ("reason", self.reason),
            ("machines", machines),
            ("created", _utc(self.created)),
            *((stage.status, _describe_stage(stage)) for stage in self.transitions),
            ("billed", self._describe_bill()),
            ("price", self._describe_price()),
            ("model", self.model),
        ]
        width = max(len(key) for key, value in rows if value)
        return "\n".join(f"{key:{width}}  {value}" for key, value in rows if value)

    def _describe_bill(self) -> str | None:
        if self.billable_s is None:
            return None
        saved = f", spot saved {self.saving:.0%}" if self.saving else ""
        return f"{self.billable_s} s of each machine{saved}"

    def _describe_price(self) -> str | None:
        if self.price is None:
            return None
        return f"{self.price:.2f} {self.currency} at the prices of {TABLE_REGION}, {AS_OF}"


def list_jobs(aws: Aws, limit: int, contains: str | None = None) -> list[JobSummary]:
    """The latest jobs of the account, newest first."""
    query = {"SortBy": "CreationTime", "SortOrder": "Descending"}
    query |= {"NameContains": contains} if contains else {}
    with aws_errors("list the jobs"):
        pages = aws.client("sagemaker").get_paginator("list_training_jobs")
        answer = pages.paginate(PaginationConfig={"MaxItems": limit}, **query).build_full_result()
    return [
        JobSummary(
            name=job["TrainingJobName"],
            status=job["TrainingJobStatus"],
            secondary=job.get("SecondaryStatus", ""),
            created=job["CreationTime"],
            ended=job.get("TrainingEndTime"),
        )
        for job in answer["TrainingJobSummaries"]
    ]


def describe_job(aws: Aws, name: str) -> JobStatus:
    """What AWS says of a job now; raises LaunchError where there is none of that name."""
    client = aws.client("sagemaker")
    with aws_errors(f"look at job {name}"):
        try:
            answer = client.describe_training_job(TrainingJobName=name)
        except client.exceptions.ClientError as error:
            if error_code(error) in _NOT_FOUND:
                raise LaunchError(
                    f"there is no job '{name}' in {aws.region}; `rayasr jobs ls{aws.options}` "
                    "lists what there is"
                ) from error
            raise
    return _status(answer, aws.region)


def stop_job(aws: Aws, name: str) -> JobStatus:
    """Ask a job to stop, unless it is over; what it was doing until then."""
    status = describe_job(aws, name)
    if not status.is_over:
        with aws_errors(f"stop job {name}"):
            aws.client("sagemaker").stop_training_job(TrainingJobName=name)
    return status


def _status(answer: Mapping[str, Any], region: str) -> JobStatus:
    hosts = _hosts(answer.get("ResourceConfig", {}))
    training, billable = answer.get("TrainingTimeInSeconds"), answer.get("BillableTimeInSeconds")
    return JobStatus(
        name=answer["TrainingJobName"],
        status=answer["TrainingJobStatus"],
        secondary=answer["SecondaryStatus"],
        reason=answer.get("FailureReason"),
        created=answer["CreationTime"],
        started=answer.get("TrainingStartTime"),
        ended=answer.get("TrainingEndTime"),
        hosts=hosts,
        training_s=training,
        billable_s=billable,
        saving=1 - billable / training if training and billable is not None else None,
        price=None if region.startswith("cn-") else _price(hosts, billable),  # China bills in CNY
        model=answer.get("ModelArtifacts", {}).get("S3ModelArtifacts"),
        digest=answer.get("Environment", {}).get(DIGEST_VARIABLE),
        transitions=tuple(
            Transition(
                status=stage["Status"],
                started=stage["StartTime"],
                ended=stage.get("EndTime"),
                message=stage.get("StatusMessage", ""),
            )
            for stage in answer.get("SecondaryStatusTransitions", ())
        ),
    )


def _hosts(resources: Mapping[str, Any]) -> dict[str, int]:
    """Machines by type; two groups may have the same one, and foreign jobs may name none."""
    hosts: dict[str, int] = {}
    for group in resources.get("InstanceGroups") or [resources]:
        if kind := group.get("InstanceType"):
            hosts[kind] = hosts.get(kind, 0) + group["InstanceCount"]
    return hosts


def _price(hosts: Mapping[str, int], billable_s: int | None) -> float | None:
    """AWS gives the billable time of one machine; all of them are paid for."""
    if billable_s is None or not hosts or not hosts.keys() <= PRICES.keys():
        return None
    return sum(PRICES[kind] * count for kind, count in hosts.items()) * billable_s / 3600


def _describe_stage(stage: Transition) -> str:
    took = "" if stage.ended is None else f", {(stage.ended - stage.started).total_seconds():.0f} s"
    return f"{_utc(stage.started)}{took}"


def _utc(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
