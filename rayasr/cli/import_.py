"""`rayasr import`: models and recipes of other toolkits."""

from pathlib import Path
from typing import Annotated

import typer

import_app = typer.Typer(help="Take over models and recipes of WeNet.", no_args_is_help=True)


@import_app.callback()
def _import() -> None:
    """Take over models and recipes of WeNet."""


@import_app.command("wenet")
def wenet(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder with final.pt, train.yaml, units.txt and global_cmvn (and bpe.model); "
            "with --recipe-only also a train.yaml.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", metavar="MODEL", help="Model folder, or recipe file, to write."),
    ],
    recipe_only: Annotated[
        bool,
        typer.Option("--recipe-only", help="Write the recipe of a train.yaml, without weights."),
    ] = False,
) -> None:
    """Make a model folder of a WeNet model: every weight as it is, every setting or its refusal.

    The folder decodes, exports and is fine-tuned (`rayasr train --init-from`) like one trained
    here. Nothing in final.pt is run.

    Example: rayasr import wenet exp/u2pp_conformer --out models/u2pp

    Example: rayasr import wenet conf/train_u2++_conformer.yaml --recipe-only --out u2pp.yaml
    """
    from rayasr.logs import taking_long
    from rayasr.wenet.importing import import_recipe, import_wenet

    if recipe_only:
        import_recipe(folder, out)
        typer.echo(f"{out}; train it by `rayasr run {out} --corpus DIR --out RUN`")
        return
    with taking_long("import"):
        import_wenet(folder, out)
    typer.echo(f"{out}; try it by `rayasr transcribe {out} FILE.wav`")
