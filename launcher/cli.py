"""`rayasr launch`: jobs from a file; found by rayasr through the entry points `rayasr.commands`."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the launcher's verbs to the app."""
    app.command("launch")(launch)


def launch(
    job: Annotated[
        Path,
        typer.Argument(metavar="JOB", help="Job file, such as configs/jobs/digits.yaml."),
    ],
    on: Annotated[str, typer.Option("--on", metavar="local", help="Where the job runs.")] = "local",
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a value of the job, such as channels.corpus.local_path=DIR; may be "
            "repeated.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would run, and leave.")
    ] = False,
) -> None:
    """Run the job of a file: any verb, with its folders and time limit.

    On this machine it uses its own Ray, or joins the cluster that RAY_ADDRESS names.

    Example: rayasr launch configs/jobs/digits.yaml --on local
    """
    import os
    import sys

    from launcher.backend import load_backend
    from launcher.spec import load_spec

    backend = load_backend(on, os.environ)
    plan = backend.plan(load_spec(job, overrides or ()))
    if dry_run:
        typer.echo(plan.describe())
        return
    code = backend.submit(plan, lambda message: print(message, file=sys.stderr, flush=True))
    if code:
        raise typer.Exit(code)
