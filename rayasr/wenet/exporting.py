"""A model as a WeNet folder: final.pt, train.yaml, units.txt, global_cmvn, and bpe.model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import load_model
from rayasr.config import Recipe
from rayasr.errors import CheckpointError, ConfigError
from rayasr.export.info import ExportedModel, ExportReport, begin_export, finish_export
from rayasr.logs import note
from rayasr.settings import flatten
from rayasr.tokenizer import BPE_FILE, UNITS_FILE
from rayasr.wenet.train_yaml import (
    CMVN_FILE,
    WEIGHTS_FILE,
    YAML_FILE,
    recipe_from_wenet,
    wenet_from_recipe,
)
from rayasr.wenet.weights import read_weights, weights_file, with_position_tables

_MASK = "model.encoder.mask_convolution"
_CHANNELS = "model.encoder.subsampling_channels"
_FREE = (_MASK, "model.init", "model.alignment_weight", "features.dither", "features.backend")
"""Settings of model and features without which a trained model computes the same."""


def export_wenet(
    run: str | Path, out: str | Path, *, notes: Callable[[str], None] = note
) -> ExportReport:
    """Write the WeNet folder of a run's model or of a model folder, export.json last.

    Every weight keeps its bits; what was written is read again and compared. Raises ConfigError for
    a model that WeNet cannot hold, CheckpointError, DataError.
    """
    loaded = load_model(run)
    folder = Path(out)
    settings = wenet_from_recipe(loaded.recipe, loaded.tokenizer)
    _check_recipe(loaded.recipe, settings, notes)
    begin_export(folder)
    loaded.tokenizer.save(folder)
    storage.write_json(folder / CMVN_FILE, loaded.cmvn.to_json())
    text = yaml.safe_dump(settings, sort_keys=True, allow_unicode=True)
    storage.write_atomic(folder / YAML_FILE, text)
    weights = loaded.model.state_dict()
    complete = with_position_tables(weights, loaded.recipe.model.encoder.output_size)
    storage.write_atomic(folder / WEIGHTS_FILE, weights_file(complete))
    _compare(read_weights(folder / WEIGHTS_FILE, notes), weights, folder / WEIGHTS_FILE)
    names = [WEIGHTS_FILE, YAML_FILE, UNITS_FILE, CMVN_FILE]
    names += [BPE_FILE] if loaded.tokenizer.kind != "char" else []
    model = ExportedModel(WEIGHTS_FILE, tuple(names), "wenet_checkpoint")
    return finish_export(folder, "wenet", loaded, [model], {WEIGHTS_FILE: 0.0})


def _check_recipe(recipe: Recipe, settings: dict[str, Any], notes: Callable[[str], None]) -> None:
    """Raises ConfigError where WeNet's settings would be another model; says what else is lost."""
    ours, again = _flatten(recipe), _flatten(recipe_from_wenet(settings, YAML_FILE))
    lost = [key for key, value in ours.items() if again[key] != value]
    essential = [k for k in lost if k.startswith(("model.", "features.")) and k not in _FREE]
    if essential:
        listed = ", ".join(f"{key} {ours[key]} (there: {again[key]})" for key in essential[:3])
        raise ConfigError(
            f"WeNet cannot hold a model with {listed}; export it as torchscript or onnx"
        )
    if _MASK in lost:
        notes(
            "WeNet does not mask padding in its non-causal convolution: there, batches of several "
            "utterances give slightly different results"
        )
    training = [f"{key} {ours[key]}" for key in lost if key not in (_MASK, "features.backend")]
    if training:
        notes(f"{YAML_FILE} cannot hold these settings of training: {', '.join(training)}")


def _compare(found: dict[str, Tensor], weights: dict[str, Tensor], path: Path) -> None:
    """Raises CheckpointError, and removes the file, where a weight has lost a bit."""
    if found.keys() != weights.keys() or any(
        found[name].numpy().tobytes() != value.numpy().tobytes() for name, value in weights.items()
    ):
        path.unlink(missing_ok=True)
        raise CheckpointError(f"{path} was not written as it should be, so it was removed; retry")


def _flatten(recipe: Recipe) -> dict[str, Any]:
    """Dotted keys of the sections that train.yaml knows, and their values."""
    sections = ("model", "features", "augment", "batch", "optim")
    flat = flatten(recipe.model_dump(mode="json"), sections)
    flat[_CHANNELS] = flat[_CHANNELS] or recipe.model.encoder.output_size  # what unset means
    return flat
