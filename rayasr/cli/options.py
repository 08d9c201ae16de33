"""Arguments and options that several verbs share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rayasr.config import Recipe
    from rayasr.train.init_from import InitFrom

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe file, such as configs/digits.yaml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the recipe, such as train.epochs=3; may be repeated.",
    ),
]
CorpusOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--corpus",
        metavar="DIR",
        help="Corpus folder instead of the recipe's; may be repeated.",
    ),
]
WorkersOption = Annotated[
    str | None,
    typer.Option(
        "--workers",
        metavar="N|MIN:MAX",
        help="Training workers; 0 trains in this process; 2:4 goes on with fewer while machines "
        "are lost. Default: one per GPU, but no more than batch.micro_batches; one on a CPU.",
    ),
]
DevicesOption = Annotated[
    str,
    typer.Option("--devices", metavar="auto|cpu|cuda", help="Where to compute."),
]
MaxTimeOption = Annotated[
    str | None,
    typer.Option(
        "--max-time",
        metavar="TIME",
        help="Stop training after this much time, summed over resumes: 90s, 20m, 1.5h.",
    ),
]
InitFromOption = Annotated[
    Path | None,
    typer.Option(
        "--init-from",
        metavar="MODEL",
        help="Start from the weights of a model folder or a run (an imported one too) instead of "
        "fresh ones; a run that has a checkpoint goes on from that.",
    ),
]
FreezeOption = Annotated[
    str | None,
    typer.Option(
        "--freeze",
        metavar="PREFIX[,PREFIX]…",
        help="With --init-from: parameters that keep their values, such as encoder.embed.",
    ),
]
CmvnOption = Annotated[
    str | None,
    typer.Option(
        "--cmvn",
        metavar="model|store",
        help="With --init-from: whose mean and deviation normalise features. Default: model.",
    ),
]
SplitOption = Annotated[
    str, typer.Option("--split", metavar="SPLIT", help="What of the corpus is decoded.")
]
MaxLossOption = Annotated[
    float,
    typer.Option(
        "--max-loss",
        min=0.0,
        help="Points of CER or WER by which an export may be worse than the checkpoint.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]


def parse_duration(text: str | None) -> float | None:
    """Seconds of '90', '90s', '20m' or '1.5h'; None stays None; raises ConfigError."""
    from rayasr.errors import ConfigError

    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise ConfigError(f"--max-time '{text}' is not a time; write 90s, 20m or 1.5h")
    return seconds


def parse_workers(text: str | None) -> int | tuple[int, int] | None:
    """Workers of '4' or '2:4'; None stays None; raises ConfigError."""
    from rayasr.errors import ConfigError

    if text is None:
        return None
    least, colon, most = text.partition(":")
    numbers = (least, most) if colon else (least,)
    if all(number.isascii() and number.isdigit() for number in numbers):
        if not colon:
            return int(least)
        if 1 <= int(least) <= int(most):
            return int(least), int(most)
    raise ConfigError(f"--workers '{text}' is not a number of workers; write 4, 2:4, or 0")


def parse_init(
    recipe: "Recipe", model: Path | None, freeze: str | None, cmvn: str | None
) -> "InitFrom | None":
    """What --init-from, --freeze and --cmvn say; None without the first; raises RayasrError."""
    from rayasr.errors import ConfigError

    if model is None:
        for option, value in (("--freeze", freeze), ("--cmvn", cmvn)):
            if value is not None:
                raise ConfigError(f"{option} needs --init-from MODEL, whose weights it is about")
        return None
    from rayasr.train.init_from import prepare_init

    return prepare_init(recipe, model, freeze.split(",") if freeze else (), cmvn or "model")
