"""Jobs on SageMaker: the files go to S3, the request is sent, the logs come back."""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from launcher.aws.jobs import JobStatus, describe_job
from launcher.aws.logs import LogLine, LogReader
from launcher.aws.request import training_job_request
from launcher.aws.session import Aws, UnreachableError, aws_errors
from launcher.cloud_plan import CloudPlan, make_cloud_plan
from launcher.spec import JobSpec
from rayasr.errors import LaunchError

POLL_S = 2.0
"""Seconds between two looks at a job; never less than 1 in real use."""
REQUEST_S = 0.1
"""Seconds that a poll may take for each log stream: AWS allows some ten requests a second."""
TRIES = 10
"""Looks in a row that may fail, five minutes in all, before nobody waits any longer."""
LONGEST_PAUSE_S = 60.0

Notes = Callable[[str], None]


class SageMakerBackend:
    """Plans, submits and watches training jobs."""

    def __init__(
        self,
        aws: Aws,
        *,
        poll_s: float = POLL_S,
        sleep: Callable[[float], None] = time.sleep,  # tests pass another one
    ) -> None:
        self._aws = aws
        self._poll_s = poll_s
        self._sleep = sleep

    def plan(self, job: JobSpec, mount_names: Mapping[str, str] | None = None) -> CloudPlan:
        """Work out a job; AWS is asked only for MountNames that neither it nor the caller gives."""
        return make_cloud_plan(
            job,
            region=self._aws.region,
            stamp=time.strftime("%Y%m%d-%H%M%S", time.gmtime()),
            token=secrets.token_hex(32),
            mount_names=self._mount_names(job) if mount_names is None else mount_names,
        )

    def submit(self, plan: CloudPlan, notes: Notes) -> str:
        """Send exactly what `launch --dry-run` prints; the job's name; raises LaunchError."""
        notes(f"{plan.name}: its files go to {plan.job_prefix}")
        self._upload(plan)
        client = self._aws.client("sagemaker")
        try:
            with aws_errors(f"start job {plan.name}"):
                try:
                    client.create_training_job(**training_job_request(plan))
                except client.exceptions.ResourceInUse:
                    self._see_that_it_is_ours(plan)
                except client.exceptions.ResourceLimitExceeded as error:
                    raise LaunchError(_quota_sentence(plan, error)) from error
        except UnreachableError as error:
            raise LaunchError(
                f"{error}; it may have started all the same, see "
                f"`rayasr jobs status {plan.name}{self._aws.options}`"
            ) from error
        notes(f"{plan.name}: submitted to SageMaker in {plan.region}")
        return plan.name

    def wait(self, name: str, notes: Notes, logs: Callable[[LogLine], None]) -> JobStatus:
        """Follow a job to its end: its stages go to `notes`, its hosts' lines to `logs`.

        Raises LaunchError where AWS refuses or does not answer for minutes; the job goes on then.
        """
        watch = _Watch(self._aws, name, notes, logs)
        failures, over = 0, False
        while True:
            try:
                status, news = watch.look()
            except UnreachableError as error:
                failures += 1
                if failures == TRIES:
                    raise self._lost_touch(name, error) from error
                pause = min(LONGEST_PAUSE_S, self._poll_s * 2**failures)
                notes(f"{name}: {error}; the job goes on, trying again in {pause:.0f} s")
                self._sleep(pause)
                continue
            except LaunchError as error:
                if not watch.seen:
                    raise
                raise self._lost_touch(name, error) from error
            failures = 0
            # Lines arrive in CloudWatch late: after the end, look until there are no more.
            if over and not news:
                return status
            over = status.is_over
            self._sleep(max(self._poll_s, REQUEST_S * watch.num_streams))

    def _lost_touch(self, name: str, error: LaunchError) -> LaunchError:
        options = self._aws.options
        return LaunchError(
            f"lost touch with job {name}, which goes on: {error}; look again with `rayasr jobs "
            f"logs {name} -f{options}`, stop it with `rayasr jobs stop {name}{options}`"
        )

    def _mount_names(self, job: JobSpec) -> dict[str, str]:
        """MountNames of the FSx file systems for which the job file gives none."""
        systems = [channel.fsx for channel in job.channels.values() if channel.fsx]
        ids = sorted({system.id for system in systems if system.mount_name is None})
        if not ids:
            return {}
        try:
            with aws_errors(f"look up file system {', '.join(ids)}"):
                found = self._aws.client("fsx").describe_file_systems(FileSystemIds=ids)
        except LaunchError as error:
            raise LaunchError(f"{error}; or give fsx.mount_name, and AWS is not asked") from error
        mounts = {
            system["FileSystemId"]: system.get("LustreConfiguration", {}).get("MountName")
            for system in found["FileSystems"]
        }
        return {id: mount for id, mount in mounts.items() if mount}

    def _upload(self, plan: CloudPlan) -> None:
        """Put the job's files where the machines will get them from."""
        bucket, _, prefix = plan.job_prefix.removeprefix("s3://").partition("/")
        client = self._aws.client("s3")
        for file, content in plan.files.items():
            with aws_errors(f"put {file} into {plan.job_prefix}"):
                client.put_object(Bucket=bucket, Key=f"{prefix}/{file}", Body=content)

    def _see_that_it_is_ours(self, plan: CloudPlan) -> None:
        """A request whose answer was lost is sent again, and then its name is taken, by itself."""
        if describe_job(self._aws, plan.name).digest != plan.digest:
            raise LaunchError(
                f"the name {plan.name} is taken in {plan.region}; launch again, for the time is a "
                "part of the name, or change the job file's name"
            )


@dataclass
class _Watch:
    """A job that is looked at again and again."""

    aws: Aws
    name: str
    notes: Notes
    logs: Callable[[LogLine], None]
    seen: bool = False
    log_refused: bool = False
    said: set[tuple[str, datetime]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.reader = LogReader(self.aws, self.name)

    @property
    def num_streams(self) -> int:
        return self.reader.num_streams

    def look(self) -> tuple[JobStatus, bool]:
        """The job's status, and whether there was a new line.

        The status is asked first, so that what is read after the end is complete.
        """
        status = describe_job(self.aws, self.name)
        self.seen = True
        for stage in status.transitions:
            if (stage.status, stage.started) not in self.said:
                self.said.add((stage.status, stage.started))
                self.notes(f"{self.name}: {stage.status}: {stage.message}".rstrip(": "))
        return status, not self.log_refused and self._pass_on_lines()

    def _pass_on_lines(self) -> bool:
        news = False
        try:
            for line in self.reader.lines():
                news = True
                self.logs(line)
        except UnreachableError:
            raise
        except LaunchError as error:  # a submitter may lack the right; the job can be waited for
            self.log_refused = True
            self.notes(f"{self.name}: no logs here: {error}")
        return news


def _quota_sentence(plan: CloudPlan, error: Exception) -> str:
    """What to ask for; the quotas of new accounts are 0."""
    kind = "spot training job usage" if plan.place.spot else "training job usage"
    needs: dict[str, int] = {}
    for group in plan.place.groups:
        needs[group.instance_type] = needs.get(group.instance_type, 0) + group.instance_count
    wanted = " and ".join(f"{count} for '{type_} for {kind}'" for type_, count in needs.items())
    return (
        f"cannot start job {plan.name}: {str(error).rstrip('.')}; ask for at least {wanted} under "
        f"Service Quotas, Amazon SageMaker, in {plan.region}, or take another instance type"
    )
