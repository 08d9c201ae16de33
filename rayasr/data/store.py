"""A finished store, read: lengths and texts of each split in columns, features by memory map.

STORE/shards/<split>-<number>-<digest>.arrow   payloads, see shard.py
STORE/index.parquet rejects.parquet            one row per utterance of the corpus, in either
STORE/cmvn.json units.txt [bpe.model]          of the training split
STORE/recipe.yaml store.json                   store.json comes last and has the others' hashes
"""

import hashlib
import io
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayasr import storage
from rayasr.config import Recipe, load_recipe
from rayasr.data.audio import perturb_speed, perturbed_length
from rayasr.data.cmvn import CmvnStats
from rayasr.data.fbank import Fbank, num_frames
from rayasr.data.manifest import Reject
from rayasr.data.shard import (
    FORMAT_VERSION,
    Shard,
    damaged_rows,
    is_training_shard,
    read_summary,
)
from rayasr.errors import DataError
from rayasr.tokenizer import Tokenizer, build_tokenizer

MAX_OPEN_SHARDS = 256
"""Each open shard holds a file descriptor; the usual limit is 1,024 a process."""

INDEX_FIELDS: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("split", pa.string()),
    ("speaker", pa.string()),
    ("text", pa.string()),
    ("units", pa.list_(pa.int32())),
    ("corpus", pa.int16()),
    ("seconds", pa.float32()),
    ("num_samples", pa.int64()),
    ("frames", pa.list_(pa.int32())),
    ("crc32", pa.list_(pa.uint32())),
    ("shard", pa.int32()),
    ("row", pa.int32()),
]


@dataclass(frozen=True)
class Split:
    """The utterances of a split in columns; position i is the utterance everywhere."""

    name: str
    keys: Sequence[str]
    texts: Sequence[str]
    """Normalised."""
    speakers: NDArray[np.int32]
    """Positions in speaker_names."""
    speaker_names: tuple[str, ...]
    corpus: NDArray[np.int16]
    """Positions in the recipe's corpora."""
    units: list[NDArray[np.int32]]
    num_units: NDArray[np.int32]
    frames: NDArray[np.int32]
    """(N, S): frames at each speed factor; S is 1 but for the training split."""
    seconds: NDArray[np.float32]
    shards: NDArray[np.int32]
    """Positions in store.json's shards."""
    rows: NDArray[np.int32]
    crc32: NDArray[np.uint32]
    """(N, payload variants)."""

    def __len__(self) -> int:
        return len(self.keys)


class Store:
    """A finished store on a local or mounted path; cheap to open and safe to use from threads."""

    def __init__(self, path: Path, info: dict[str, Any], recipe: Recipe, index: pa.Table) -> None:
        self.path = path
        self.info = info
        """What store.json says."""
        self.recipe = recipe
        self._index = index
        self._splits: dict[str, Split] = {}
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path, *, verify: bool = False) -> "Store":
        """Open a store; `verify` also reads all payloads against their checksums.

        Raises DataError for one that is missing, unfinished or damaged.
        """
        if storage.is_remote(path):
            raise DataError(f"{path} is not a local folder; copy the store to this machine first")
        folder = Path(path).absolute()
        info = read_info(folder)
        for name, digest in info["files"].items():
            file = folder / name
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                raise DataError(_damaged(file))
        index = _read_table(folder / "index.parquet")
        store = cls(folder, info, load_recipe(folder / "recipe.yaml"), index)
        for shard in info["shards"]:
            file = folder / "shards" / shard["name"]
            if not file.is_file() or file.stat().st_size != shard["bytes"]:
                raise DataError(_damaged(file))
        if verify:
            store.check_payloads()
        return store

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The store's units."""
        return Tokenizer.load(self.path)

    @cached_property
    def cmvn(self) -> CmvnStats:
        """Statistics of the training split."""
        return CmvnStats.from_json(storage.read_json(self.path / "cmvn.json"))

    @cached_property
    def training_digest(self) -> str:
        """Sixteen hex digits over what training reads; other test recordings leave it as it is."""
        names = [shard["name"] for shard in self.info["shards"]]
        return training_digest(self.info["store_digest"], self.tokenizer.units, names)

    @cached_property
    def rejects(self) -> tuple[Reject, ...]:
        """What was left out, and why."""
        table = _read_table(self.path / "rejects.parquet")
        return tuple(Reject(**row) for row in table.to_pylist())

    def for_recipe(self, recipe: Recipe) -> "Store":
        """This store under another recipe of the same features, whose speeds and dither it takes.

        Only a store of samples can vary those while training. Raises DataError as check_recipe.
        """
        self.check_recipe(recipe)
        return Store(self.path, self.info, recipe, self._index)

    def check_recipe(self, recipe: Recipe) -> None:
        """Raise DataError where a recipe needs other features or units, naming what differs.

        A units.file that is not there is not missed: the store has its own copy.
        """
        if recipe.store_digest != self.info["store_digest"]:
            raise DataError(
                f"store {self.path} was made by another recipe: "
                f"{describe_difference(self.recipe, recipe)}; prepare another store, "
                "or use the recipe in its recipe.yaml"
            )
        file = recipe.units.file
        given = file is not None and Path(file).is_file()
        if given and build_tokenizer((), recipe.units) != self.tokenizer:
            raise DataError(f"store {self.path} has other units than {file}; prepare it again")

    def split(self, name: str) -> Split:
        """A split's columns; raises DataError for one the store lacks."""
        if name not in self._splits:
            if name not in self.info["splits"]:
                there = ", ".join(self.info["splits"]) or "none"
                raise DataError(f"store {self.path} has no split '{name}'; it has {there}")
            rows = self._index.filter(pa.compute.equal(self._index["split"], name))
            self._splits[name] = self._columns(name, rows)
        return self._splits[name]

    def features(
        self,
        split: str,
        i: int,
        speed: int = 0,
        *,
        dither: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Fbank float32 (frames, F) of utterance i at the split's speed factor number `speed`.

        `dither` counts for a store of samples alone; stored features have theirs frozen in. Raises
        DataError for a damaged shard.
        """
        if self.info["payload"] == "pcm":
            samples = self.samples(split, i)
            factor = self.recipe.speeds(split)[speed]
            rate = self.recipe.features.sample_rate
            varied = samples if factor == 1.0 else perturb_speed(samples, rate, factor)
            return self._fbank(varied, dither=dither, generator=generator)
        values = np.frombuffer(self._payload(split, i, speed), "<f2").astype(np.float32)
        return torch.from_numpy(values.reshape(-1, self.recipe.features.num_mel_bins))

    def samples(self, split: str, i: int) -> Tensor:
        """Samples of utterance i, float32 (N,) in [-1, 1]; a store of features has none."""
        if self.info["payload"] != "pcm":
            raise DataError(f"store {self.path} holds fbank, no samples; set store.payload: pcm")
        values = np.frombuffer(self._payload(split, i, 0), "<i2").astype(np.float32)
        return torch.from_numpy(values / np.float32(32768.0))

    def check_payloads(self) -> None:
        """Read every payload; raises DataError naming the first damaged shard."""
        for shard in self.info["shards"]:
            path = self.path / "shards" / shard["name"]
            summary = read_summary(path)
            if summary is None or any(damaged_rows(str(path), summary.table)):
                raise DataError(_damaged(path))

    @cached_property
    def _fbank(self) -> Fbank:
        return Fbank(self.recipe.features)

    def _payload(self, split: str, i: int, variant: int) -> memoryview:
        columns = self.split(split)
        shard = self._shard(int(columns.shards[i]))
        return shard.payload(int(columns.rows[i]), variant, int(columns.crc32[i, variant]))

    def _shard(self, number: int) -> Shard:
        with self._lock:
            if number not in self._shards:
                name = self.info["shards"][number]["name"]
                self._shards[number] = Shard(str(self.path / "shards" / name))
                if len(self._shards) > MAX_OPEN_SHARDS:
                    self._shards.popitem(last=False)
            self._shards.move_to_end(number)
            return self._shards[number]

    def _columns(self, name: str, rows: pa.Table) -> Split:
        """A split of the index as numpy columns."""
        speakers = rows["speaker"].combine_chunks().dictionary_encode()
        units = rows["units"].combine_chunks()
        offsets = units.offsets.to_numpy()
        flat = units.values.to_numpy()
        pieces = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        return Split(
            name,
            keys=rows["key"].to_pylist(),
            texts=rows["text"].to_pylist(),
            speakers=speakers.indices.to_numpy(),
            speaker_names=tuple(speakers.dictionary.to_pylist()),
            corpus=rows["corpus"].to_numpy(),
            units=[flat[start:end] for start, end in pieces],
            num_units=np.diff(offsets).astype(np.int32),
            frames=self._frames(name, rows),
            seconds=rows["seconds"].to_numpy(),
            shards=rows["shard"].to_numpy(),
            rows=rows["row"].to_numpy(),
            crc32=_matrix(rows["crc32"]),
        )

    def _frames(self, name: str, rows: pa.Table) -> NDArray[np.int32]:
        """(N, S) as stored, or for samples what this recipe's speed factors make of them."""
        if self.info["payload"] != "pcm":
            return _matrix(rows["frames"]).astype(np.int32)
        features = self.recipe.features
        num_samples = rows["num_samples"].to_numpy()
        return np.stack(
            [
                num_frames(perturbed_length(num_samples, features.sample_rate, speed), features)
                for speed in self.recipe.speeds(name)
            ],
            axis=1,
        ).astype(np.int32)


def read_info(folder: str | Path) -> dict[str, Any]:
    """store.json of a finished store; raises DataError where there is none or it is damaged."""
    path = storage.join(folder, "store.json")
    if not storage.exists(path):
        if storage.exists(storage.join(folder, "shards")):
            raise DataError(
                f"store {folder} is not finished; run the same `rayasr data prepare` again, "
                "it goes on where it stopped"
            )
        raise DataError(
            f"there is no store at {folder}; "
            "make one by `rayasr data prepare RECIPE --corpus DIR --out STORE`"
        )
    try:
        info = storage.read_json(path)
    except DataError as error:
        raise DataError(_damaged(path)) from error
    if not isinstance(info, dict) or info.get("digest") != info_digest(info):
        raise DataError(_damaged(path))
    if info["format"] != FORMAT_VERSION:
        raise DataError(
            f"store {folder} has format {info['format']}, this rayasr reads {FORMAT_VERSION}; "
            "prepare it again"
        )
    return info


def info_digest(info: dict[str, Any]) -> str:
    """Digest of everything else in store.json."""
    rest = {key: value for key, value in info.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def training_digest(store_digest: str, units: Sequence[str], shards: Iterable[str]) -> str:
    """`Store.training_digest` of a store with these settings, units and shards."""
    return digest_of(store_digest, list(units), [n for n in shards if is_training_shard(n)])


def digest_of(*parts: Any) -> str:
    """Sixteen hex digits over values that JSON knows."""
    text = json.dumps(parts, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def describe_difference(old: Recipe, new: Recipe) -> str:
    """The settings a store depends on in which two recipes differ: `text.case keep, now lower`."""
    sections = ("text", "units", "features", "store")
    before, after = (_flatten(r.model_dump(mode="json", include=set(sections))) for r in (old, new))
    for values, recipe in ((before, old), (after, new)):
        del values["store.max_reject_fraction"]
        values["units.file"] = values["units.file"] and "given"
        values["augment.speeds"] = list(recipe.augment.speeds)
        values["model.encoder.subsampling"] = recipe.model.encoder.subsampling
    changed = [
        f"{key} {before.get(key)}, now {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    return "; ".join(changed) or "settings of another version of rayasr"


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column of lists of one length as (N, length); (0, 1) where there are no rows."""
    lists = column.combine_chunks()
    values: NDArray[Any] = lists.flatten().to_numpy()
    return values.reshape(len(lists), -1) if len(lists) else values.reshape(0, 1)


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(storage.read_bytes(path)))
    except (pa.ArrowException, OSError) as error:
        raise DataError(_damaged(path)) from error


def _damaged(path: str | Path) -> str:
    return (
        f"{path} is damaged or missing; run the same `rayasr data prepare` again with --verify, "
        "which makes only what is damaged anew"
    )
