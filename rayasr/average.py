"""The model of a run: the average of its best checkpoints, as a folder that stands alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import Checkpoint, best_of, list_checkpoints, save_model
from rayasr.config import Recipe, load_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, RayasrError
from rayasr.logs import note
from rayasr.tokenizer import Tokenizer


def best_checkpoints(run: str | Path, count: int) -> list[Checkpoint]:
    """The checkpoints with the lowest validation loss, best first; the newest where none has one.

    Raises CheckpointError where the run has no checkpoint.
    """
    found = list_checkpoints(run)
    if not found:
        raise CheckpointError(f"{run} has no checkpoint to average; train it first")
    return best_of(found, count) or found[: -count - 1 : -1]


def average_checkpoints(
    run: str | Path, best: int = 5, notes: Callable[[str], None] = note
) -> Path:
    """Average the best checkpoints into RUN/model; returns that folder.

    Raises CheckpointError for a run without a checkpoint, DataError where it cannot be written.
    """
    folder = Path(run)
    chosen = best_checkpoints(folder, best)
    recipe = load_recipe(folder / "recipe.yaml")
    model = save_model(
        folder / "model",
        average_weights(chosen),
        recipe,
        Tokenizer.load(folder),
        CmvnStats.from_json(storage.read_json(folder / "cmvn.json")),
        card=_card(recipe, chosen),
    )
    names = ", ".join(_label(checkpoint) for checkpoint in chosen)
    fewer = f" ({best} asked for)" if len(chosen) < best else ""
    notes(f"model of {len(chosen)} checkpoint(s){fewer}: {names}")
    mirror_model(model, recipe, notes)
    return model


def mirror_model(
    model: Path, recipe: Recipe, notes: Callable[[str], None], names: Sequence[str] = ()
) -> None:
    """Copy RUN/model, or only files of it, to the recipe's mirror; where that fails, a note."""
    if recipe.checkpoint.mirror is None:
        return
    target = storage.join(recipe.checkpoint.mirror, "model")
    try:
        storage.make_folder(target)
        for path in sorted(model.iterdir()):
            if path.is_file() and (not names or path.name in names):
                storage.copy_file(path, storage.join(target, path.name))
    except RayasrError as error:
        notes(f"the model was not copied to {target}: {error}")


def average_weights(checkpoints: Sequence[Checkpoint]) -> dict[str, Tensor]:
    """Mean of each tensor, summed in float64 in a fixed order; counters come from the first."""
    first = checkpoints[0].model()
    if len(checkpoints) == 1:
        return first
    sums = {name: value.double() for name, value in first.items() if value.is_floating_point()}
    for checkpoint in checkpoints[1:]:
        weights = checkpoint.model()
        if weights.keys() != first.keys():
            raise CheckpointError(f"{checkpoint.path} has other parameters than the run's others")
        for name, total in sums.items():
            total += weights[name]
    averaged = {name: (total / len(checkpoints)) for name, total in sums.items()}
    return {name: averaged[name].to(v.dtype) if name in sums else v for name, v in first.items()}


def _card(recipe: Recipe, chosen: Sequence[Checkpoint]) -> str:
    """README.md of the model folder."""
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    kind = "U2++" if decoder.r_num_blocks else "U2"
    state = chosen[0].state
    rows = "\n".join(f"- {_label(checkpoint)}" for checkpoint in chosen)
    return f"""# {recipe.name}

A {kind} {encoder.kind} speech recogniser made by rayasr (torch {torch.__version__}).

- {state.get("num_parameters", 0):,} parameters; encoder {encoder.num_blocks} x \
{encoder.output_size}, decoder {decoder.num_blocks} + {decoder.r_num_blocks}
- {recipe.features.num_mel_bins} mel bins at {recipe.features.sample_rate} Hz; text rule: \
case {recipe.text.case}, punctuation {recipe.text.punctuation}, spaces {recipe.text.spaces}
- front end: {recipe.features.describe_front_end()}
- trained on {state.get("train_hours", 0.0):.2f} hours, {state.get("audio_hours", 0.0):.2f} hours \
heard, seed {recipe.seed}

Average of:

{rows}

Transcribe with `rayasr transcribe THIS_FOLDER a.wav`; decoding defaults are in `decoding.json`,
the whole recipe in `recipe.yaml`.
"""


def _label(checkpoint: Checkpoint) -> str:
    loss = "" if checkpoint.dev_loss is None else f" (dev loss {checkpoint.dev_loss:.4f})"
    return f"step {checkpoint.step}{loss}"
