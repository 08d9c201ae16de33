"""The stages of `rayasr run`: what each needs, what it leaves, and when it may be skipped.

The store is compared with the corpora each time. The digest of a later stage covers what it reads:
its own settings, the store's data, and the digest of the stage before it, so a change runs again
exactly what depends on it. `RUN/stages.json` holds the digests of what is done or was begun.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayasr import storage
from rayasr.config import DECODE_MODES, Recipe, parse_recipe
from rayasr.errors import CheckpointError, ConfigError
from rayasr.logs import note

if TYPE_CHECKING:
    from rayasr.checkpoint import Checkpoint
    from rayasr.data.store_writer import StorePlan
    from rayasr.ray_train import Workers
    from rayasr.train.init_from import InitFrom

STAGES = ("prepare", "train", "average", "decode", "export")
RESULT_OF_STAGE = {
    "prepare": "store/store.json",
    "train": "checkpoints",
    "average": "model/model.safetensors",
    "decode": "result.json",
    "export": "export/final.zip",
}
FOLLOWERS: dict[str, tuple[str, ...]] = {
    "prepare": ("decode", "export"),
    "train": ("average", "decode", "export"),
    "average": ("decode", "export"),
    "decode": ("export",),
    "export": (),
}
"""What runs again after a stage whatever the digests say. Training is not run again where a store
has been mended or has other test recordings."""


@dataclass(frozen=True)
class RunOptions:
    """What `rayasr run` was asked for besides the recipe."""

    out: Path
    workers: "Workers" = None
    devices: str = "auto"
    max_time_s: float | None = None
    first: str | None = None
    """Stage that runs anew even if it is done, and all after it."""
    last: str = STAGES[-1]
    init_from: "InitFrom | None" = None
    """The model that a fresh training starts from."""


@dataclass(frozen=True)
class Planned:
    """What is to happen to a stage, and why."""

    stage: str
    reason: str
    runs: bool
    anew: bool = False
    """Nothing of an earlier attempt is kept."""


@dataclass(frozen=True)
class _Work:
    """What a stage is given."""

    recipe: Recipe
    options: RunOptions
    store: "StorePlan"
    anew: bool
    lease: storage.Lease


def run(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Run every stage whose result is missing or out of date; returns RUN/result.json's value.

    {} where --until leaves decoding out. Raises ConfigError for an unknown stage, a recipe without
    a corpus and options that a later stage would refuse, CheckpointError where RUN was trained with
    other settings, and what stages raise.
    """
    options = _with_start(options)
    store, stages = _plan(recipe, options)
    _check_training(recipe, options, stages)
    digests = _digests(recipe, store, options.init_from)
    storage.make_folder(options.out)
    with storage.Lease(options.out, note) as lease:
        for planned in stages:
            if not planned.runs:
                note(f"{planned.stage}: skipped, {planned.reason}")
                continue
            lease.check()
            work = _Work(recipe, options, store, planned.anew, lease)
            _run_stage(planned, work, digests[planned.stage])
    if stages[-1].stage not in ("decode", "export"):
        return {}
    return dict(storage.read_json(options.out / "result.json"))


def plan_stages(recipe: Recipe, options: RunOptions) -> list[Planned]:
    """Each stage up to the last one asked for, and why it runs or that it is done; raises as `run`.

    Reads the corpora's lists and texts, and writes nothing.
    """
    return _plan(recipe, _with_start(options))[1]


def forget(out: Path, stage: str) -> None:
    """Have `rayasr run` do a stage and all after it again, whose results others have changed."""
    kept = STAGES[: STAGES.index(stage)]
    records = _read_records(out)
    if records.keys() - set(kept):
        storage.write_json(out / "stages.json", {k: v for k, v in records.items() if k in kept})


def _run_stage(planned: Planned, work: _Work, digest: str) -> None:
    """Do a stage, with a record of its beginning and of its end."""
    out = work.options.out
    note(f"{planned.stage}: {planned.reason}")
    record = {"digest": digest, "finished": False, "seconds": 0.0}
    _record(out, planned.stage, record)
    started = time.monotonic()
    finished = _RUNNERS[planned.stage](work)
    seconds = time.monotonic() - started
    _record(out, planned.stage, record | {"finished": finished, "seconds": round(seconds, 1)})
    note(f"{planned.stage}: done in {seconds:.0f} s")


def _plan(recipe: Recipe, options: RunOptions) -> tuple["StorePlan", list[Planned]]:
    from rayasr.ray_data import read_plan, up_to_date

    _check(recipe, options)
    store = read_plan(recipe)
    digests, newest = _digests(recipe, store, options.init_from), _newest(options.out)
    data = store.training_digest(recipe)
    other_data = newest is not None and newest.state.get("training_digest", data) != data
    records = _read_records(options.out)
    forced = len(STAGES) if options.first is None else STAGES.index(options.first)
    followers: set[str] = set()
    stages: list[Planned] = []
    for number, stage in enumerate(STAGES[: STAGES.index(options.last) + 1]):
        result = options.out / RESULT_OF_STAGE[stage]
        record = records.get(stage, {})
        starts_over = stage == "train" and other_data
        if number == forced:
            reason = "asked for by --from (leave that out to go on after a stop)"
        elif number > forced or stage in followers:
            reason = "follows"
        elif stage == "prepare":
            reason = _store_reason(bool(up_to_date(recipe, result.parent, store)), result)
        elif starts_over:
            reason = "the training data have changed, starts over"
        else:
            reason = _reason(stage, record, digests[stage], result)
        if reason:
            followers.update(FOLLOWERS[stage])
        done = f"done ({result})"
        stages.append(Planned(stage, reason or done, bool(reason), number >= forced or starts_over))
    return store, stages


def _store_reason(is_up_to_date: bool, result: Path) -> str:
    if is_up_to_date:
        return ""
    there = result.exists()
    return "settings, recordings or the store's files have changed" if there else "not done yet"


def _reason(stage: str, record: dict[str, Any], digest: str, result: Path) -> str:
    """Why a stage runs; '' where it is done."""
    if not record:
        return "not done yet"
    if record["digest"] != digest:
        return "settings have changed" if stage != "decode" else "settings or data have changed"
    if not record["finished"]:
        return "stopped before its end" + (", goes on" if stage == "train" else "")
    return "" if result.exists() else f"{result} is missing"


def _check(recipe: Recipe, options: RunOptions) -> None:
    """Raise ConfigError for what a later stage would refuse."""
    from rayasr.checkpoint import choose_device
    from rayasr.train.setup import check_workers

    first, last = options.first or STAGES[0], options.last
    for stage in (first, last):
        if stage not in STAGES:
            raise ConfigError(f"unknown stage '{stage}'; the stages are {', '.join(STAGES)}")
    if STAGES.index(first) > STAGES.index(last):
        raise ConfigError(f"--from {first} comes after --until {last}; leave one of them out")
    workers = options.workers[1] if isinstance(options.workers, tuple) else options.workers
    check_workers(recipe, workers or 1, fine_tuned=options.init_from is not None)
    decodes = "decode" in STAGES[: STAGES.index(last) + 1]
    if options.devices != "cuda" or decodes:  # workers may have GPUs where this machine has none
        choose_device(options.devices)


def _check_training(recipe: Recipe, options: RunOptions, stages: Sequence[Planned]) -> None:
    """Raise CheckpointError where RUN has other settings, before its store is replaced."""
    from rayasr.data.store import describe_difference
    from rayasr.train.resume import check_same_training

    trains = any(planned.stage == "train" and planned.runs for planned in stages)
    newest = _newest(options.out) if trains else None
    if newest is not None and options.first not in ("prepare", "train"):
        data = newest.state.get("training_digest", "")  # where that is another, train starts over
        check_same_training(recipe, data, newest.state, newest.path, options.init_from)
        trained = parse_recipe(newest.state["recipe"], str(newest.path))
        if trained.store_digest != recipe.store_digest:
            raise CheckpointError(
                f"{newest.path} was trained on a store of other settings "
                f"({describe_difference(trained, recipe)}); use the same recipe, another --out, or "
                "start over by --from train"
            )


def _newest(out: Path) -> "Checkpoint | None":
    from rayasr.checkpoint import list_checkpoints

    found = list_checkpoints(out)
    return found[-1] if found else None


def _prepare(work: _Work) -> bool:
    from rayasr.ray_data import prepare_store

    # The store belongs to the run: changed settings replace it, finished shards are kept.
    store = work.options.out / "store"
    prepare_store(work.recipe, store, force=True, anew=work.anew, plan=work.store)
    return True


def _train(work: _Work) -> bool:
    from rayasr.ray_train import run_training

    options = work.options
    result = run_training(
        work.recipe,
        options.out / "store",
        options.out,
        workers=options.workers,
        devices=options.devices,
        max_time_s=options.max_time_s,
        resume="never" if work.anew else "auto",
        init_from=options.init_from,
        lease=work.lease,
    )
    return result.finished


def _average(work: _Work) -> bool:
    from rayasr.average import average_checkpoints

    average_checkpoints(work.options.out, work.recipe.average.best)
    return True


def _decode(work: _Work) -> bool:
    """Choose decoding settings on dev, keep them with the model, report dev and test."""
    from rayasr.average import mirror_model
    from rayasr.checkpoint import DECODING_FILE, choose_device, load_model
    from rayasr.data.store import Store
    from rayasr.decode.split import choose_and_keep, decode_split, write_result

    out, config = work.options.out, work.recipe.decode
    store = Store.open(out / "store")
    loaded = load_model(out / "model", choose_device(work.options.devices))
    loaded = choose_and_keep(loaded, store, config)
    mirror_model(loaded.path, work.recipe, note, (DECODING_FILE,))
    modes = [mode for mode in DECODE_MODES if mode in config.modes]
    splits = {
        split: decode_split(loaded, store, split, modes, out / "decode", config=config)
        for split in store.info["splits"]
        if split != "train"
    }
    write_result(out, loaded.decoding["default_mode"], splits)
    return True


def _export(work: _Work) -> bool:
    from rayasr.export.torchscript import export_torchscript

    # forced: a recipe may train for another runtime than WeNet's, which is then said
    export_torchscript(work.options.out / "model", work.options.out / "export", force=True)
    return True


_RUNNERS: dict[str, Callable[[_Work], bool]] = {
    "prepare": _prepare,
    "train": _train,
    "average": _average,
    "decode": _decode,
    "export": _export,
}


def _with_start(options: RunOptions) -> RunOptions:
    """The options with the model that training in RUN has started from, where none is named."""
    from rayasr.train.init_from import started_from

    return replace(options, init_from=options.init_from or started_from(options.out))


def _digests(recipe: Recipe, store: "StorePlan", init_from: "InitFrom | None") -> dict[str, str]:
    """By stage, a digest of everything that its result depends on."""
    from rayasr.data.store import digest_of

    data = store.digest(recipe)
    weights = [corpus.weight for corpus in recipe.corpora]
    settings = recipe.digest("augment", "batch", "model", "optim", "train", "seed")
    start = [] if init_from is None else [init_from.key]
    train = digest_of(store.training_digest(recipe), weights, settings, *start)
    average = digest_of(train, recipe.digest("average"))
    decode = digest_of(average, data, recipe.digest("decode"))
    export = digest_of(decode)
    return dict(zip(STAGES, (data, train, average, decode, export), strict=True))


def _read_records(out: Path) -> dict[str, Any]:
    path = out / "stages.json"
    return dict(storage.read_json(path)) if storage.exists(path) else {}


def _record(out: Path, stage: str, record: dict[str, Any]) -> None:
    """Note how far a stage is, and forget those that have to follow it."""
    records = {k: v for k, v in _read_records(out).items() if k not in FOLLOWERS[stage]}
    storage.write_json(out / "stages.json", records | {stage: record})
