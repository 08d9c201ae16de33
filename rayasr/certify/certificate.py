"""certificate.json: what an export was tried in, what came out, and whether it may leave."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rayasr import storage
from rayasr.certify.folder import changed_files
from rayasr.config import Mode
from rayasr.errors import CheckpointError, RayasrError
from rayasr.export.info import CERTIFICATE_FILE, Precision
from rayasr.score import Unit


@dataclass(frozen=True, slots=True)
class Outcome:
    """One decoding of the whole split."""

    rate: float
    """CER or WER in percent."""
    errors: int
    reference_units: int
    real_time_factor: float
    """CPU seconds of one thread per second of audio, features included."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What the checkpoint itself makes of the split in one mode and context."""

    mode: Mode
    chunk_size: int
    left_chunks: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Row:
    """One model in one runtime and context, beside the checkpoint in the same mode and context."""

    model: str
    runtime: str
    version: str
    front_end: str
    precision: Precision
    mode: Mode
    chunk_size: int
    """Encoder frames; -1: full context."""
    left_chunks: int
    """-1: all."""
    size_bytes: int
    outcome: Outcome
    checkpoint: Outcome
    agreeing: int
    """Utterances in which both have the same text."""
    utterances: int
    largest_difference: float | None
    """Of a log-probability from the checkpoint's on the probe; None: the runtime shows none."""
    faults: tuple[str, ...]

    @property
    def loss(self) -> float:
        """Points of the error rate that the export loses; negative: wins."""
        return self.outcome.rate - self.checkpoint.rate

    @property
    def name(self) -> str:
        """For a person."""
        context = context_name(self.chunk_size, self.left_chunks)
        return f"{self.model} in {self.runtime} ({context})"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What `rayasr certify` found; it is worth something only while `files` are what they were."""

    folder: str
    source: str
    """The model folder that it was compared with."""
    default_mode: Mode
    corpus: str
    split: str
    utterances: int
    unit: Unit
    text_rule: str
    max_loss: float
    """Points of the error rate."""
    checkpoint: tuple[Reference, ...]
    rows: tuple[Row, ...]
    refused: tuple[str, ...]
    """Runtimes that were not tried, and why."""
    faults: tuple[str, ...]
    """Of the folder as a whole."""
    advice: str
    """What to do about a failure; '' where there is none."""
    files: dict[str, dict[str, Any]]
    """Bytes and sha256 by name."""
    versions: dict[str, str]
    made_at: str
    """UTC."""

    @property
    def failures(self) -> list[str]:
        """Everything that is wrong, in words."""
        return [*self.faults, *(f"{row.name} {fault}" for row in self.rows for fault in row.faults)]

    @property
    def passed(self) -> bool:
        """Whether the export may leave."""
        return bool(self.rows) and not self.failures

    def require_passed(self, folder: Path) -> None:
        """Raises CheckpointError where the export in a folder must not leave."""
        if not self.passed:
            first, *more = self.failures or ["nothing was tried"]
            others = f" and {len(more)} more" if more else ""
            raise CheckpointError(
                f"{folder} failed its certificate: {first}{others}; {self.advice}"
            )
        if changes := changed_files(folder, self.files):
            raise CheckpointError(
                f"{folder} is not what was certified ({', '.join(changes)}); certify it again"
            )

    def to_json(self) -> dict[str, Any]:
        """What certificate.json says."""
        verdicts = {True: "passed", False: "failed"}
        values = asdict(self)
        for item, row in zip(values["rows"], self.rows, strict=True):
            item |= {"loss": round(row.loss, 4), "verdict": verdicts[not row.faults]}
        return {"verdict": verdicts[self.passed], **values}


def write_certificate(folder: Path, certificate: Certificate) -> None:
    """Write certificate.json; raises DataError where the folder is read-only or full."""
    storage.write_json(folder / CERTIFICATE_FILE, certificate.to_json())


def read_certificate(folder: str | Path) -> Certificate:
    """What `write_certificate` wrote; raises CheckpointError where it is missing or damaged."""
    path = Path(folder) / CERTIFICATE_FILE
    if not path.exists():
        raise CheckpointError(
            f"{folder} has no {CERTIFICATE_FILE}; `rayasr certify {folder} --corpus DIR` makes one"
        )
    try:
        values = storage.read_json(path)
        del values["verdict"]
        rows = tuple(_read_row(item) for item in values["rows"])
        references = tuple(
            Reference(**(item | {"outcome": Outcome(**item["outcome"])}))
            for item in values["checkpoint"]
        )
        lists = {name: tuple(values[name]) for name in ("refused", "faults")}
        return Certificate(**(values | lists | {"rows": rows, "checkpoint": references}))
    except (RayasrError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); certify again") from error


def _read_row(values: dict[str, Any]) -> Row:
    kept = {name: value for name, value in values.items() if name not in ("loss", "verdict")}
    outcomes = {name: Outcome(**values[name]) for name in ("outcome", "checkpoint")}
    return Row(**(kept | outcomes | {"faults": tuple(values["faults"])}))


def context_name(chunk_size: int, left_chunks: int) -> str:
    """A context in words: `full context`, `chunk 16, left 4`."""
    if chunk_size <= 0:
        return "full context"
    return f"chunk {chunk_size}, left {'all' if left_chunks < 0 else left_chunks}"
