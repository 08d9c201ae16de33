"""Where a run goes on from, and whether the recipe still is the one it was trained with."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayasr import storage
from rayasr.checkpoint import (
    Checkpoint,
    adopt,
    checkpoint_folders,
    checkpoint_name,
    copy_checkpoint,
    latest_checkpoint,
    open_checkpoint,
    remove_checkpoint,
)
from rayasr.config import Recipe
from rayasr.errors import CheckpointError
from rayasr.settings import flatten
from rayasr.train.checkpoint_writer import fetch_from_mirror
from rayasr.train.init_from import InitFrom, check_same_start

_SECTIONS = ("seed", "text", "units", "features", "augment", "batch", "model", "optim", "train")
_FREE = (
    "train.log_every_steps",
    "train.validate_every_epochs",
    "train.validate_every_steps",
    "train.max_nonfinite_steps",
    "train.autocheck",
    "train.threads_per_worker",
    "train.precision",
    "train.compile",
    "units.file",
)
"""Settings that may change between two parts of one training: each step keeps its utterances.

Precision, compile and the number of threads change how its sums are rounded. What is in units.file
is part of the store's training_digest, wherever the file lies.
"""
_BOUNDS = ("batch.max_padded_frames", "batch.max_utterances", "batch.max_padded_units")
"""What divides a step into micro-batches; without batch.frames_per_step also what ends a step."""
_START_OVER = "start over (`rayasr run --from train`, `rayasr train --resume never`)"


def prepare_resume(
    recipe: Recipe,
    inputs: str,
    run: str | Path,
    resume: str,
    notes: Callable[[str], None],
    *,
    init_from: InitFrom | None = None,
    dry_run: bool = False,
) -> None:
    """Make the newest checkpoint of RUN the one that `--resume auto|never|PATH` asks for.

    `inputs` is the training_digest of the store to be trained on, `init_from` what a fresh start
    would begin with. Nothing is deleted before what is asked for is there and fits; a dry run
    changes nothing. Raises CheckpointError for a PATH that is no checkpoint, and for a checkpoint
    of another recipe, of other data or of another start.
    """
    folder = Path(run)
    if resume == "never":
        if not dry_run:
            _start_over(folder, notes)
        return
    if resume != "auto":
        _take(recipe, inputs, folder, resume, notes, init_from=init_from, dry_run=dry_run)
        return
    mirror = recipe.checkpoint.mirror
    if mirror is not None and not checkpoint_folders(folder) and not dry_run:
        fetch_from_mirror(mirror, folder, notes)
    find_start(recipe, inputs, folder, notes, init_from)


def find_start(
    recipe: Recipe,
    inputs: str,
    run: str | Path,
    notes: Callable[[str], None],
    init_from: InitFrom | None = None,
) -> Checkpoint | None:
    """The newest whole checkpoint, None for a fresh start; raises CheckpointError."""
    checkpoint = latest_checkpoint(run, notes)
    if checkpoint is None:
        if checkpoint_folders(run):
            raise CheckpointError(
                f"no checkpoint of {run} is whole; give --resume the folder of a copy, or "
                f"{_START_OVER}"
            )
        return None
    check_same_training(recipe, inputs, checkpoint.state, checkpoint.path, init_from)
    return checkpoint


def check_same_training(
    recipe: Recipe,
    inputs: str,
    state: dict[str, Any],
    path: str | Path,
    init_from: InitFrom | None = None,
) -> None:
    """Raises CheckpointError where a state.json has other settings, other data or another start."""
    different = differing_settings(state.get("recipe", {}), recipe.model_dump(mode="json"))
    if different:
        listed = "; ".join(f"{key} {old!r} there, {new!r} here" for key, old, new in different[:4])
        more = f" and {len(different) - 4} more" if len(different) > 4 else ""
        raise CheckpointError(
            f"{path} was trained with another recipe ({listed}{more}); use the same recipe, "
            f"another --out, or {_START_OVER}"
        )
    if state.get("training_digest", inputs) != inputs:  # before there was a digest: not known
        raise CheckpointError(
            f"{path} was trained on other data than the store holds now; use the same corpus, "
            f"another --out, or {_START_OVER}"
        )
    check_same_start(init_from, state, path)


def differing_settings(saved: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, saved, now) of every setting that would change what is in a step or what it does."""
    free = set(_FREE)
    if now["batch"]["frames_per_step"] is not None:
        free.update(_BOUNDS)
    if _length_does_not_matter(now):
        free.add("train.epochs")
    old, new = _flatten(saved), _flatten(now)
    return [
        (key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if key not in free and old.get(key) != new.get(key)
    ]


def resolve(recipe: Recipe, checkpoint: Checkpoint | None) -> Recipe:
    """The recipe with the micro-batch size that this run found for `auto`."""
    if checkpoint is None or recipe.batch.max_padded_frames != "auto":
        return recipe
    frames = checkpoint.state["recipe"]["batch"]["max_padded_frames"]
    return with_max_padded_frames(recipe, frames)


def with_max_padded_frames(recipe: Recipe, frames: int) -> Recipe:
    """The recipe with another bound for micro-batches."""
    batch = recipe.batch.model_copy(update={"max_padded_frames": frames})
    return recipe.model_copy(update={"batch": batch})


def _start_over(run: Path, notes: Callable[[str], None]) -> None:
    """Remove what an earlier training has left in RUN."""
    if checkpoint_folders(run):
        notes(f"--resume never: earlier checkpoints of {run} are removed")
    for name in ("checkpoints", "tensorboard"):
        shutil.rmtree(run / name, ignore_errors=True)
    (run / "metrics.jsonl").unlink(missing_ok=True)


def _take(
    recipe: Recipe,
    inputs: str,
    run: Path,
    resume: str,
    notes: Callable[[str], None],
    *,
    init_from: InitFrom | None,
    dry_run: bool,
) -> None:
    """Make a checkpoint given by its path the newest of the run.

    One of RUN costs those after it; one from elsewhere all of them, it has another history.
    """
    remote = storage.is_remote(resume)
    chosen = copy_checkpoint(resume, run) if remote else open_checkpoint(resume)
    target = run / "checkpoints" / checkpoint_name(chosen.step)
    own = chosen.path.resolve() == target.resolve()
    try:
        check_same_training(recipe, inputs, chosen.state, resume, init_from)
        if dry_run:
            return
        if not own:
            adopt(chosen if remote else copy_checkpoint(resume, run), run)
    finally:
        if remote:
            remove_checkpoint(chosen.path)
    for path in checkpoint_folders(run):
        if path.name > target.name or (path.name < target.name and not own):
            notes(f"--resume {resume}: {path.name} of {run} is removed")
            remove_checkpoint(path)


def _length_does_not_matter(now: dict[str, Any]) -> bool:
    """Whether no step depends on the number of epochs: more of them may then be asked for."""
    warmup = now["optim"]["schedule"] == "warmup" and now["optim"]["warmup_steps"] is not None
    return bool(warmup and not now["augment"]["stringing"]["fraction"])


def _flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of the sections that training depends on, and the weights of the corpora."""
    flat = flatten(values, _SECTIONS)
    weights = [corpus.get("weight", 1.0) for corpus in values.get("corpora", [])]
    while weights and weights[-1] == 1.0:  # the weight of a corpus that the recipe does not name
        weights.pop()
    flat["corpora.weight"] = weights
    return flat
