"""`rayasr certify`: an export tried in the runtimes that will run it, against the checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rayasr.cli.options import JsonOption, MaxLossOption, SplitOption

if TYPE_CHECKING:
    from rayasr.certify.certificate import Certificate


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("certify")(certify)


def certify(
    export: Annotated[Path, typer.Argument(metavar="EXPORT", help="What `rayasr export` wrote.")],
    corpus: Annotated[
        Path | None,
        typer.Option(
            "--corpus",
            metavar="DIR",
            help="Corpus whose recordings are decoded. Without it the certificate that is there "
            "is shown, and held against the files.",
        ),
    ] = None,
    split: SplitOption = "test",
    max_loss: MaxLossOption = 0.3,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="RUN",
            help="Run or model folder to compare with. Default: the one it was exported from.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Try sherpa-onnx on features that the model does not know."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Decode a split from audio with every model of an export, in the runtimes that run it.

    Compared is each with the checkpoint in the same mode and chunks. EXPORT/certificate.json says
    what came out; exit code 5 where a model loses too much, and then what to do about it.

    Example: rayasr certify exported --corpus data/an4 --max-loss 0.3
    """
    import json

    from rayasr.certify.certificate import read_certificate
    from rayasr.certify.certify import certify as certify_export

    if corpus is None:
        found = read_certificate(export)
    else:
        found = certify_export(export, corpus, split, max_loss=max_loss, model=model, force=force)
    if as_json:
        typer.echo(json.dumps(found.to_json(), ensure_ascii=False))
    else:
        print_certificate(found)
    found.require_passed(export)


def print_certificate(certificate: "Certificate") -> None:
    """A table and its remarks: drawn on a terminal, in plain columns elsewhere."""
    import sys

    from rayasr.certify.table import NUMBERS, remarks, table

    titles, lines = table(certificate)
    right = [any(title.endswith(name) for name in NUMBERS) for title in titles]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        drawn = Table()
        for title, is_right in zip(titles, right, strict=True):
            drawn.add_column(title, justify="right" if is_right else "left")
        for cells in lines:
            drawn.add_row(*cells)
        Console().print(drawn)
    else:
        widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
        for cells in (titles, *lines):
            padded = [
                cell.rjust(width) if is_right else cell.ljust(width)
                for cell, width, is_right in zip(cells, widths, right, strict=True)
            ]
            typer.echo("  ".join(padded).rstrip())
    for remark in remarks(certificate):
        typer.echo(remark)
