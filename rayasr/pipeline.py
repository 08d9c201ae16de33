"""The stages of `rayasr run`: what each needs, what it leaves, and when it may be skipped.

A stage's digest covers its own settings and the digest of the stage before it, so a changed
setting runs again exactly what depends on it. `RUN/stages.json` holds the digests of what is done.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayasr import storage
from rayasr.config import DECODE_MODES, Recipe
from rayasr.errors import ConfigError
from rayasr.logs import note

if TYPE_CHECKING:
    from rayasr.ray_train import Workers

STAGES = ("prepare", "train", "average", "decode", "export")
RESULT_OF_STAGE = {
    "prepare": "store/store.json",
    "train": "checkpoints",
    "average": "model/model.safetensors",
    "decode": "result.json",
    "export": "export/final.zip",
}
SETTINGS_OF_STAGE: dict[str, tuple[str, ...]] = {
    "prepare": ("corpora",),
    "train": ("augment", "batch", "model", "optim", "train", "seed"),
    "average": ("average",),
    "decode": ("decode",),
    "export": (),
}


@dataclass(frozen=True)
class RunOptions:
    """What `rayasr run` was asked for besides the recipe."""

    out: Path
    workers: "Workers" = None
    devices: str = "auto"
    max_time_s: float | None = None
    first: str | None = None
    """Stage that runs even if it is done, and all after it."""
    last: str = STAGES[-1]


def run(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Run every stage whose result is missing or out of date; returns RUN/result.json's value.

    Raises ConfigError for an unknown stage or a recipe without a corpus, and what stages raise.
    """
    _check(recipe, options)
    storage.make_folder(options.out)
    for stage, reason in plan_stages(recipe, options):
        if reason.startswith("done"):
            note(f"{stage}: skipped, {reason}")
            continue
        note(f"{stage}: {reason}")
        started = time.monotonic()
        finished = _RUNNERS[stage](recipe, options)
        seconds = time.monotonic() - started
        _record(options.out, stage, _digest(recipe, stage), finished, seconds)
        note(f"{stage}: done in {seconds:.0f} s")
    result = options.out / "result.json"
    return dict(storage.read_json(result)) if storage.exists(result) else {}


def plan_stages(recipe: Recipe, options: RunOptions) -> list[tuple[str, str]]:
    """Each stage up to the last one asked for, and why it runs or that it is done."""
    records = _read_records(options.out)
    plan: list[tuple[str, str]] = []
    forced = False
    for stage in STAGES[: STAGES.index(options.last) + 1]:
        record = records.get(stage)
        result = options.out / RESULT_OF_STAGE[stage]
        if forced or stage == options.first:
            reason, forced = ("asked for by --from" if not forced else "follows"), True
        elif record is None:
            reason, forced = "not done yet", True
        elif record["digest"] != _digest(recipe, stage):
            reason, forced = "settings have changed", True
        elif not result.exists():
            reason, forced = f"{result} is missing", True
        elif not record["finished"]:
            reason, forced = "stopped before its end, goes on", True
        else:
            reason = f"done ({result})"
        plan.append((stage, reason))
    return plan


def _check(recipe: Recipe, options: RunOptions) -> None:
    for stage in (options.first, options.last):
        if stage is not None and stage not in STAGES:
            raise ConfigError(f"unknown stage '{stage}'; the stages are {', '.join(STAGES)}")
    if not recipe.corpora:
        raise ConfigError("no corpus: name one by --corpus DIR, or in the recipe's `corpora`")


def _prepare(recipe: Recipe, options: RunOptions) -> bool:
    from rayasr.ray_data import prepare_store

    # The store belongs to the run: changed settings replace it, finished shards are kept.
    prepare_store(recipe, options.out / "store", force=True)
    return True


def _train(recipe: Recipe, options: RunOptions) -> bool:
    from rayasr.ray_train import run_training

    result = run_training(
        recipe,
        options.out / "store",
        options.out,
        workers=options.workers,
        devices=options.devices,
        max_time_s=options.max_time_s,
    )
    return result.finished


def _average(recipe: Recipe, options: RunOptions) -> bool:
    from rayasr.average import average_checkpoints

    average_checkpoints(options.out, recipe.average.best)
    return True


def _decode(recipe: Recipe, options: RunOptions) -> bool:
    """Choose decoding settings on dev, keep them with the model, report dev and test."""
    from rayasr.checkpoint import choose_device, load_model, save_decoding
    from rayasr.data.store import Store
    from rayasr.decode.split import choose_decoding, decode_split, write_result

    store = Store.open(options.out / "store")
    loaded = load_model(options.out / "model", choose_device(options.devices))
    decoding = choose_decoding(loaded, store, recipe.decode)
    save_decoding(options.out / "model", decoding)
    loaded = replace(loaded, decoding=decoding)
    modes = [mode for mode in DECODE_MODES if mode in recipe.decode.modes]
    splits = {
        split: decode_split(
            loaded, store, split, modes, options.out / "decode", config=recipe.decode
        )
        for split in store.info["splits"]
        if split != "train"
    }
    write_result(options.out, decoding["default_mode"], splits)
    return True


def _export(_recipe: Recipe, options: RunOptions) -> bool:
    from rayasr.export.torchscript import export_torchscript

    export_torchscript(options.out / "model", options.out / "export")
    return True


_RUNNERS: dict[str, Callable[[Recipe, RunOptions], bool]] = {
    "prepare": _prepare,
    "train": _train,
    "average": _average,
    "decode": _decode,
    "export": _export,
}


def _digest(recipe: Recipe, stage: str) -> str:
    """Digest of everything a stage's result depends on."""
    sections = (SETTINGS_OF_STAGE[name] for name in STAGES[: STAGES.index(stage) + 1])
    parts = [recipe.store_digest, *(recipe.digest(*names) for names in sections if names)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _read_records(out: Path) -> dict[str, Any]:
    path = out / "stages.json"
    return dict(storage.read_json(path)) if storage.exists(path) else {}


def _record(out: Path, stage: str, digest: str, finished: bool, seconds: float) -> None:
    """Note a stage as done, and forget what came after it."""
    kept: Sequence[str] = STAGES[: STAGES.index(stage)]
    records = {name: value for name, value in _read_records(out).items() if name in kept}
    records[stage] = {"digest": digest, "finished": finished, "seconds": round(seconds, 1)}
    storage.write_json(out / "stages.json", records)
