"""Options that several of the launcher's verbs have, and how these verbs speak."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rayasr.errors import ConfigError

if TYPE_CHECKING:
    from launcher.aws.session import Aws
    from launcher.spec import JobSpec

ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", metavar="NAME", help="AWS profile; default: boto3's choice."),
]
RegionOption = Annotated[
    str | None,
    typer.Option("--region", metavar="REGION", help="AWS region; default: the job's, or boto3's."),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url",
        metavar="URL",
        envvar="AWS_ENDPOINT_URL",
        help="Ask this address instead of AWS, such as one of `rayasr emulator up`.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do it without asking.")]


def find_aws(
    profile: str | None, region: str | None, endpoint_url: str | None, job: "JobSpec | None" = None
) -> "Aws":
    """Where AWS is asked; the region is the command's, the job's, its image's or boto3's."""
    from launcher.aws.session import Aws
    from launcher.preflight.facts import region_of

    if region is None and job is not None and job.sagemaker is not None:
        region = region_of(job.sagemaker)
    return Aws(profile=profile, region=region, endpoint_url=endpoint_url)


def ask(question: str, yes: bool) -> None:
    """Leave with 1 unless the person agrees; raises ConfigError where there is nobody."""
    if yes:
        return
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        raise ConfigError("nobody is there to answer; give --yes to do it without being asked")
    if answer.strip().lower() not in ("y", "yes"):
        note("nothing was done")
        raise typer.Exit(1)


def note(message: str) -> None:
    """Tell the person; standard output is kept for results."""
    print(message, file=sys.stderr, flush=True)
