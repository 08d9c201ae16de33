"""What workers leave of a decoding: a file for each shard, kept until all of them are there.

OUT/.parts/<split>-<number>-<digest>.json; the digest covers all that its hypotheses depend on, so
a rerun takes what is there and other settings take nothing of it.
"""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from rayasr import storage
from rayasr.checkpoint import MODEL_FILE, LoadedModel, load_model, model_digest
from rayasr.config import Mode
from rayasr.data.store import Store, digest_of
from rayasr.decode.hypothesis import Hypothesis
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.decode.shards import DecodeShard
from rayasr.errors import CheckpointError, DataError

FORMAT_VERSION = 1
PARTS_FOLDER = ".parts"
DECODES = (MODEL_FILE, "recipe.yaml", "cmvn.json")
"""Of a model folder, what results depend on."""

Found = dict[Mode, list[Hypothesis]]
"""By mode, a hypothesis for each utterance."""


@dataclass(frozen=True)
class DecodeJob:
    """What all shards of a decoding have in common; sent once to every worker."""

    model: str
    """Absolute folder."""
    model_digest: str
    store: str
    store_digest: str
    parts: str
    """Folder of the parts."""
    modes: tuple[Mode, ...]
    decoding: Decoding
    device: str = "cpu"
    """`cpu` or `cuda`, which do not find the same to the last bit."""

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        store: Store,
        out: str | Path,
        modes: Sequence[Mode],
        decoding: Decoding,
    ) -> "DecodeJob":
        """The job of decoding a store into OUT with a model folder, on CPUs."""
        model = loaded.path.absolute()
        return cls(
            str(model),
            model_digest(model, DECODES),
            str(store.path),
            store.info["digest"],
            str(Path(out).absolute() / PARTS_FOLDER),
            tuple(modes),
            decoding,
        )

    def path(self, shard: DecodeShard) -> Path:
        """Where a shard's part belongs."""
        digest = digest_of(
            FORMAT_VERSION,
            self.model_digest,
            self.store_digest,
            sorted(self.modes),
            asdict(self.decoding),
            self.device,
            shard.split,
            shard.batches,
        )
        return Path(self.parts) / f"{shard.split}-{shard.number:05d}-{digest}.json"


class PartReport(NamedTuple):
    """What a worker says back of a shard."""

    name: str
    num_utterances: int
    audio_s: float
    took_s: float


class ShardDecoder:
    """Decodes shards with one model and one store, which are opened at the first of them."""

    def __init__(self, job: DecodeJob) -> None:
        self._job = job

    def __call__(self, shard: DecodeShard) -> PartReport:
        """Decode a shard and leave its part, unless that is there.

        Raises CheckpointError or DataError for a model or a store that is not the job's.
        """
        path, rows = self._job.path(shard), shard.utterances
        audio_s = float(self._store.split(shard.split).seconds[rows].sum())
        recognizer, started = self._recognizer, time.monotonic()
        if read_part(path, self._job.modes, len(rows)) is None:
            write_part(path, self._decode(recognizer, shard))
        return PartReport(path.name, len(rows), audio_s, time.monotonic() - started)

    def _decode(self, recognizer: Recognizer, shard: DecodeShard) -> Found:
        found: Found = {mode: [] for mode in self._job.modes}
        for batch in shard.batches:
            features = [self._store.features(shard.split, i) for i in batch]
            hypotheses = recognizer.decode_batch(features, self._job.modes).hypotheses
            for mode, ours in found.items():
                ours += hypotheses[mode]
        return found

    @cached_property
    def _store(self) -> Store:
        store = Store.open(self._job.store)
        if store.info["digest"] != self._job.store_digest:
            raise DataError(_other("store", self._job.store))
        return store

    @cached_property
    def _recognizer(self) -> Recognizer:
        if model_digest(self._job.model, DECODES) != self._job.model_digest:
            raise CheckpointError(_other("model", self._job.model))
        return Recognizer(load_model(self._job.model, self._job.device), self._job.decoding)


def write_part(path: Path, found: Found) -> None:
    """Write a shard's hypotheses, whole or not at all; raises DataError."""
    rows = {mode: [asdict(item) for item in hypotheses] for mode, hypotheses in found.items()}
    storage.write_atomic(path, json.dumps(rows))


def read_part(path: Path, modes: Iterable[Mode], num_utterances: int) -> Found | None:
    """A shard's hypotheses; None where its part is missing or damaged."""
    try:
        rows = json.loads(path.read_bytes())
        found = {mode: [_hypothesis(row) for row in rows[mode]] for mode in modes}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    whole = all(len(hypotheses) == num_utterances for hypotheses in found.values())
    return found if whole else None


def join_parts(
    num_utterances: int, modes: Iterable[Mode], parts: Mapping[DecodeShard, Found]
) -> Found:
    """The hypotheses of a split in its order; those of no part, rejects, are empty."""
    nothing = Hypothesis((), 0.0, ())
    joined: Found = {mode: [nothing] * num_utterances for mode in modes}
    for shard, found in parts.items():
        for mode, hypotheses in joined.items():
            for i, hypothesis in zip(shard.utterances, found[mode], strict=True):
                hypotheses[i] = hypothesis
    return joined


def _hypothesis(row: dict[str, object]) -> Hypothesis:
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    return Hypothesis(**values)  # type: ignore[arg-type]  # as `asdict` took it apart


def _other(what: str, path: str) -> str:
    return (
        f"{path} is not the {what} that this decoding began with, here or on the host that it is "
        "decoded on; do not change it meanwhile, and keep it on storage that all hosts share"
    )
