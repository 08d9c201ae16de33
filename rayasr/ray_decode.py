"""Decoding by Ray Data: one task per shard of a store, whose hypotheses go to a file.

A worker process keeps its model from task to task. Tasks and not actors, because after the loss of
a node Ray Data 2.60 may wait for ever for the actor that was there; a task is run elsewhere.
"""

import functools
import pickle
import shutil
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rayasr import storage
from rayasr.checkpoint import LoadedModel, choose_device
from rayasr.config import DecodeConfig, Mode
from rayasr.data.store import Store
from rayasr.decode.parts import DecodeJob, Found, PartReport, ShardDecoder, join_parts, read_part
from rayasr.decode.recognizer import Decoding
from rayasr.decode.shards import DecodeShard, shards_of
from rayasr.decode.split import from_store, report_split
from rayasr.errors import DataError, LaunchError, RayasrError
from rayasr.logs import note, progress
from rayasr.ray_session import (
    MAX_TASK_RETRIES,
    available_cpus,
    check_shared,
    connect,
    explain_loss,
    set_up_data,
)

Notes = Callable[[str], None]


def decode_store(
    loaded: LoadedModel,
    store: Store,
    splits: Sequence[str],
    modes: Sequence[Mode],
    out: str | Path,
    *,
    workers: int,
    devices: str = "auto",
    decoding: Decoding | None = None,
    config: DecodeConfig | None = None,
    notes: Notes = note,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Decode and score splits of a store by `workers` processes under Ray; result.json's `splits`.

    Finds and leaves what `decode_split` does in one process, bit for bit. Shards that an earlier
    call has finished are kept. Raises ConfigError for devices that are not there or where another
    decodes into OUT, LaunchError for a cluster without room, DataError where a host does not see
    the model, the store or OUT, and for workers that die again and again.
    """
    config = config or loaded.recipe.decode
    bound = config.max_padded_frames
    materials = [from_store(store, name, bound) for name in splits]
    shards = [shard for name in splits for shard in shards_of(store, name, bound)]
    job = DecodeJob.of(loaded, store, out, modes, decoding or Decoding.of(loaded))
    storage.make_folder(job.parts)
    with storage.Lease(job.parts, notes) as lease:
        parts = _decode(job, shards, workers, devices, notes)
        lease.check()  # that was long enough for another to come in
        results = {}
        for material in materials:
            found = {shard: part for shard, part in parts.items() if shard.split == material.name}
            joined = join_parts(len(material.keys), job.modes, found)
            results[material.name] = report_split(loaded, material, joined, out, config)
    shutil.rmtree(job.parts, ignore_errors=True)
    return results


def _decode(
    job: DecodeJob, shards: Sequence[DecodeShard], workers: int, devices: str, notes: Notes
) -> dict[DecodeShard, Found]:
    """Hypotheses of all shards; Ray decodes those whose parts are not there."""
    with connect(num_cpus=max(available_cpus(), workers)) as cluster:
        job = replace(job, device=choose_device(devices, cluster["gpus"]))
        _check_room(job, workers, cluster)
        if cluster["nodes"] > 1:
            check_shared([job.model, job.store], job.parts, "model, store and --out")
        parts = _read_parts(job, shards)
        pending = [shard for shard in shards if shard not in parts]
        if parts:
            notes(f"{len(parts):,} of {len(shards):,} shards are there already")
        if pending:
            _run(job, pending, min(workers, len(pending)), notes)
    parts |= _read_parts(job, pending)
    lost = [shard for shard in pending if shard not in parts]
    if lost:
        raise DataError(
            f"{job.path(lost[0])} is not there after it was written; is {job.parts} on storage "
            "that all hosts share? Run the same command again to go on"
        )
    return parts


def _read_parts(job: DecodeJob, shards: Sequence[DecodeShard]) -> dict[DecodeShard, Found]:
    """The parts that are there and whole."""
    read = {shard: read_part(job.path(shard), job.modes, len(shard.utterances)) for shard in shards}
    return {shard: found for shard, found in read.items() if found is not None}


def _check_room(job: DecodeJob, workers: int, cluster: dict[str, Any]) -> None:
    """Refuse at once what Ray would wait for without end."""
    kind = "GPU" if job.device == "cuda" else "CPU"
    there = min(cluster["cpus"], cluster["gpus"]) if kind == "GPU" else cluster["cpus"]
    if there < workers:
        raise LaunchError(
            f"{workers} workers need a {kind} each, the cluster has {there}; use fewer --workers"
            f"{', or --devices cpu' if kind == 'GPU' else ''}"
        )


def _run(job: DecodeJob, pending: Sequence[DecodeShard], workers: int, notes: Notes) -> None:
    """Have `workers` processes decode the shards, and show how far they are."""
    import ray

    set_up_data()
    items = [{"shard": pickle.dumps(shard)} for shard in pending]
    with warnings.catch_warnings(action="ignore"):  # 2.60 has no other name yet for max_retries
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _shard_task,
            fn_kwargs={"job": pickle.dumps(job)},
            compute=ray.data.TaskPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=1 if job.device == "cuda" else 0,
            max_retries=MAX_TASK_RETRIES,
        )
    utterances, audio_s, started = 0, 0.0, 0.0
    try:
        with progress("decode", sum(len(shard.utterances) for shard in pending)) as line:
            for row in dataset.iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
                started = started or time.monotonic() - row["took_s"]  # when a worker was ready
                utterances += row["num_utterances"]
                audio_s += row["audio_s"]
                line.update(utterances, note=_pace(audio_s, time.monotonic() - started))
    except ray.exceptions.RayError as error:
        advice = "take fewer --workers; finished shards are kept: run the same command again"
        raise explain_loss(error, advice) from error
    notes(f"decoded {_pace(audio_s, time.monotonic() - started)} with {workers} worker(s)")


def _pace(audio_s: float, took_s: float) -> str:
    return f"{audio_s / 3600.0:.2f} h of audio, real-time factor {took_s / max(audio_s, 1e-9):.3f}"


def _shard_task(row: dict[str, Any], job: bytes) -> dict[str, Any]:
    """Runs in a Ray worker: a pickled DecodeShard in, a few numbers out; its part goes to disk."""
    try:
        report = _decoder(job)(pickle.loads(row["shard"]))
    except RayasrError as error:  # as a value: Ray would wrap it, and log its traceback
        return PartReport("", 0, 0.0, 0.0)._asdict() | {"error": pickle.dumps(error)}
    return report._asdict() | {"error": b""}


@functools.lru_cache(maxsize=1)
def _decoder(job: bytes) -> ShardDecoder:
    """This process's model and store, opened once for all of its tasks."""
    torch.set_num_threads(1)  # Ray counts one CPU per worker
    return ShardDecoder(pickle.loads(job))
