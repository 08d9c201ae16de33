"""One shard of a store: an Arrow IPC file with a few hundred utterances, memory-mapped to read.

A shard is complete or not there: it is written beside its name and renamed. Its last record batch
has no rows and carries, as metadata, what rows cannot: rejects and the sums for CMVN.
"""

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from rayasr import storage
from rayasr.config import Recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.data.manifest import Reject, Utterance, is_test
from rayasr.errors import DataError

FORMAT_VERSION = 1
ROWS_PER_BATCH = 32
"""Rows of a record batch, which bounds a writer's memory; row r is in batch r // 32."""
BUILD_AGAIN = "run `rayasr data prepare` again with --verify, which makes only what is damaged anew"

METADATA_FIELDS: list[tuple[str, pa.DataType]] = [
    ("key", pa.string()),
    ("speaker", pa.string()),
    ("text", pa.string()),
    ("corpus", pa.int16()),
    ("seconds", pa.float32()),
    ("num_samples", pa.int64()),
    ("rate", pa.int32()),
    ("channels", pa.int16()),
    ("source_crc32", pa.uint32()),
    ("frames", pa.list_(pa.int32())),
    ("crc32", pa.list_(pa.uint32())),
]


@dataclass(frozen=True)
class ShardSpec:
    """What goes into one shard; the name carries a digest of all of it."""

    name: str
    split: str
    utterances: tuple[Utterance, ...]
    """With normalised text."""
    min_frames: tuple[int, ...]
    """Per utterance, frames that the largest speed factor must leave for CTC; 0: any number."""


class Row(NamedTuple):
    """One utterance as it is written; frames, checksums and payloads per variant."""

    utterance: Utterance
    num_samples: int
    seconds: float
    rate: int
    """Of the recording, in Hz, before resampling."""
    channels: int
    source_crc32: int
    """Checksum of the resampled samples, by which `--verify` notices other audio."""
    frames: list[int]
    payloads: list[bytes]


class ShardSummary(NamedTuple):
    """A shard without its payload."""

    table: pa.Table
    """Columns of METADATA_FIELDS."""
    rejects: tuple[Reject, ...]
    cmvn: CmvnStats | None
    """Of the training split, at the speed factor nearest 1; None for other splits."""
    num_bytes: int


def shard_name(split: str, number: int, digest: str) -> str:
    """File name of a shard: readable, and different for different content."""
    readable = "".join(letter if letter.isalnum() else "_" for letter in split)
    return f"{readable}-{number:05d}-{digest}.arrow"


def is_training_shard(name: str) -> bool:
    """Whether a shard of that name is one of the splits that training reads."""
    return not is_test(name.rsplit("-", 2)[0])


def shard_digest(
    recipe: Recipe, split: str, utterances: Sequence[Utterance], min_frames: Sequence[int]
) -> str:
    """Sixteen hex digits over settings and inputs; no absolute folder, no time stamp."""
    # Test shards of any length have another name than those made when they had a limit.
    kind = f"{split} any length" if is_test(split) else split
    digest = hashlib.sha256(f"{FORMAT_VERSION} {recipe.store_digest} {kind}".encode())
    for u, frames in zip(utterances, min_frames, strict=True):
        inputs = (u.key, u.audio, u.text, u.speaker, u.corpus, u.start_s, u.end_s, u.size, frames)
        digest.update(repr(inputs).encode())
    return digest.hexdigest()[:16]


class ShardWriter:
    """Collects the rows of one shard and writes them 32 at a time; a context manager.

    On an exception nothing is left behind. Raises DataError where the disk is full or read-only.
    """

    def __init__(self, path: str, num_payloads: int, metadata: dict[str, str]) -> None:
        self._path = path
        self._num_payloads = num_payloads
        fields = METADATA_FIELDS + [
            (f"payload_{i}", pa.large_binary()) for i in range(num_payloads)
        ]
        self._schema = pa.schema(fields, metadata=metadata)
        self._rows: list[Row] = []

    def __enter__(self) -> "ShardWriter":
        try:
            if storage.is_remote(self._path):
                handle, self._partial = tempfile.mkstemp(suffix=".arrow")
                os.close(handle)
            else:
                name = f".{Path(self._path).name}.{os.getpid()}"
                self._partial = str(Path(self._path).with_name(name))
            self._file = pa.OSFile(self._partial, "wb")
        except OSError as error:
            raise storage.output_error(self._path, error) from error
        self._writer = pa.ipc.new_file(self._file, self._schema)
        return self

    def add(self, row: Row) -> None:
        """Add one utterance."""
        self._rows.append(row)
        if len(self._rows) == ROWS_PER_BATCH:
            self._flush()

    def finish(self, rejects: Sequence[Reject], cmvn: CmvnStats | None) -> None:
        """Write the summary and give the file its name."""
        self._flush()
        summary = {
            "rejects": [asdict(reject) for reject in rejects],
            "cmvn": None if cmvn is None else cmvn.to_json(),
        }
        empty = pa.record_batch([pa.array([], f.type) for f in self._schema], schema=self._schema)
        try:
            self._writer.write_batch(
                empty, custom_metadata={"summary": json.dumps(summary, ensure_ascii=False)}
            )
            self._writer.close()
            self._file.close()
            self._publish()
        except OSError as error:
            raise storage.output_error(self._path, error) from error

    def __exit__(self, *_: object) -> None:
        self._file.close()
        Path(self._partial).unlink(missing_ok=True)

    def _publish(self) -> None:
        if storage.is_remote(self._path):
            storage.copy_file(self._partial, self._path)
            return
        partial = Path(self._partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(self._path)

    def _flush(self) -> None:
        if not self._rows:
            return
        rows, self._rows = self._rows, []
        columns = [
            [row.utterance.key for row in rows],
            [row.utterance.speaker for row in rows],
            [row.utterance.text for row in rows],
            [row.utterance.corpus for row in rows],
            [row.seconds for row in rows],
            [row.num_samples for row in rows],
            [row.rate for row in rows],
            [row.channels for row in rows],
            [row.source_crc32 for row in rows],
            [row.frames for row in rows],
            [[zlib.crc32(payload) for payload in row.payloads] for row in rows],
            *([row.payloads[i] for row in rows] for i in range(self._num_payloads)),
        ]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        try:
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        except OSError as error:
            raise storage.output_error(self._path, error) from error


class Shard:
    """An open shard: rows are views of the memory map, so many can be open at little cost."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            reader = pa.ipc.open_file(pa.memory_map(path))
            self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"shard {path} is missing or damaged ({error}); {BUILD_AGAIN}"
            ) from error

    def payload(self, row: int, variant: int, crc32: int) -> memoryview:
        """Bytes of one variant of one utterance; raises DataError where the checksum differs."""
        column = len(METADATA_FIELDS) + variant
        try:
            array = self._batches[row // ROWS_PER_BATCH].column(column)
            offsets = np.frombuffer(array.buffers()[1], np.int64)
            start, end = offsets[row % ROWS_PER_BATCH], offsets[row % ROWS_PER_BATCH + 1]
            data = memoryview(array.buffers()[2])[start:end]
        except (IndexError, ValueError) as error:
            raise DataError(f"shard {self._path} has no row {row}; {BUILD_AGAIN}") from error
        if zlib.crc32(data) != crc32:
            raise DataError(f"shard {self._path} is damaged (checksum of row {row}); {BUILD_AGAIN}")
        return data


def read_summary(path: str | Path) -> ShardSummary | None:
    """What a finished shard holds besides its payload; None where it is missing or damaged."""
    system, inside = storage.filesystem(path)
    wanted = list(range(len(METADATA_FIELDS)))
    try:
        local = not storage.is_remote(path)
        source = pa.memory_map(inside) if local else system.open_input_file(inside)
        with source:
            options = pa.ipc.IpcReadOptions(included_fields=wanted)
            reader = pa.ipc.open_file(source, options=options)
            batches = [
                pa.RecordBatch.from_arrays(
                    [pa.concat_arrays([c]) for c in batch], batch.schema.names
                )
                for batch in (reader.get_batch(i) for i in range(reader.num_record_batches - 1))
            ]
            last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)[1]
            summary = json.loads(last[b"summary"])
            schema = pa.schema(METADATA_FIELDS)
            table = pa.Table.from_batches([b.cast(schema) for b in batches], schema)
            cmvn = summary["cmvn"]
            return ShardSummary(
                table,
                tuple(Reject(**reject) for reject in summary["rejects"]),
                None if cmvn is None else CmvnStats.from_json(cmvn),
                source.size(),
            )
    except (OSError, pa.ArrowException, DataError, KeyError, TypeError, ValueError):
        return None


def damaged_rows(path: str, table: pa.Table) -> Iterator[str]:
    """Keys of the rows of a shard whose payload does not fit its checksum."""
    shard = Shard(path)
    for row, (key, sums) in enumerate(
        zip(table["key"].to_pylist(), table["crc32"].to_pylist(), strict=True)
    ):
        for variant, crc32 in enumerate(sums):
            try:
                shard.payload(row, variant, crc32)
            except DataError:
                yield key
                break
