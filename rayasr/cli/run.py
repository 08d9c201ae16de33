"""`rayasr run`: every stage, through one recipe and one command."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rayasr.cli.options import (
    CmvnOption,
    CorpusOption,
    DevicesOption,
    FreezeOption,
    InitFromOption,
    JsonOption,
    MaxTimeOption,
    RecipeArgument,
    SetOption,
    WorkersOption,
    parse_duration,
    parse_init,
    parse_workers,
)


def register(app: typer.Typer) -> None:
    """Add the verb to the app."""
    app.command("run")(run)


def run(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Folder of the run.")],
    corpus: CorpusOption = None,
    workers: WorkersOption = None,
    devices: DevicesOption = "auto",
    max_time: MaxTimeOption = None,
    overrides: SetOption = None,
    init_from: InitFromOption = None,
    freeze: FreezeOption = None,
    cmvn: CmvnOption = None,
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="STAGE", help="Do this stage and all after it anew."),
    ] = None,
    last: Annotated[
        str, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
    ] = "export",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and why, and leave.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare, train, average, decode and export; what is done and valid is skipped.

    Stages: prepare train average decode export.

    Example: rayasr run configs/digits.yaml --corpus my_recordings --out runs/mine
    """
    import json

    from rayasr.config import load_recipe, with_corpora
    from rayasr.pipeline import RunOptions, plan_stages
    from rayasr.pipeline import run as run_stages

    resolved = with_corpora(load_recipe(recipe, overrides or ()), corpus or ())
    options = RunOptions(
        out=out,
        workers=parse_workers(workers),
        devices=devices,
        max_time_s=parse_duration(max_time),
        first=first,
        last=last,
        init_from=parse_init(resolved, init_from, freeze, cmvn),
    )
    if dry_run:
        for planned in plan_stages(resolved, options):
            typer.echo(f"{planned.stage}: {planned.reason}")
        return
    result = run_stages(resolved, options)
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False))
    elif result:
        _print_result(result, out)


def _print_result(result: dict[str, Any], out: Path) -> None:
    if result["splits"]:
        _print_errors(result, out)
        split = "test" if "test" in result["splits"] else next(iter(result["splits"]))
        _print_transcripts(out / "decode" / split / result["default_mode"] / "utterances.jsonl")
    else:
        typer.echo("the corpus has training data alone: nothing was decoded")
    typer.echo(f"\nNext: rayasr transcribe {out} FILE.wav")


def _print_errors(result: dict[str, Any], out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Errors ({out / 'result.json'})")
    for column in ("split", "mode", "error rate", "95 %", "errors", "of"):
        table.add_column(column, justify="left" if column in ("split", "mode") else "right")
    for split, modes in result["splits"].items():
        for mode, counts in modes.items():
            rate = counts.get("cer", counts.get("wer"))
            low, high = counts["ci95"]
            star = " *" if mode == result["default_mode"] else ""
            table.add_row(
                split,
                mode + star,
                f"{rate:.2f} %",
                f"{low:.1f}-{high:.1f}",
                str(counts["errors"]),
                str(counts["reference_units"]),
            )
    Console().print(table)
    typer.echo("* the model's default mode, chosen on dev")


def _print_transcripts(utterances: Path, count: int = 3) -> None:
    """A few hypotheses, spread over a split, under what was really said."""
    import json

    rows = [json.loads(line) for line in utterances.read_text(encoding="utf-8").splitlines()]
    for row in rows[:: max(1, len(rows) // count)][:count]:
        typer.echo(f"\n{row['key']}\n  said   {row['reference']}\n  heard  {row['text']}")
