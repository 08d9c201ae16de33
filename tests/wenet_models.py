"""WeNet's models of ../shared/parity as ours, imported as a user would, and made-up ones."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from torch import Tensor

from rayasr.checkpoint import LoadedModel, load_model
from rayasr.config import Recipe
from rayasr.model.u2 import build_model
from rayasr.settings import read_mapping
from rayasr.tokenizer import Tokenizer
from rayasr.wenet.importing import import_wenet
from rayasr.wenet.train_yaml import recipe_from_wenet
from rayasr.wenet.weights import with_position_tables

TRAIN_YAML: dict[str, Any] = {
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2,
        "cnn_module_kernel": 5,
        "causal": True,
        "cnn_module_norm": "layer_norm",
        "use_dynamic_chunk": True,
    },
    "decoder": "bitransformer",
    "decoder_conf": {
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "r_num_blocks": 1,
    },
    "model_conf": {"ctc_weight": 0.3, "lsm_weight": 0.1, "reverse_weight": 0.3},
    "tokenizer": "char",
    "tokenizer_conf": {
        "special_tokens": {"<blank>": 0, "<unk>": 1, "<sos>": 2, "<eos>": 2},
    },
    "dataset_conf": {
        "resample_conf": {"resample_rate": 8000},
        "fbank_conf": {"num_mel_bins": 20, "dither": 0.1},
        "batch_conf": {"batch_type": "static", "batch_size": 4},
    },
    "model_dir": "exp/tiny",
}
UNITS = ("<blank>", "<unk>", "<sos/eos>", *"零一二三四五六七八九")


def read_recipe(folder: Path) -> Recipe:
    """Our recipe of a WeNet folder's train.yaml."""
    path = folder / "train.yaml"
    return recipe_from_wenet(read_mapping(path), str(path))


def load_wenet(folder: Path) -> LoadedModel:
    """A folder with WeNet's final.pt, train.yaml, units.txt and global_cmvn."""
    with TemporaryDirectory() as out:
        return replace(load_model(import_wenet(folder, out, notes=lambda _: None)), path=folder)


def random_weights(
    settings: dict[str, Any] = TRAIN_YAML, units: tuple[str, ...] = UNITS
) -> dict[str, Tensor]:
    """A state dict as WeNet would write it for these settings, of numbers drawn by seed 3."""
    recipe = recipe_from_wenet(settings, "train.yaml")
    bins = recipe.features.num_mel_bins
    torch.manual_seed(3)
    model = build_model(recipe.model, num_mel_bins=bins, vocab_size=len(units), sos_eos_id=2)
    weights = {
        name: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value + 7
        for name, value in model.state_dict().items()
    }
    for name, value in weights.items():
        if name.endswith(("running_var", "istd")):
            value.abs_().add_(0.1)
    return with_position_tables(weights, recipe.model.encoder.output_size)


def write_wenet(
    folder: Path,
    settings: dict[str, Any] = TRAIN_YAML,
    units: tuple[str, ...] = UNITS,
    weights: dict[str, Tensor] | None = None,
) -> Path:
    """A WeNet folder: what is given, or random weights that fit."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True))
    lines = "".join(f"{unit} {index}\n" for index, unit in enumerate(units))
    (folder / "units.txt").write_text(lines, encoding="utf-8")
    state = random_weights(settings, units) if weights is None else weights
    torch.save(state, folder / "final.pt")
    return folder


def tokenizer() -> Tokenizer:
    """Of UNITS."""
    return Tokenizer(UNITS)


def read_state(folder: Path) -> dict[str, Tensor]:
    """All that a WeNet folder's final.pt holds."""
    return dict(torch.load(folder / "final.pt", weights_only=True))


def quiet(_: str) -> None:
    """For notes that a test does not read."""


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with some of them changed."""
    result = deepcopy(values)
    for key, value in changes.items():
        inside = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if inside else value
    return result


def changed(key: str, value: Any) -> dict[str, Any]:
    """TRAIN_YAML with one dotted key changed."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return merged(TRAIN_YAML, value)
