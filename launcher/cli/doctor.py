"""`rayasr doctor`: every check of a job on SageMaker, before money is spent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.options import (
    EndpointOption,
    JsonOption,
    ProfileOption,
    RegionOption,
    find_aws,
)
from rayasr.errors import LaunchError

if TYPE_CHECKING:
    from launcher.cloud_plan import CloudPlan
    from launcher.preflight.findings import Finding
    from launcher.prices import Estimate


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("doctor")(doctor)


def doctor(
    job: Annotated[
        Path,
        typer.Argument(metavar="JOB", help="Job file, such as configs/jobs/train-2x4gpu.yaml."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a value; may be repeated."),
    ] = None,
    as_json: JsonOption = False,
    profile: ProfileOption = None,
    region: RegionOption = None,
    endpoint_url: EndpointOption = None,
) -> None:
    """Check a job for SageMaker: account, image, machines, network, data, price; start nothing.

    AWS is only asked. Ends with 0 where nothing stands in the way, with 6 where the job would fail.

    Example: rayasr doctor configs/jobs/train-2x4gpu.yaml
    """
    from launcher.aws.sagemaker import SageMakerBackend
    from launcher.preflight.check import check, has_errors
    from launcher.preflight.gather import find_mount_names, gather_facts
    from launcher.prices import estimate
    from launcher.spec import load_spec

    spec = load_spec(job, overrides or ())
    aws = find_aws(profile, region, endpoint_url, spec)
    plan = SageMakerBackend(aws).plan(spec, find_mount_names(spec, aws.client))
    findings = check(plan, gather_facts(plan, aws.client))
    show = _json if as_json else _text
    typer.echo(show(plan, estimate(spec, plan.region), findings))
    if has_errors(findings):
        raise LaunchError(f"job {spec.name} would fail; correct the errors that doctor found")


def _text(plan: "CloudPlan", price: "Estimate", findings: list["Finding"]) -> str:
    """The report for a person."""
    counts = [
        f"{number} {severity}{'s' * (number > 1)}"
        for severity in ("error", "warning", "note")
        if (number := sum(finding.severity == severity for finding in findings))
    ]
    lines = [f"job      {plan.job.name}, on SageMaker in {plan.region}"]
    lines.append(f"price    {price.describe()}")
    lines += [finding.describe() for finding in findings]
    lines.append(f"found    {', '.join(counts) or 'nothing to mend'}")
    return "\n".join(lines)


def _json(plan: "CloudPlan", price: "Estimate", findings: list["Finding"]) -> str:
    """The report for a program."""
    import json
    from dataclasses import asdict

    report = {
        "job": plan.job.name,
        "region": plan.region,
        "price": asdict(price),
        "findings": [asdict(finding) for finding in findings],
    }
    return json.dumps(report, indent=2, ensure_ascii=False)
