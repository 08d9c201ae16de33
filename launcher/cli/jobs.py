"""`rayasr jobs`: look at jobs on SageMaker, read their logs, stop them."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.cli.options import (
    EndpointOption,
    JsonOption,
    ProfileOption,
    RegionOption,
    find_aws,
    note,
)
from launcher.host.log import with_host
from rayasr.errors import LaunchError

if TYPE_CHECKING:
    from launcher.aws.jobs import JobStatus
    from launcher.aws.logs import LogLine
    from launcher.aws.session import Aws

jobs_app = typer.Typer(
    help="Look at jobs on SageMaker, read their logs, stop them.", no_args_is_help=True
)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="The job's name, or `last`: the one submitted last.")
]


def register(app: typer.Typer) -> None:
    """Add the group of verbs to the app."""
    app.add_typer(jobs_app, name="jobs")


@jobs_app.command("ls")
def ls(
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many, newest first.")] = 20,
    contains: Annotated[
        str | None, typer.Option("--name", metavar="TEXT", help="Only names with this in them.")
    ] = None,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """List the jobs of the account, newest first.

    Example: rayasr jobs ls --name aishell
    """
    from launcher.aws.jobs import list_jobs

    aws = find_aws(profile, region, endpoint_url)
    jobs = list_jobs(aws, limit, contains)
    if as_json:
        typer.echo(_json(jobs))
        return
    for job in jobs:
        created = f"{job.created.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
        stage = "" if job.secondary in ("", job.status) else f" ({job.secondary})"
        typer.echo(f"{created}  {job.name:40}  {job.status}{stage}")
    if not jobs:
        note(f"there are no jobs in {aws.region}")


@jobs_app.command("status")
def status(
    name: NameArgument,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Show what a job is doing, or how it ended and what it cost.

    Example: rayasr jobs status last
    """
    from launcher.aws.jobs import describe_job

    aws, name = _find(name, profile, region, endpoint_url)
    found = describe_job(aws, name)
    typer.echo(_json(found) if as_json else found.describe())


@jobs_app.command("logs")
def logs(
    name: NameArgument,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Go on until the job ends, and end with its outcome."),
    ] = False,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Print what the hosts of a job have logged, in the order of time.

    Example: rayasr jobs logs last -f
    """
    from launcher.aws.logs import LogReader

    aws, name = _find(name, profile, region, endpoint_url)
    if follow:
        follow_job(aws, name, as_json=as_json)
        return
    reader = LogReader(aws, name)
    for line in reader.lines():
        _show(line, as_json)
    if not reader.num_streams:
        note(f"{name}: no host has logged anything yet")


@jobs_app.command("stop")
def stop(
    name: NameArgument,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Ask a job to stop; training saves a checkpoint before it leaves.

    Example: rayasr jobs stop last
    """
    from launcher.aws.jobs import stop_job

    aws, name = _find(name, profile, region, endpoint_url)
    found = stop_job(aws, name)
    if as_json:
        typer.echo(_json({"name": name, "status": found.status, "asked": not found.is_over}))
    elif found.is_over:
        typer.echo(f"{name} is over already: {found.status}")
    else:
        typer.echo(f"{name} is asked to stop; it has two minutes to leave its checkpoint")


def follow_job(aws: "Aws", name: str, *, as_json: bool = False) -> None:
    """Stream a job's logs to its end; raises LaunchError where it did not end well.

    Ctrl-C ends the streaming only, with exit code 130.
    """
    from launcher.aws.sagemaker import SageMakerBackend

    try:
        status = SageMakerBackend(aws).wait(name, note, lambda line: _show(line, as_json))
    except KeyboardInterrupt:
        note(
            f"\n{name} goes on, and costs; look again with `rayasr jobs logs {name} -f"
            f"{aws.options}`, stop it with `rayasr jobs stop {name}{aws.options}`"
        )
        raise typer.Exit(130) from None
    note(status.describe())
    _check_end(status)


def _check_end(status: "JobStatus") -> None:
    """Raise LaunchError, with the reason and what to do, unless the job is Completed."""
    name = status.name
    if status.status == "Failed":
        raise LaunchError(f"job {name} failed: {status.reason or 'SageMaker gives no reason'}")
    if status.secondary == "MaxRuntimeExceeded":
        raise LaunchError(
            f"job {name} was stopped at its time limit; launch again to go on where it was, or "
            "give a larger time_limit"
        )
    if status.secondary == "MaxWaitTimeExceeded":
        raise LaunchError(
            f"job {name} was stopped at its sagemaker.max_wait; launch again, without spot or "
            "with another instance type"
        )
    if status.status != "Completed":
        raise LaunchError(f"job {name} was stopped; launch again to go on where it was")


def _find(
    name: str, profile: str | None, region: str | None, endpoint_url: str | None
) -> tuple["Aws", str]:
    """Where to ask, and for what; `last` is asked where it was submitted."""
    import os

    from launcher.aws.last_job import recall

    if name == "last":
        last = recall(os.environ)
        name = last.name
        profile, region = profile or last.profile, region or last.region
        endpoint_url = endpoint_url or last.endpoint_url
    return find_aws(profile, region, endpoint_url), name


def _show(line: "LogLine", as_json: bool) -> None:
    typer.echo(_json(line, indent=None) if as_json else with_host(line.host, line.text))


def _json(value: Any, indent: int | None = 2) -> str:
    """Dataclasses and times as JSON."""
    import dataclasses
    import json

    def plain(item: Any) -> Any:
        if isinstance(item, datetime):
            return item.astimezone(UTC).isoformat()
        return dataclasses.asdict(item)

    return json.dumps(value, default=plain, indent=indent, ensure_ascii=False)
