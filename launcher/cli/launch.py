"""`rayasr launch`: jobs from a file; found by rayasr through the entry points `rayasr.commands`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli import doctor as cli_doctor
from launcher.cli import emulator as cli_emulator
from launcher.cli import fsx as cli_fsx
from launcher.cli import image as cli_image
from launcher.cli import jobs as cli_jobs
from launcher.cli.options import (
    EndpointOption,
    ProfileOption,
    RegionOption,
    YesOption,
    ask,
    find_aws,
    note,
)
from rayasr.errors import ConfigError, LaunchError

if TYPE_CHECKING:
    from launcher.aws.session import Aws
    from launcher.cloud_plan import CloudPlan
    from launcher.prices import Estimate
    from launcher.spec import JobSpec


def register(app: typer.Typer) -> None:
    """Add the launcher's verbs to the app."""
    app.command("launch")(launch)
    for verbs in (cli_jobs, cli_doctor, cli_image, cli_fsx, cli_emulator):
        verbs.register(app)


def launch(
    job: Annotated[
        Path,
        typer.Argument(metavar="JOB", help="Job file, such as configs/jobs/digits.yaml."),
    ],
    on: Annotated[
        str, typer.Option("--on", metavar="local|docker|sagemaker", help="Where the job runs.")
    ] = "local",
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
        bool, typer.Option("--dry-run", help="Show what would run, or the request, and leave.")
    ] = False,
    yes: YesOption = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave once the job is submitted.")
    ] = False,
    max_cost: Annotated[
        float | None,
        typer.Option(
            "--max-cost", metavar="USD", min=0, help="Refuse where the bill could become larger."
        ),
    ] = None,
    throughput: Annotated[
        float | None,
        typer.Option(
            "--throughput",
            metavar="HOURS",
            help="Hours of speech trained on in an hour, for a forecast; default: the last run's.",
        ),
    ] = None,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Run the job of a file: any verb, with its folders and time limit.

    On this machine it uses its own Ray, or joins the cluster that RAY_ADDRESS names. On SageMaker
    it shows the plan and its price, checks, asks, submits, and streams the logs to the end.

    Example: rayasr launch configs/jobs/digits.yaml --on local
    """
    from launcher.spec import load_spec

    spec = load_spec(job, overrides or ())
    if on == "sagemaker":
        aws = find_aws(profile, region, endpoint_url, spec)
        _launch_on_sagemaker(
            spec,
            aws,
            dry_run=dry_run,
            yes=yes,
            detach=detach,
            max_cost=max_cost,
            throughput=throughput,
        )
        return
    given = {"--detach": detach, "--max-cost": max_cost, "--throughput": throughput}
    if refused := [option for option, value in given.items() if value]:
        raise ConfigError(f"{', '.join(refused)} goes with --on sagemaker only")
    _launch_here(spec, on, dry_run)


def _launch_here(spec: "JobSpec", on: str, dry_run: bool) -> None:
    import os

    from launcher.backend import load_backend

    backend = load_backend(on, os.environ)
    plan = backend.plan(spec)
    if dry_run:
        typer.echo(plan.describe())
        return
    code = backend.submit(plan, note)
    if code:
        raise typer.Exit(code)


def _launch_on_sagemaker(
    spec: "JobSpec",
    aws: "Aws",
    *,
    dry_run: bool,
    yes: bool,
    detach: bool,
    max_cost: float | None,
    throughput: float | None,
) -> None:
    """Plan, price and check a job; then ask, submit it, and follow it to its end."""
    import json
    import os

    from launcher.aws.last_job import LastJob, remember
    from launcher.aws.request import training_job_request
    from launcher.aws.sagemaker import SageMakerBackend
    from launcher.outlook import describe_outlook
    from launcher.prices import estimate

    backend = SageMakerBackend(aws)
    plan = backend.plan(_allowing(spec, max_cost))
    note(plan.describe())
    cost = estimate(spec, plan.region)
    note(f"price        {cost.describe()}")
    if outlook := describe_outlook(plan, cost, throughput):
        note(f"forecast     {outlook}")
    _refuse_above(cost, plan.place.max_cost)
    if dry_run:
        typer.echo(json.dumps(training_job_request(plan), indent=2, ensure_ascii=False))
        return
    _check(plan, aws)
    ask("submit it?", yes)
    name = backend.submit(plan, note)
    remember(LastJob(name, aws.profile, plan.region, aws.endpoint_url), os.environ)
    if detach:
        note("look at it with `rayasr jobs status last`, and `rayasr jobs logs last -f`")
        typer.echo(name)
        return
    cli_jobs.follow_job(aws, name)


def _allowing(spec: "JobSpec", max_cost: float | None) -> "JobSpec":
    """The job with the limit that was given on the command line, if any."""
    if max_cost is None or spec.sagemaker is None:
        return spec
    place = spec.sagemaker.model_copy(update={"max_cost": max_cost})
    return spec.model_copy(update={"sagemaker": place})


def _refuse_above(cost: "Estimate", most: float | None) -> None:
    """Raise ConfigError where the bill could become larger than the user allows."""
    if most is None:
        return
    if cost.max_bill is None:
        raise ConfigError(
            f"the bill may be above {most:.2f} {cost.currency}: the price of "
            f"{', '.join(cost.unknown)} is not known; give it under sagemaker.prices"
        )
    if cost.max_bill > most:
        raise ConfigError(
            f"the bill could become {cost.max_bill:.2f} {cost.currency}, above the "
            f"{most:.2f} allowed; give a shorter time_limit, fewer machines, or a higher --max-cost"
        )


def _check(plan: "CloudPlan", aws: "Aws") -> None:
    """Say what the checks find; raises LaunchError for what would make the job fail."""
    from launcher.preflight.check import check, has_errors
    from launcher.preflight.gather import gather_facts

    findings = check(plan, gather_facts(plan, aws.client))
    for finding in findings:
        note(finding.describe())
    if has_errors(findings):
        raise LaunchError(f"job {plan.job.name} would fail; correct the errors said above")
