"""`rayasr emulator`: SageMaker's training API on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.options import note

if TYPE_CHECKING:
    from launcher.emulator.options import Options

emulator_app = typer.Typer(
    no_args_is_help=True, help="Rehearse SageMaker jobs on this machine, without an account."
)


def register(app: typer.Typer) -> None:
    """Add the group of verbs to the app."""
    app.add_typer(emulator_app, name="emulator")


@emulator_app.callback()
def emulator() -> None:
    """Rehearse SageMaker jobs on this machine, without an account."""


@emulator_app.command()
def up(
    job_files: Annotated[
        list[Path] | None,
        typer.Option(
            "--for",
            metavar="JOB",
            help="Have ready what this job file names: buckets, role, image, network; may be "
            "repeated.",
        ),
    ] = None,
    hosts: Annotated[
        int, typer.Option(min=1, max=250, help="Machines there are; jobs wait for free ones.")
    ] = 1,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port at 127.0.0.1.")] = 5599,
    runner: Annotated[
        str,
        typer.Option(
            metavar="processes|namespaces|docker",
            help="What a machine is: processes with a loopback address, Linux namespaces (needs "
            "root), or a container of the job's image.",
        ),
    ] = "processes",
    file_systems: Annotated[
        list[str] | None,
        typer.Option(
            "--file-system",
            metavar="ID=DIR",
            help="Serve a folder as the FSx file system fs-… (fs-…/MOUNTNAME=DIR for another "
            "name than 'rayasr'), or as EFS; may be repeated.",
        ),
    ] = None,
    faults: Annotated[
        list[str] | None,
        typer.Option(
            "--inject",
            metavar="FAULT[@WHEN]",
            help="Break something, once; may be repeated.",
        ),
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds from SIGTERM to SIGKILL where a job must leave.")
    ] = 120.0,
    root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the jobs' files below DIR; default: they go."),
    ] = None,
) -> None:
    """Answer SageMaker's API and run its training jobs here, until Ctrl-C.

    Training jobs and their logs are the emulator's own; S3, IAM, ECR and the rest are moto's. Only
    this machine reaches it, and no credentials are needed.

    Faults: spot, stop, kill-host:algo-N, silent-host:algo-N, kill-process:algo-N:PATTERN and
    full-disk:DIR, with a WHEN: 12s after the training starts, or log:TEXT at the first line with
    that text; slow-names@12s; no-show:algo-N and capacity without one.

    Example: rayasr emulator up --hosts 2 --for configs/jobs/train-2x4gpu.yaml
    --file-system fs-0123456789abcdef0=runs/fsx --inject kill-host:algo-2@log:'step 40'
    """
    from launcher.emulator.faults import parse_fault
    from launcher.emulator.options import Options, parse_file_system
    from launcher.spec import load_spec

    options = Options(
        num_hosts=hosts,
        port=port,
        runner=runner,
        file_systems=dict(map(parse_file_system, file_systems or ())),
        faults=[parse_fault(text) for text in faults or ()],
        grace_s=grace,
        root=root,
        job_files=[load_spec(path) for path in job_files or ()],
    )
    _answer(options)


def _answer(options: "Options") -> None:
    """Answer until a signal comes; standard output has what clients need in their environment."""
    import os
    import signal
    import threading

    from launcher.emulator.server import run_emulator

    left = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: left.set())
    with run_emulator(options, os.environ, note) as running:
        machines = f"{options.num_hosts} machines ({options.runner})"
        note(f"emulator: {machines}; the jobs' files lie under {running.folder}")
        note("emulator: tell rayasr, or any other client of AWS, where it is:")
        for name, value in running.environment.items():
            typer.echo(f"export {name}={value}")
        left.wait()
        note("emulator: ends, and its jobs with it")
