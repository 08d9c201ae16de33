"""Checkpoints of a run and model folders: complete or not there, without pickle.

RUN/checkpoints/step-00012345/
  model.safetensors      the weights that are validated (the moving average, where there is one)
  optimizer.safetensors  moments by parameter name, raw weights beside a moving average
  state.json             position, seed, recipe, validation result
  manifest.json          sizes and hashes of the others; written last
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from rayasr import storage
from rayasr.config import Recipe, dump_recipe, load_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError, RayasrError
from rayasr.model.u2 import U2Model, build_model
from rayasr.tokenizer import Tokenizer

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
DECODING_FILE = "decoding.json"
CHECKPOINT_FILES = (MODEL_FILE, OPTIMIZER_FILE, STATE_FILE)
CHECKPOINT_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, its step (updates done) and its state.json."""

    path: Path
    step: int
    state: dict[str, Any]

    @property
    def dev_loss(self) -> float | None:
        """Validation loss at this step; None where none was computed or it is not finite."""
        value = (self.state.get("validation") or {}).get("dev_loss")
        return None if value is None or not math.isfinite(value) else float(value)

    def model(self) -> dict[str, Tensor]:
        """Weights by name; raises CheckpointError."""
        return read_tensors(self.path / MODEL_FILE)

    def optimizer(self) -> dict[str, Tensor]:
        """Optimizer state by kind and parameter name; raises CheckpointError."""
        return read_tensors(self.path / OPTIMIZER_FILE)


def checkpoint_name(step: int) -> str:
    """Folder name of a checkpoint."""
    return f"step-{step:08d}"


def save_checkpoint(
    run: str | Path,
    step: int,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    state: dict[str, Any],
) -> Checkpoint:
    """Write one checkpoint (tensors on the CPU); it appears whole or not at all.

    Raises DataError where the folder cannot be written or the disk is full.
    """
    target = Path(run) / "checkpoints" / checkpoint_name(step)
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_plain(model), partial / MODEL_FILE)
        save_file(_plain(optimizer), partial / OPTIMIZER_FILE)
        (partial / STATE_FILE).write_text(json.dumps(state, indent=1, ensure_ascii=False))
        manifest = {name: _describe(partial / name) for name in CHECKPOINT_FILES}
        (partial / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
        for name in (*CHECKPOINT_FILES, MANIFEST_FILE):
            _sync(partial / name)
        _put_in_place(partial, target)
    except SafetensorError as error:  # how safetensors reports a failed write
        shutil.rmtree(partial, ignore_errors=True)
        raise storage.output_error(target, _as_os_error(error)) from error
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise storage.output_error(target, error) from error
    return Checkpoint(target, step, state)


def copy_checkpoint(source: str | Path, run: str | Path) -> Checkpoint:
    """A verified copy, from anywhere, inside RUN; `adopt` makes it one of RUN's checkpoints.

    Raises CheckpointError for one that is damaged, DataError where it cannot be copied.
    """
    if not storage.exists(storage.join(source, MANIFEST_FILE)):
        raise _no_checkpoint(source)
    partial = Path(run) / ".checkpoint.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        storage.make_folder(partial)
        for name in (*CHECKPOINT_FILES, MANIFEST_FILE):
            storage.copy_file(storage.join(source, name), partial / name)
            _sync(partial / name)
        return open_checkpoint(partial)
    except RayasrError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise type(error)(str(error).replace(str(partial), str(source))) from error


def adopt(copied: Checkpoint, run: str | Path) -> Checkpoint:
    """Give what `copy_checkpoint` made its name among RUN's checkpoints; raises DataError."""
    target = Path(run) / "checkpoints" / checkpoint_name(copied.step)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _put_in_place(copied.path, target)
    except OSError as error:
        raise storage.output_error(target, error) from error
    return replace(copied, path=target)


def remove_checkpoint(path: Path) -> None:
    """Delete a checkpoint's folder."""
    # Without its manifest it is no checkpoint, should we die half way through.
    (path / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def open_checkpoint(path: str | Path, *, verify: bool = True) -> Checkpoint:
    """A checkpoint by its folder; `verify` also compares hashes; raises CheckpointError."""
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text())
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest.items()}
    except FileNotFoundError:
        raise _no_checkpoint(folder) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/{MANIFEST_FILE} is damaged: {error}") from error
    for name in CHECKPOINT_FILES:
        file = folder / name
        size = file.stat().st_size if file.exists() else -1
        if name not in expected or size != expected[name][0]:
            raise CheckpointError(f"{file} is damaged ({size} bytes); use an earlier checkpoint")
        if verify and storage.sha256(file) != expected[name][1]:
            raise CheckpointError(f"{file} is damaged (wrong hash); use an earlier checkpoint")
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        return Checkpoint(folder, int(state["step"]), state)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}/{STATE_FILE} is damaged: {error}") from error


def list_checkpoints(run: str | Path) -> list[Checkpoint]:
    """All complete checkpoints of a run by step, sizes checked; damaged ones are left out."""
    found = []
    for path in checkpoint_folders(run):
        try:
            found.append(open_checkpoint(path, verify=False))
        except CheckpointError:
            continue
    return found


def latest_checkpoint(run: str | Path, notes: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint whose hashes are right; says which damaged ones it passed over."""
    for path in reversed(checkpoint_folders(run)):
        try:
            return open_checkpoint(path)
        except CheckpointError as error:
            notes(f"passed over: {error}")
    return None


def checkpoint_folders(run: str | Path) -> list[Path]:
    """Folders named like checkpoints, by step, complete or not."""
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if CHECKPOINT_NAME.fullmatch(path.name))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; raises CheckpointError."""
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error


def best_of(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """The `count` with the lowest validation loss, best first; the later of two equal ones."""
    validated = [c for c in checkpoints if c.dev_loss is not None]
    return sorted(validated, key=lambda c: (c.dev_loss, -c.step))[:count]


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory: the model in eval mode and all that decoding needs."""

    model: U2Model
    recipe: Recipe
    tokenizer: Tokenizer
    cmvn: CmvnStats
    decoding: dict[str, Any]
    path: Path


def save_model(
    folder: str | Path,
    weights: dict[str, Tensor],
    recipe: Recipe,
    tokenizer: Tokenizer,
    cmvn: CmvnStats,
    decoding: dict[str, Any] | None = None,
    card: str = "",
) -> Path:
    """Write a model folder, which stands alone; the weights come last. Raises DataError."""
    target = Path(folder)
    storage.make_folder(target)
    (target / MODEL_FILE).unlink(missing_ok=True)
    tokenizer.save(target)
    storage.write_atomic(target / "recipe.yaml", dump_recipe(recipe))
    storage.write_json(target / "cmvn.json", cmvn.to_json())
    storage.write_json(target / DECODING_FILE, decoding or default_decoding(recipe))
    storage.write_atomic(target / "README.md", card or f"# {recipe.name}\n")
    storage.write_atomic(target / MODEL_FILE, to_bytes(_plain(weights)))
    return target


def choose_device(devices: str, gpus: int | None = None) -> str:
    """`cpu` or `cuda` for what `--devices auto|cpu|cuda` says; raises ConfigError.

    `gpus` are those of a cluster; None: those that torch sees here.
    """
    if devices not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"--devices '{devices}' is not one of auto, cpu, cuda")
    has_gpu = torch.cuda.is_available() if gpus is None else gpus > 0
    if devices == "cuda" and not has_gpu:
        who = "torch sees no GPU here" if gpus is None else "Ray sees no GPU"
        raise ConfigError(f"--devices cuda: {who}; use auto or cpu")
    return "cuda" if devices != "cpu" and has_gpu else "cpu"


def load_model(path: str | Path, device: str | torch.device = "cpu") -> LoadedModel:
    """The model of a model folder or of a run that has one; raises CheckpointError."""
    folder = find_model(path)
    recipe = load_recipe(folder / "recipe.yaml")
    tokenizer = Tokenizer.load(folder)
    cmvn = CmvnStats.from_json(storage.read_json(folder / "cmvn.json"))
    model = new_model(recipe, tokenizer, cmvn)
    load_weights(model, read_tensors(folder / MODEL_FILE), str(folder))
    decoding = default_decoding(recipe)
    if (folder / DECODING_FILE).exists():
        decoding |= storage.read_json(folder / DECODING_FILE)
    return LoadedModel(model.to(device).eval(), recipe, tokenizer, cmvn, decoding, folder)


def find_model(path: str | Path) -> Path:
    """The model folder that a path means: itself, or the one inside a run."""
    for folder in (Path(path), Path(path) / "model"):
        if (folder / MODEL_FILE).exists() and (folder / "recipe.yaml").exists():
            return folder
    if list_checkpoints(path):
        raise CheckpointError(f"{path} has no model yet; run `rayasr average {path}` first")
    raise CheckpointError(f"{path} is neither a run nor a model folder ({MODEL_FILE} is missing)")


def model_digest(folder: str | Path, names: Sequence[str]) -> str:
    """Sixteen hex digits over some files of a model folder; raises CheckpointError."""
    try:
        hashes = [storage.sha256(Path(folder, name)) for name in names]
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from error
    return hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]


def new_model(recipe: Recipe, tokenizer: Tokenizer, cmvn: CmvnStats | None = None) -> U2Model:
    """A freshly initialised model of a recipe for these units; without `cmvn` features stay."""
    return build_model(
        recipe.model,
        num_mel_bins=recipe.features.num_mel_bins,
        vocab_size=tokenizer.vocab_size,
        sos_eos_id=tokenizer.sos_eos_id,
        cmvn=None if cmvn is None else cmvn_tensors(cmvn),
    )


def load_weights(model: U2Model, weights: dict[str, Tensor], source: str) -> None:
    """Load weights by name; raises CheckpointError naming what does not fit."""
    check_weights(model, weights, source)
    model.load_state_dict(weights)


def check_weights(model: U2Model, weights: dict[str, Tensor], source: str) -> None:
    """Raises CheckpointError where names or shapes are not the model's, naming three of them."""
    expected = model.state_dict()
    missing = sorted(expected.keys() - weights.keys())
    unknown = sorted(weights.keys() - expected.keys())
    wrong = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes:", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise CheckpointError(
                f"{source} does not fit the recipe's model: it {what} {', '.join(names[:3])}{more}"
            )


def cmvn_tensors(cmvn: CmvnStats) -> tuple[Tensor, Tensor]:
    """Mean and inverse standard deviation (F,), float32."""
    mean, istd = cmvn.mean_istd()
    return torch.from_numpy(mean), torch.from_numpy(istd)


def default_decoding(recipe: Recipe) -> dict[str, Any]:
    """What decoding uses until something better is chosen on dev."""
    return {
        "default_mode": recipe.decode.modes[0],
        "ctc_weight": 0.5,
        "reverse_weight": recipe.decode.reverse_weight,
        "beam_size": recipe.decode.beam_size,
        "chosen_on": None,
    }


def save_decoding(folder: str | Path, decoding: dict[str, Any]) -> None:
    """Keep decoding settings chosen on dev with the model; raises DataError."""
    storage.write_json(find_model(folder) / DECODING_FILE, decoding)


def _no_checkpoint(path: str | Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a checkpoint (no {MANIFEST_FILE}); name a folder RUN/checkpoints/"
        "step-… or leave --resume at auto"
    )


def _put_in_place(finished: Path, target: Path) -> None:
    """Rename a finished folder to its name; an earlier one of that name goes only then."""
    aside = target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.replace(aside)
    try:
        finished.replace(target)
    except OSError:
        if aside.exists():
            aside.replace(target)
        raise
    _sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What safetensors accepts: contiguous, and no two names for one memory."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        if value.numel() and value.untyped_storage().data_ptr() in seen:
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return plain


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": storage.sha256(path)}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _as_os_error(error: SafetensorError) -> OSError:
    """safetensors only has a message; find the errno that it quotes."""
    found = re.search(r"os error (\d+)", str(error))
    return OSError(int(found.group(1)) if found else 0, str(error))
