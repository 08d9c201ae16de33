"""A WeNet model folder or a train.yaml becomes a model folder or a recipe of ours."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import MODEL_FILE, check_weights, new_model, save_model
from rayasr.config import Recipe, dump_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError, RayasrError
from rayasr.logs import note
from rayasr.settings import read_mapping
from rayasr.tokenizer import UNITS_FILE, Tokenizer
from rayasr.wenet.supported import lookup
from rayasr.wenet.train_yaml import CMVN_FILE, WEIGHTS_FILE, YAML_FILE, recipe_from_wenet
from rayasr.wenet.units import read_tokenizer, with_units
from rayasr.wenet.weights import read_weights

_Floats = npt.NDArray[np.float64]
_MEAN, _ISTD = "encoder.global_cmvn.mean", "encoder.global_cmvn.istd"
_OUTPUT_LAYER = "ctc.ctc_lo.weight"


def import_wenet(
    folder: str | Path, out: str | Path, *, notes: Callable[[str], None] = note
) -> Path:
    """Write a model folder of WeNet's final.pt, train.yaml, units.txt and global_cmvn.

    Every weight keeps its bits. Raises CheckpointError, ConfigError, DataError, and then leaves
    nothing that counts as a model.
    """
    source, target = Path(folder), Path(out)
    _check_folders(source, target)
    settings = read_mapping(source / YAML_FILE)
    recipe = recipe_from_wenet(settings, str(source / YAML_FILE), notes=notes)
    weights = read_weights(source / WEIGHTS_FILE, notes)
    if _OUTPUT_LAYER not in weights or weights[_OUTPUT_LAYER].dim() != 2:
        raise CheckpointError(
            f"{source / WEIGHTS_FILE} has no matrix {_OUTPUT_LAYER}; is it a CTC and attention "
            "model?"
        )
    tokenizer = read_tokenizer(source, settings, len(weights[_OUTPUT_LAYER]), notes)
    recipe = with_units(recipe, tokenizer)
    cmvn = _read_cmvn(source, weights, recipe.features.num_mel_bins, notes)
    with torch.device("meta"):  # shapes alone
        model = new_model(recipe, tokenizer)
    check_weights(model, weights, str(source / WEIGHTS_FILE))
    card = _card(recipe, tokenizer, weights, settings, source)
    return save_model(target, weights, recipe, tokenizer, cmvn, card=card)


def import_recipe(
    source: str | Path, out: str | Path, *, notes: Callable[[str], None] = note
) -> Recipe:
    """Write a recipe file of a train.yaml (or of a folder that has one).

    Raises ConfigError, DataError; an existing file is never replaced.
    """
    path, target = Path(source), Path(out)
    if path.is_dir():
        path /= YAML_FILE
    if target.exists():
        raise ConfigError(f"{target} is there already; choose another --out")
    recipe = recipe_from_wenet(read_mapping(path), str(path), notes=notes)
    batch = recipe.batch
    if batch.static_utterances is not None:
        notes(
            f"a step is {batch.micro_batches} x {batch.static_utterances} utterances, as on one of "
            "WeNet's GPUs; multiply batch.micro_batches by the number of GPUs it was meant for"
        )
    storage.write_atomic(target, f"# From WeNet's {path}.\n{dump_recipe(recipe)}")
    return recipe


def _check_folders(source: Path, target: Path) -> None:
    if not source.is_dir():
        raise CheckpointError(f"{source} is not a folder; name one with WeNet's {WEIGHTS_FILE}")
    missing = [n for n in (WEIGHTS_FILE, YAML_FILE, UNITS_FILE) if not (source / n).is_file()]
    if missing:
        raise CheckpointError(
            f"{source} lacks {' and '.join(missing)}; a WeNet model is {WEIGHTS_FILE}, "
            f"{YAML_FILE}, {UNITS_FILE} and, where the first does not hold it, {CMVN_FILE}"
        )
    if (target / MODEL_FILE).exists() or (target / "checkpoints").exists():
        raise ConfigError(f"{target} holds a model or a run already; choose another --out")
    if target.resolve() == source.resolve():
        raise ConfigError(f"--out {target} is the WeNet folder itself; choose another one")


def _read_cmvn(
    folder: Path, weights: dict[str, Tensor], num_bins: int, notes: Callable[[str], None]
) -> CmvnStats:
    """Statistics that give the mean and deviation in the weights, bit for bit.

    WeNet's model carries them; where a file of weights does not, global_cmvn is what counts and
    they are put into `weights`.
    """
    path = folder / CMVN_FILE
    if _MEAN in weights and _ISTD in weights:
        ours = tuple(weights[name].double().numpy() for name in (_MEAN, _ISTD))
        stats = _statistics(path) if path.is_file() else None
        given = ours if stats is None else stats.mean_istd()
        if stats is not None and all(map(np.array_equal, given, ours)):
            return stats
        if not all(map(_near, given, ours)):
            notes(f"{path} is not what {WEIGHTS_FILE} holds; the latter counts")
        return _as_statistics(*ours)
    if not path.is_file():
        raise CheckpointError(
            f"neither {folder / WEIGHTS_FILE} nor {path} has the mean and deviation of features; "
            f"copy the {CMVN_FILE} of the training"
        )
    stats = CmvnStats.from_json(storage.read_json(path))
    if len(stats.sums) != num_bins:
        raise CheckpointError(f"{path} has {len(stats.sums)} bins, {YAML_FILE} {num_bins}")
    notes(f"{WEIGHTS_FILE} has no mean and deviation of features: those of {path} are used")
    weights[_MEAN], weights[_ISTD] = (torch.from_numpy(values) for values in stats.mean_istd())
    return stats


def _statistics(path: Path) -> CmvnStats | None:
    """What global_cmvn says; None where it is of another kind, such as Kaldi's."""
    try:
        stats = CmvnStats.from_json(storage.read_json(path))
    except RayasrError:
        return None
    return stats if stats.frames > 0 else None


def _near(given: npt.NDArray[Any], ours: _Floats) -> bool:
    """Whether values are the same but for rounding, as an average of checkpoints rounds them."""
    return given.shape == ours.shape and bool(np.allclose(given, ours))


def _as_statistics(mean: _Floats, istd: _Floats) -> CmvnStats:
    """Sums over one frame, so that mean and deviation are these (F,)."""
    return CmvnStats(mean, mean * mean + 1.0 / (istd * istd), 1)


def _card(
    recipe: Recipe,
    tokenizer: Tokenizer,
    weights: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    source: Path,
) -> str:
    """README.md of the model folder."""
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    parameters = sum(value.numel() for name, value in weights.items() if "_cmvn." not in name)
    kind = "U2++" if decoder.r_num_blocks else "U2"
    trained = lookup(settings, "model_dir", "not said")
    return f"""# {recipe.name}

A {kind} {encoder.kind} speech recogniser trained by WeNet, imported by rayasr from
{source.absolute()} (WeNet's model_dir: {trained}).

- {parameters:,} parameters; encoder {encoder.num_blocks} x {encoder.output_size}, decoder \
{decoder.num_blocks} + {decoder.r_num_blocks}; {tokenizer.vocab_size} units ({tokenizer.kind})
- {recipe.features.num_mel_bins} mel bins at {recipe.features.sample_rate} Hz; text rule: \
case {recipe.text.case}, punctuation {recipe.text.punctuation}, spaces {recipe.text.spaces}
- `recipe.yaml` is what train.yaml says of model, features and training

Transcribe with `rayasr transcribe THIS_FOLDER a.wav`, fine-tune with `rayasr train RECIPE --store
STORE --out RUN --init-from THIS_FOLDER`. Mode and weights of decoding were not chosen on a dev set:
`rayasr decode THIS_FOLDER --store STORE --out DIR` does so.
"""
