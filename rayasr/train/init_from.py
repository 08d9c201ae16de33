"""Fine-tuning: a fresh training that starts from a finished model, with the same or other units."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import (
    MODEL_FILE,
    Checkpoint,
    find_model,
    list_checkpoints,
    load_weights,
    model_digest,
    read_tensors,
)
from rayasr.config import Recipe, load_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError
from rayasr.model.u2 import U2Model
from rayasr.tokenizer import UNITS_FILE, Tokenizer

_BY_UNIT = (
    "ctc.ctc_lo.weight",
    "ctc.ctc_lo.bias",
    "embed.0.weight",
    "output_layer.weight",
    "output_layer.bias",
)
"""Ends of the names of tensors that have a row for each unit."""
_STARTS = (MODEL_FILE, UNITS_FILE)
"""Of a model folder, what makes it another start."""
_CMVN = ("encoder.global_cmvn.mean", "encoder.global_cmvn.istd")
_OF_CONFORMERS = {"positions", "convolution_kernel", "causal_convolution", "convolution_norm"}
_ENCODER = {
    *("kind", "output_size", "attention_heads", "linear_units", "num_blocks", "subsampling"),
    *("subsampling_channels", *_OF_CONFORMERS),
}
_DECODER = {"attention_heads", "linear_units", "num_blocks", "r_num_blocks"}
_NOT_HEARD = {"dither", "backend"}
"""Settings of features that leave decoding as it is."""


@dataclass(frozen=True)
class InitFrom:
    """The model that a fresh training starts from, and what of it stays as it is."""

    model: str
    """Its folder."""
    digest: str
    """Of its weights and units."""
    freeze: tuple[str, ...] = ()
    """Parameters that get no updates, by the first parts of their names."""
    cmvn: Literal["model", "store"] = "model"
    """Whose mean and deviation normalise features."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for state.json."""
        return asdict(self)

    @property
    def key(self) -> dict[str, Any]:
        """What makes it another start; where the model lies does not."""
        return {name: value for name, value in asdict(self).items() if name != "model"}


def prepare_init(
    recipe: Recipe, model: str | Path, freeze: Sequence[str] = (), cmvn: str = "model"
) -> InitFrom:
    """A model folder, or a run's, as the start of a training of this recipe.

    Raises CheckpointError where it hears other features or has other layers than the recipe's
    model, naming the settings; ConfigError for an unknown `cmvn`.
    """
    if cmvn not in ("model", "store"):
        raise ConfigError(f"--cmvn '{cmvn}' is not one of model, store")
    folder = find_model(model)
    there, here = _essentials(load_recipe(folder / "recipe.yaml")), _essentials(recipe)
    different = [
        f"{key} {value} there, {here[key]} here"
        for key, value in there.items()
        if key in here and here[key] != value
    ]
    if different:
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise CheckpointError(
            f"{folder} does not fit the recipe: {'; '.join(different[:4])}{more}; take the "
            f"sections features and model from {folder / 'recipe.yaml'}"
        )
    source = cast(Literal["model", "store"], cmvn)
    return InitFrom(str(folder.absolute()), model_digest(folder, _STARTS), tuple(freeze), source)


def recorded_start(state: dict[str, Any]) -> InitFrom | None:
    """What a state.json says its training started from; None: from fresh weights."""
    record = state.get("init_from")
    if record is None:
        return None
    values = {key: record[key] for key in InitFrom.__dataclass_fields__}
    return InitFrom(**(values | {"freeze": tuple(values["freeze"])}))


def started_from(run: str | Path) -> InitFrom | None:
    """What the training of RUN's newest checkpoint started from: it need not be named again."""
    found = list_checkpoints(run)
    return recorded_start(found[-1].state) if found else None


def recorded_cmvn(checkpoint: Checkpoint, store: CmvnStats) -> CmvnStats:
    """The statistics that a fine-tuned checkpoint was trained with, else the store's."""
    record = checkpoint.state.get("init_from")
    return store if record is None else CmvnStats.from_json(record["statistics"])


def check_same_start(asked: InitFrom | None, state: dict[str, Any], path: str | Path) -> None:
    """Raises CheckpointError where --init-from asks for another start than a checkpoint had."""
    recorded = recorded_start(state)
    if asked is None or (recorded is not None and recorded.key == asked.key):
        return
    there = "fresh weights" if recorded is None else _describe(recorded)
    raise CheckpointError(
        f"{path} was started from {there}, --init-from asks for {_describe(asked)}; leave it out "
        "to go on, use another --out, or start over (`rayasr run --from train`, `rayasr train "
        "--resume never`)"
    )


def freeze(model: U2Model, prefixes: Sequence[str]) -> int:
    """Take parameters out of training by the first parts of their names; returns how many numbers.

    Raises ConfigError for a prefix that no parameter has, and where nothing is left to train.
    """
    frozen: dict[str, int] = {}
    names = dict(model.named_parameters())
    for prefix in (prefix.strip(". ") for prefix in prefixes):
        found = [name for name in names if name == prefix or name.startswith(f"{prefix}.")]
        if not found:
            parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
            raise ConfigError(
                f"--freeze '{prefix}': no parameter has that name; they begin with "
                f"{', '.join(parts)}"
            )
        frozen |= {name: names[name].numel() for name in found}
    if len(frozen) == len(names):
        raise ConfigError(f"--freeze {','.join(prefixes)} leaves nothing to train; name less")
    for name in frozen:
        names[name].requires_grad_(False)
    return sum(frozen.values())


def copy_weights(
    model: U2Model, tokenizer: Tokenizer, init: InitFrom, say: Callable[[str], None]
) -> CmvnStats | None:
    """Put the weights of `init` into a freshly made model; returns its statistics, if they count.

    Rows of output layers and embeddings go by the unit's text, `<sos/eos>` by its meaning; rows of
    units that the other model lacks stay as they were made. Says what was copied, new and dropped.
    Raises CheckpointError.
    """
    folder = Path(init.model)
    if model_digest(folder, _STARTS) != init.digest:
        raise CheckpointError(f"{folder} is not the model any more that the training started from")
    source = Tokenizer.load(folder)
    rows = matching_units(source, tokenizer)
    weights = read_tensors(folder / MODEL_FILE)
    fresh = model.state_dict()
    for name, value in fresh.items():
        if name.endswith(_BY_UNIT) and name in weights:
            weights[name] = _by_unit(weights[name], value, rows, source.vocab_size)
    if init.cmvn == "store":
        weights |= {name: fresh[name] for name in _CMVN}
    load_weights(model, weights, str(folder))
    new = [unit for index, unit in enumerate(tokenizer.units) if index not in rows.values()]
    dropped = [unit for index, unit in enumerate(source.units) if index not in rows]
    say(
        f"weights of {folder}; units: {len(rows)} of {tokenizer.vocab_size} copied, "
        f"{len(new)} new{_some(new)}, {len(dropped)} of the model's dropped{_some(dropped)}; the "
        "optimizer starts fresh"
    )
    if init.cmvn == "store":
        say("features are normalised by the store's statistics, not by the model's")
        return None
    return CmvnStats.from_json(storage.read_json(folder / "cmvn.json"))


def matching_units(source: Tokenizer, target: Tokenizer) -> dict[int, int]:
    """Ids of `target` by ids of `source`, for units that are the same."""
    ids = {unit: index for index, unit in enumerate(target.units) if index != target.sos_eos_id}
    rows = {index: ids[unit] for index, unit in enumerate(source.units) if unit in ids}
    return rows | {source.sos_eos_id: target.sos_eos_id}


def _by_unit(trained: Tensor, fresh: Tensor, rows: dict[int, int], num_units: int) -> Tensor:
    """Trained rows (V, ...) in the order of the new units; fresh ones where there is none."""
    if trained.shape != (num_units, *fresh.shape[1:]):
        return trained  # as it is, so that loading it names it
    mapped = fresh.clone()
    mapped[list(rows.values())] = trained[list(rows)].to(fresh.dtype)
    return mapped


def _describe(start: InitFrom) -> str:
    held = f", --freeze {','.join(start.freeze)}" if start.freeze else ""
    return f"{start.model} (digest {start.digest}, --cmvn {start.cmvn}{held})"


def _some(units: list[str], count: int = 12) -> str:
    listed = " ".join(units[:count])
    return f" ({listed}{' …' if len(units) > count else ''})" if units else ""


def _essentials(recipe: Recipe) -> dict[str, Any]:
    """Settings that weights only make sense with, by dotted key."""
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    left_out = set() if encoder.kind == "conformer" else _OF_CONFORMERS
    values = {f"features.{key}": v for key, v in recipe.features if key not in _NOT_HEARD}
    values |= {f"model.encoder.{key}": v for key, v in encoder if key in _ENCODER - left_out}
    values |= {f"model.decoder.{key}": v for key, v in decoder if key in _DECODER}
    channels = encoder.subsampling_channels or encoder.output_size  # what unset means
    return values | {"model.encoder.subsampling_channels": channels}
