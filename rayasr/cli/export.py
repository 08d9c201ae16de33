"""`rayasr export`: a finished model for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from rayasr.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("export")(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or model folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    format_name: Annotated[
        str,
        typer.Option("--format", metavar="torchscript", help="What to write."),
    ] = "torchscript",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write final_quant.zip with int8 weights.")
    ] = False,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="STORE",
            help="Store whose dev split tells the error rate of each file.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model as final.zip and units.txt for WeNet's C++ runtime.

    The files are loaded again and compared with the checkpoint before they count as done.

    Example: rayasr export runs/digits --int8 --store runs/digits/store --out exported
    """
    import json

    from rayasr.errors import ConfigError
    from rayasr.export.torchscript import export_torchscript
    from rayasr.logs import taking_long

    if format_name != "torchscript":
        raise ConfigError(f"--format {format_name} is unknown; there is: torchscript")
    with taking_long("export"):
        report = export_torchscript(run, out, int8=int8, store=store)
    if as_json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False))
        return
    for name, size in report.sizes.items():
        typer.echo(f"{report.folder}/{name}: {size / 1e6:.1f} MB")
    typer.echo(
        f"{report.folder}/units.txt; log-probabilities within {report.max_difference:.1g} "
        "of the checkpoint"
    )
