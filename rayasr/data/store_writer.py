"""A store made: what goes into which shard, and the files that make finished shards a store."""

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rayasr import storage
from rayasr.config import Recipe, dump_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.data.manifest import (
    ARCHIVE_SEPARATOR,
    REJECT_REASONS,
    Manifest,
    Reject,
    Utterance,
    is_test,
    reject,
)
from rayasr.data.shard import (
    FORMAT_VERSION,
    ShardSpec,
    ShardSummary,
    read_summary,
    shard_digest,
    shard_name,
)
from rayasr.data.store import INDEX_FIELDS, digest_of, info_digest, training_digest
from rayasr.errors import DataError
from rayasr.model_config import fewest_frames
from rayasr.text import normalize_text
from rayasr.tokenizer import Tokenizer, build_tokenizer

SHARD_FILE = re.compile(r"^\.?\w+-\d{5,}-[0-9a-f]{16}\.arrow(\.\d+)?$")
"""What shards, unfinished ones too, are called; nothing else is removed from STORE/shards."""


@dataclass(frozen=True)
class StorePlan:
    """Everything about a store that is known before any audio is read."""

    roots: tuple[str, ...]
    specs: tuple[ShardSpec, ...]
    units: dict[str, list[int]]
    """Ids of the normalised text, by key."""
    rejects: tuple[Reject, ...]
    tokenizer: Tokenizer

    @property
    def num_utterances(self) -> int:
        """Utterances that go into shards."""
        return sum(len(spec.utterances) for spec in self.specs)

    def digest(self, recipe: Recipe) -> str:
        """Sixteen hex digits over all that the finished store depends on."""
        names = [spec.name for spec in self.specs]
        rejects = sorted(map(repr, self.rejects))
        return digest_of(recipe.store_digest, self.tokenizer.units, names, rejects)

    def training_digest(self, recipe: Recipe) -> str:
        """That of the store, before it is made."""
        names = [spec.name for spec in self.specs]
        return training_digest(recipe.store_digest, self.tokenizer.units, names)


def plan_store(manifest: Manifest, recipe: Recipe) -> StorePlan:
    """Normalise text, build units from the training text, deal utterances out to shards.

    A pure function of its arguments: the same shards on any machine. Raises DataError where no
    training text is left.
    """
    rule = partial(normalize_text, config=recipe.text)
    rejects = [item.normalized(rule) for item in manifest.rejects]
    kept: list[Utterance] = []
    for original in manifest.utterances:
        utterance = replace(original, text=rule(original.text))
        if not utterance.text and not is_test(utterance.split):
            rejects.append(reject(utterance, "empty_text", "nothing is left after normalisation"))
        else:
            kept.append(utterance)
    train = [utterance.text for utterance in kept if utterance.split == "train"]
    tokenizer = build_tokenizer(train, recipe.units, recipe.seed)
    units: dict[str, list[int]] = {}
    usable: list[Utterance] = []
    for utterance in kept:
        ids = tokenizer.encode(utterance.text)
        if utterance.split == "train" and tokenizer.unk_id in ids:
            unknown = " ".join(tokenizer.unknown(utterance.text))
            rejects.append(reject(utterance, "unknown_unit", f"not among the units: {unknown}"))
            continue
        units[utterance.key] = ids
        usable.append(utterance)
    specs = tuple(_deal(usable, units, recipe, manifest.splits()))
    return StorePlan(manifest.roots, specs, units, tuple(rejects), tokenizer)


def frames_for_ctc(ids: Sequence[int], subsampling: int) -> int:
    """Fewest frames from which CTC can write these units: one per unit, one between equal ones."""
    return fewest_frames(len(ids) + sum(a == b for a, b in pairwise(ids)), subsampling)


def _deal(
    utterances: Sequence[Utterance],
    units: dict[str, list[int]],
    recipe: Recipe,
    splits: Sequence[str],
) -> Iterator[ShardSpec]:
    """Shards split by split; one packed archive stays in one shard where it fits."""
    order = {split: i for i, split in enumerate(splits)}
    ordered = sorted(
        utterances, key=lambda u: (order[u.split], u.corpus, u.audio, u.start_s, u.key)
    )
    for split, of_split in groupby(ordered, key=lambda u: u.split):
        for number, members in enumerate(_groups(of_split, recipe.store.shard_utterances)):
            subsampling = recipe.model.encoder.subsampling
            free = is_test(split)  # a test rejects nothing for its text
            frames = [0 if free else frames_for_ctc(units[u.key], subsampling) for u in members]
            digest = shard_digest(recipe, split, members, frames)
            name = shard_name(split, number, digest)
            yield ShardSpec(name, split, tuple(members), tuple(frames))


def _groups(utterances: Iterable[Utterance], size: int) -> Iterator[list[Utterance]]:
    """Lists of at most `size`; a new one begins rather than one packed archive be cut in two."""
    shard: list[Utterance] = []
    for archive, members in groupby(utterances, key=_archive):
        for utterance in (waiting := list(members)):
            full = len(shard) == size
            cut = archive[1] and utterance is waiting[0] and len(shard) + len(waiting) > size
            if shard and (full or cut):
                yield shard
                shard = []
            shard.append(utterance)
    if shard:
        yield shard


def _archive(utterance: Utterance) -> tuple[int, str]:
    archive, separator, _ = utterance.audio.partition(ARCHIVE_SEPARATOR)
    return (utterance.corpus, archive) if separator else (utterance.corpus, "")


def finished_shards(folder: str, plan: StorePlan) -> dict[str, ShardSummary]:
    """The planned shards that are there, whole and with each utterance as a row or a reject."""
    there = set(storage.list_names(folder))
    finished = {}
    for spec in plan.specs:
        if spec.name not in there:
            continue
        summary = read_summary(storage.join(folder, spec.name))
        if summary is not None and _covers(summary, spec):
            finished[spec.name] = summary
    return finished


def remove_leftovers(folder: str, plan: StorePlan | None) -> None:
    """Remove unfinished shards, and with a plan also the shards that are not in it."""
    planned = {spec.name for spec in plan.specs} if plan else set()
    for name in storage.list_names(folder):
        if SHARD_FILE.match(name) and name not in planned and (plan or name.startswith(".")):
            storage.remove(storage.join(folder, name))


def remove_shards(folder: str) -> None:
    """Remove all shards, finished or not."""
    for name in storage.list_names(folder):
        if SHARD_FILE.match(name):
            storage.remove(storage.join(folder, name))


def write_rejects(out: str, rejects: Iterable[Reject]) -> bytes:
    """Write rejects.parquet, sorted; returns its bytes."""
    rows = [asdict(item) for item in sorted(rejects, key=lambda r: (r.split, r.key, r.audio))]
    schema = pa.schema([(field.name, pa.string()) for field in fields(Reject)])
    data = _parquet(pa.Table.from_pylist(rows, schema=schema))
    storage.write_atomic(storage.join(out, "rejects.parquet"), data)
    return data


def check_rejects(out: str, rejects: Sequence[Reject], num_utterances: int, limit: float) -> None:
    """Raise DataError where more than `limit` of all utterances are rejects; the table is kept."""
    if len(rejects) <= limit * num_utterances:
        return
    counts = count_reasons(rejects)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    first = next(item for item in rejects if item.reason == next(iter(counts)))
    raise DataError(
        f"{len(rejects):,} of {num_utterances:,} utterances cannot be used ({reasons}; for example "
        f"{first.key}: {first.audio}{': ' + first.detail if first.detail else ''}), more than "
        f"store.max_reject_fraction={limit:g}; see {storage.join(out, 'rejects.parquet')}, "
        "then mend the corpus or raise that setting"
    )


def count_reasons(rejects: Iterable[Reject]) -> dict[str, int]:
    """Rejects by reason, the most frequent first."""
    counts = Counter(item.reason for item in rejects)
    return dict(sorted(counts.items(), key=lambda c: (-c[1], REJECT_REASONS.index(c[0]))))


def finish_store(
    out: str, recipe: Recipe, plan: StorePlan, shards: dict[str, ShardSummary]
) -> dict[str, Any]:
    """Write all that stands beside the shards, store.json last; returns what that says."""
    summaries = [shards[spec.name] for spec in plan.specs]
    rejects = [*plan.rejects, *(item for summary in summaries for item in summary.rejects)]
    index = _index(plan, summaries)
    if index.num_rows + len(rejects) != plan.num_utterances + len(plan.rejects):
        raise AssertionError("an utterance is neither in the index nor among the rejects")
    files = {"rejects.parquet": write_rejects(out, rejects)}
    cmvn = _combined_cmvn(summaries, recipe.features.num_mel_bins)
    contents: dict[str, bytes] = {
        "index.parquet": _parquet(index),
        "cmvn.json": json.dumps(cmvn.to_json(), indent=2).encode(),
        "recipe.yaml": dump_recipe(recipe).encode(),
    }
    for name, data in contents.items():
        storage.write_atomic(storage.join(out, name), data)
    plan.tokenizer.save(out)
    for name in ("units.txt", "bpe.model"):
        if storage.exists(storage.join(out, name)):
            contents[name] = storage.read_bytes(storage.join(out, name))
    hashes = {n: hashlib.sha256(d).hexdigest() for n, d in sorted((files | contents).items())}
    info = _info(recipe, plan, summaries, index, rejects) | {"files": hashes}
    info["digest"] = info_digest(info)
    storage.write_json(storage.join(out, "store.json"), info)
    return info


def _covers(summary: ShardSummary, spec: ShardSpec) -> bool:
    """Whether a shard accounts for each utterance of its specification once."""
    keys = [*summary.table["key"].to_pylist(), *(item.key for item in summary.rejects)]
    return sorted(keys) == sorted(utterance.key for utterance in spec.utterances)


def _index(plan: StorePlan, summaries: Sequence[ShardSummary]) -> pa.Table:
    """One row per utterance, in the order of the shards."""
    ids = pa.list_(pa.int32())
    tables = []
    for number, (spec, summary) in enumerate(zip(plan.specs, summaries, strict=True)):
        table = summary.table
        rows = table.num_rows
        added = {
            "split": pa.array([spec.split] * rows, pa.string()),
            "units": pa.array([plan.units[k] for k in table["key"].to_pylist()], ids),
            "shard": pa.array(np.full(rows, number, np.int32)),
            "row": pa.array(np.arange(rows, dtype=np.int32)),
        }
        arrays = [added[name] if name in added else table[name] for name, _ in INDEX_FIELDS]
        tables.append(pa.table(arrays, schema=pa.schema(INDEX_FIELDS)))
    return pa.concat_tables(tables).combine_chunks()


def _combined_cmvn(summaries: Iterable[ShardSummary], num_mel_bins: int) -> CmvnStats:
    """Sums over the training shards in their order, so the same bits however tasks ran."""
    total = CmvnStats.zeros(num_mel_bins)
    for summary in summaries:
        if summary.cmvn is not None:
            total = total.merge(summary.cmvn)
    return total


def _info(
    recipe: Recipe,
    plan: StorePlan,
    summaries: Sequence[ShardSummary],
    index: pa.Table,
    rejects: Sequence[Reject],
) -> dict[str, Any]:
    """What store.json says, but for its hashes."""
    seconds = index["seconds"].to_numpy().astype(np.float64)
    splits = np.array(index["split"].to_pylist(), dtype=object)
    speakers = np.array(index["speaker"].to_pylist(), dtype=object)
    corpora = index["corpus"].to_numpy()
    seen = pa.concat_tables(s.table.select(["rate", "channels"]) for s in summaries)
    return {
        "format": FORMAT_VERSION,
        "recipe": recipe.name,
        "store_digest": recipe.store_digest,
        "inputs_digest": plan.digest(recipe),
        "payload": recipe.store.payload,
        "utterances": index.num_rows,
        "hours": _hours(seconds),
        "units": plan.tokenizer.vocab_size,
        "splits": {
            split: {
                "utterances": int((splits == split).sum()),
                "hours": _hours(seconds[splits == split]),
                "speakers": len(set(speakers[splits == split].tolist())),
            }
            for split in dict.fromkeys(splits.tolist())
        },
        "corpora": [
            {"path": root, "utterances": int((corpora == i).sum())}
            for i, root in enumerate(plan.roots)
        ],
        "rejects": len(rejects),
        "rejects_by_reason": count_reasons(rejects),
        "rates": _counts(seen["rate"].to_numpy()),
        "channels": _counts(seen["channels"].to_numpy()),
        "shards": [
            {"name": spec.name, "utterances": s.table.num_rows, "bytes": s.num_bytes}
            for spec, s in zip(plan.specs, summaries, strict=True)
        ],
    }


def _hours(seconds: NDArray[np.float64]) -> float:
    return round(float(seconds.sum()) / 3600.0, 6)


def _counts(values: NDArray[Any]) -> dict[str, int]:
    """How often each value is there, the most frequent first."""
    return {str(value): count for value, count in Counter(values.tolist()).most_common()}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()
