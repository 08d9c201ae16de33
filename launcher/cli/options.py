"""Options that several of the launcher's verbs have, and how these verbs speak."""

import sys
from typing import Annotated

import typer

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


def note(message: str) -> None:
    """Tell the person; standard output is kept for results."""
    print(message, file=sys.stderr, flush=True)
