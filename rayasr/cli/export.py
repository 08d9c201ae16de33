"""`rayasr export`: a finished model for other runtimes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayasr.cli.options import JsonOption, MaxLossOption, SplitOption

if TYPE_CHECKING:
    from rayasr.export.info import ExportReport

OPTIONS = {
    "torchscript": ("int8", "int8_skip", "store", "force"),
    "onnx": ("int8", "int8_skip", "chunk_size", "left_chunks", "force"),
    "wenet": (),
}
"""The options that each format takes."""


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("export")(export)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or model folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    format_name: Annotated[
        str, typer.Option("--format", metavar="|".join(OPTIONS), help="What to write.")
    ] = "torchscript",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also write files with int8 weights.")
    ] = False,
    int8_skip: Annotated[
        str | None,
        typer.Option(
            "--int8-skip",
            metavar="NAME[,NAME]…",
            help="Modules that stay float32, such as encoder.encoders.0.self_attn; a certificate "
            "that fails names them.",
        ),
    ] = None,
    chunk_size: Annotated[
        int | None,
        typer.Option(
            "--chunk-size",
            help="Encoder frames per chunk of ONNX's streaming files; -1: no such files. [16]",
        ),
    ] = None,
    left_chunks: Annotated[
        int | None,
        typer.Option("--left-chunks", help="Chunks of history that they keep; -1: all. [4]"),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="STORE",
            help="Store whose dev split tells the error rate of each TorchScript file.",
        ),
    ] = None,
    certify: Annotated[
        Path | None,
        typer.Option("--certify", metavar="DIR", help="Certify on this corpus, as the verb does."),
    ] = None,
    split: SplitOption = "test",
    max_loss: MaxLossOption = 0.3,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Write for a runtime that computes features the model does not know."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the model for WeNet's runtime (torchscript), ONNX runtimes (onnx) or WeNet (wenet).

    The files are loaded again and compared with the checkpoint before they count as done; whether
    they may leave is for `rayasr certify` to say, or --certify.

    Example: rayasr export runs/digits --int8 --certify data/digits --out exported
    """
    from rayasr.errors import DataError
    from rayasr.logs import taking_long

    options = {
        "int8": int8,
        "int8_skip": tuple(int8_skip.split(",")) if int8_skip else (),
        "chunk_size": chunk_size,
        "left_chunks": left_chunks,
        "store": store,
        "force": force,
    }
    given = {name: value for name, value in options.items() if value not in (None, False, ())}
    _check(format_name, given)
    if certify is not None and not certify.exists():
        raise DataError(f"--certify {certify} does not exist; name a corpus folder")
    with taking_long("export"):
        report = _export(format_name, run, out, given)
    if not as_json:
        _print_report(report)
    if certify is not None:
        _certify(report, certify, split, max_loss, force, as_json)
    elif as_json:
        _print_json(report.to_json())
    else:
        typer.echo(f"not certified; next: rayasr certify {out} --corpus DIR")


def _check(format_name: str, given: dict[str, Any]) -> None:
    """Raises ConfigError for an unknown format, and for an option that it does not take."""
    from rayasr.errors import ConfigError

    if format_name not in OPTIONS:
        raise ConfigError(f"--format {format_name} is unknown; there are: {', '.join(OPTIONS)}")
    for name in given:
        if name not in OPTIONS[format_name]:
            flag = f"--{name.replace('_', '-')}"
            takers = [other for other, names in OPTIONS.items() if name in names]
            raise ConfigError(
                f"{flag} is not for --format {format_name} (but for {' and '.join(takers)}); "
                "leave it out"
            )
    if "int8_skip" in given and "int8" not in given:
        raise ConfigError("--int8-skip says what stays out of int8; give --int8 too")


def _export(format_name: str, run: Path, out: Path, given: dict[str, Any]) -> "ExportReport":
    """Write the files of a format; raises what its exporter raises."""
    if format_name == "onnx":
        from rayasr.export.onnx import export_onnx

        return export_onnx(run, out, **given)
    if format_name == "wenet":
        from rayasr.wenet.exporting import export_wenet

        return export_wenet(run, out)
    from rayasr.export.torchscript import export_torchscript

    return export_torchscript(run, out, **given)


def _certify(
    report: "ExportReport", corpus: Path, split: str, max_loss: float, force: bool, as_json: bool
) -> None:
    """Try what was written and print what came out; raises CheckpointError if it must not leave."""
    from rayasr.certify.certify import certify
    from rayasr.cli.certify import print_certificate

    folder = Path(report.folder)
    found = certify(folder, corpus, split, max_loss=max_loss, force=force)
    if as_json:
        _print_json(report.to_json() | {"certificate": found.to_json()})
    else:
        print_certificate(found)
    found.require_passed(folder)


def _print_json(values: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(values, ensure_ascii=False))


def _print_report(report: "ExportReport") -> None:
    for name, size in report.sizes.items():
        typer.echo(f"{report.folder}/{name}: {size / 1e6:.1f} MB")
    for name, difference in report.max_difference.items():
        typer.echo(f"{name}: log-probabilities within {difference:.2g} of the checkpoint")
