"""`rayasr train` and `rayasr average`."""

from pathlib import Path
from typing import Annotated

import typer

from rayasr.cli.options import (
    CmvnOption,
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
    """Add the verbs to the command tree."""
    app.command("train")(train)
    app.command("average")(average)


def train(
    recipe: RecipeArgument,
    store: Annotated[Path, typer.Option(metavar="STORE", help="Store made by `data prepare`.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Run folder.")],
    overrides: SetOption = None,
    workers: WorkersOption = None,
    devices: DevicesOption = "auto",
    max_time: MaxTimeOption = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never|PATH",
            help="Go on from the newest checkpoint of RUN, start over, or start from a checkpoint.",
        ),
    ] = "auto",
    init_from: InitFromOption = None,
    freeze: FreezeOption = None,
    cmvn: CmvnOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Load, try the largest batch, estimate, leave.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a recipe on a store; at the end RUN/model is the average of the best checkpoints.

    Example: rayasr train configs/digits.yaml --store STORE --out runs/digits --workers 0

    With --init-from it is a fine-tuning: units that the model knows keep their rows, others start
    anew. Lower optim.lr and train.epochs for it.

    Example: rayasr train RECIPE --store NEW_STORE --out runs/tuned --init-from runs/digits
    """
    from rayasr.config import load_recipe

    seconds = parse_duration(max_time)
    settings = load_recipe(recipe, overrides or ())
    start = parse_init(settings, init_from, freeze, cmvn)
    from rayasr.pipeline import forget
    from rayasr.ray_train import run_training

    if not dry_run:
        forget(out, "train")
    result = run_training(
        settings,
        store,
        out,
        workers=parse_workers(workers),
        devices=devices,
        max_time_s=seconds,
        resume=resume,
        init_from=start,
        dry_run=dry_run,
    )
    if dry_run:
        return
    from rayasr.average import average_checkpoints

    average_checkpoints(out, settings.average.best)
    if as_json:
        from dataclasses import asdict
        from json import dumps

        typer.echo(dumps(asdict(result)))
        return
    ended = "finished" if result.finished else "stopped by --max-time; the same command goes on"
    typer.echo(f"{ended}: step {result.step} of {result.total_steps}, {result.seconds:.0f} s")


def average(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    best: Annotated[int, typer.Option(min=1, help="How many checkpoints, by dev loss.")] = 5,
) -> None:
    """Average the best checkpoints of a run into RUN/model.

    Example: rayasr average runs/digits --best 5
    """
    from rayasr.average import average_checkpoints  # late: --help never loads torch
    from rayasr.pipeline import forget

    forget(run, "average")
    typer.echo(average_checkpoints(run, best))
