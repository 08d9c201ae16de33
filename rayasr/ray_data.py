"""Feature extraction by Ray Data: one task per shard, metadata alone through the object store."""

import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayasr import storage
from rayasr.config import Recipe, load_recipe
from rayasr.corpora.read import read_corpora
from rayasr.data.shard import ShardSpec
from rayasr.data.store import Store, describe_difference, read_info
from rayasr.data.store_writer import (
    StorePlan,
    check_rejects,
    finish_store,
    finished_shards,
    plan_store,
    remove_leftovers,
    remove_shards,
    write_rejects,
)
from rayasr.errors import ConfigError, DataError, RayasrError
from rayasr.logs import note, progress, taking_long
from rayasr.ray_session import (
    MAX_TASK_RETRIES,
    check_shared,
    connect,
    explain_loss,
    set_up_data,
)


def read_plan(recipe: Recipe, notes: Callable[[str], None] = note) -> StorePlan:
    """What belongs into the store of a recipe's corpora, from their lists and texts alone.

    Raises ConfigError where the recipe names no corpus, DataError for one that cannot be used.
    """
    _check_corpora(recipe)
    with taking_long("reading the corpus"):
        manifest = read_corpora(
            recipe.corpora, dev_fraction=recipe.store.dev_fraction, seed=recipe.seed, notes=notes
        )
    with taking_long("reading texts and planning shards"):
        return plan_store(manifest, recipe)


def prepare_store(
    recipe: Recipe,
    out: str | Path,
    *,
    notes: Callable[[str], None] = note,
    force: bool = False,
    verify: bool = False,
    anew: bool = False,
    plan: StorePlan | None = None,
) -> dict[str, Any]:
    """Make the store of a recipe's corpora at `out`, or finish it; returns what store.json says.

    Finished shards are kept, but for `anew`; with `verify` they are checked against their checksums
    and the audio first. `plan` is what `read_plan` said, where that has been asked. Raises as it
    does, DataError for an output folder that cannot be used, for too many rejects, and, but for
    `force`, where `out` holds a store of another recipe.
    """
    _check_corpora(recipe)
    out = str(out) if storage.is_remote(out) else str(Path(out).absolute())
    shards = storage.join(out, "shards")
    with _only_writer(out) as check:
        storage.make_folder(shards)
        if not force:
            _refuse_other_recipe(recipe, out)
        plan = plan or read_plan(recipe, notes)
        if not (verify or anew) and (info := up_to_date(recipe, out, plan)):
            notes(f"store {out} is up to date: {info['utterances']:,} utterances")
            return info
        total = plan.num_utterances + len(plan.rejects)
        storage.remove(storage.join(out, "store.json"))  # from here on it is not finished
        write_rejects(out, plan.rejects)
        check_rejects(out, plan.rejects, total, recipe.store.max_reject_fraction)
        if anew:
            remove_shards(shards)
        remove_leftovers(shards, None)
        _make_shards(recipe, plan, shards, verify, notes)
        check()  # that was long enough for another to come in
        finished = finished_shards(shards, plan)
        rejects = [*plan.rejects, *(r for summary in finished.values() for r in summary.rejects)]
        write_rejects(out, rejects)
        check_rejects(out, rejects, total, recipe.store.max_reject_fraction)
        info = finish_store(out, recipe, plan, finished)
        remove_leftovers(shards, plan)
    notes(
        f"store {out}: {info['utterances']:,} utterances, {info['hours']:.2f} hours, "
        f"{info['units']:,} units, {info['rejects']:,} rejects"
    )
    return info


def up_to_date(recipe: Recipe, out: str | Path, plan: StorePlan) -> dict[str, Any] | None:
    """store.json's value where a store is finished, whole, and of this plan."""
    try:
        info = read_info(out)
        if not storage.is_remote(out):
            Store.open(out)
    except RayasrError:
        return None
    return info if info["inputs_digest"] == plan.digest(recipe) else None


def _check_corpora(recipe: Recipe) -> None:
    if not recipe.corpora:
        raise ConfigError("no corpus: name one by --corpus DIR, or in the recipe's `corpora`")


def _make_shards(
    recipe: Recipe, plan: StorePlan, folder: str, verify: bool, notes: Callable[[str], None]
) -> None:
    """Have Ray make the shards that are missing, or with `verify` look at all of them."""
    finished = finished_shards(folder, plan)
    pending = [spec for spec in plan.specs if verify or spec.name not in finished]
    if finished and not verify:
        notes(f"{len(finished):,} of {len(plan.specs):,} shards are there already")
    if not pending:
        return
    settings = {"recipe": recipe, "roots": plan.roots, "folder": folder, "verify": verify}
    with connect() as session:
        if session["nodes"] > 1:
            check_shared(plan.roots, folder, "corpus and store")
        _extract(pending, pickle.dumps(settings), notes)


def _extract(pending: Sequence[ShardSpec], settings: bytes, notes: Callable[[str], None]) -> None:
    """Run one task per shard and show how far they are; raises what a task could explain."""
    import ray

    set_up_data()
    items = [{"spec": pickle.dumps(spec)} for spec in pending]
    with warnings.catch_warnings(action="ignore"):  # 2.60 has no other name yet for max_retries
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _shard_task, fn_kwargs={"settings": settings}, num_cpus=1, max_retries=MAX_TASK_RETRIES
        )
    utterances = 0
    seconds = 0.0
    try:
        with progress("features", sum(len(spec.utterances) for spec in pending)) as line:
            for row in dataset.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                if row["rebuilt"]:
                    notes(f"{row['name']}: made again, {row['rebuilt']}")
                utterances += row["num_utterances"] + row["num_rejects"]
                seconds += row["seconds"]
                line.update(utterances, note=f"{seconds / 3600.0:.2f} h of audio")
    except ray.exceptions.RayError as error:
        advice = "lower store.max_seconds, or run on fewer CPUs"
        raise explain_loss(error, advice) from error


def _shard_task(row: dict[str, Any], settings: bytes) -> dict[str, Any]:
    """Runs in a Ray worker: a pickled ShardSpec in, a few numbers out; the shard goes to disk."""
    from rayasr.data.extraction import ExtractionSettings, make_shard

    try:
        spec: ShardSpec = pickle.loads(row["spec"])
        report = make_shard(spec, ExtractionSettings(**pickle.loads(settings)))
    except RayasrError as error:  # as a value: Ray would wrap an exception, and log its traceback
        empty = {"name": "", "num_utterances": 0, "num_rejects": 0, "seconds": 0.0, "rebuilt": ""}
        return empty | {"error": pickle.dumps(error)}
    return report._asdict() | {"error": b""}


def _refuse_other_recipe(recipe: Recipe, out: str) -> None:
    """Raise DataError where `out` is a finished store of other features."""
    try:
        info = read_info(out)
        made_by = load_recipe(storage.join(out, "recipe.yaml"))
    except RayasrError:
        return  # none there, unfinished or damaged: what is good of it will be used
    if info["store_digest"] != recipe.store_digest:
        raise DataError(
            f"{out} holds a store made by another recipe: {describe_difference(made_by, recipe)}; "
            "choose another --out, or replace it with --force"
        )


@contextmanager
def _only_writer(out: str) -> Iterator[Callable[[], None]]:
    """Keep a second `prepare` out of a store; yields a check that none has come in.

    s3:// has no lease, whole objects alone appear.
    """
    if storage.is_remote(out):
        yield lambda: None
        return
    storage.make_folder(out)
    with storage.Lease(out, note) as lease:
        yield lease.check
