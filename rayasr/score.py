"""Errors of hypotheses against references: alignment, counts, rates and their intervals."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unicodedata import combining, east_asian_width

import kaldialign
import numpy as np
from numpy.typing import NDArray

from rayasr import storage
from rayasr.errors import DataError
from rayasr.text import split_units

Unit = Literal["char", "word", "mixed"]

UNIT_RULES: dict[Unit, str] = {
    "char": "characters, spaces not counted",
    "word": "words, which spaces separate",
    "mixed": "CJK characters, and words between them",
}
RATE_NAMES: dict[Unit, str] = {"char": "cer", "word": "wer", "mixed": "cer"}
BOOTSTRAP_SAMPLES = 1000
_CHUNK = 1 << 22  # draws of the bootstrap held at once
_GAP = "<gap>"  # kaldialign's filler on the side that has no unit


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Substitutions, deletions and insertions, and how many units the references have."""

    sub: int = 0
    dele: int = 0
    ins: int = 0
    reference_units: int = 0

    @property
    def errors(self) -> int:
        """All three together."""
        return self.sub + self.dele + self.ins

    @property
    def rate(self) -> float:
        """Errors per reference unit in percent; may be above 100."""
        return 100.0 * self.errors / max(self.reference_units, 1)

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(
            self.sub + other.sub,
            self.dele + other.dele,
            self.ins + other.ins,
            self.reference_units + other.reference_units,
        )


@dataclass(frozen=True, slots=True)
class UtteranceScore:
    """One utterance: its errors and its aligned units, None where one side has nothing."""

    key: str
    counts: ErrorCounts
    pairs: tuple[tuple[str | None, str | None], ...]


@dataclass(frozen=True)
class Score:
    """A test set's errors; `ci95` is a bootstrap interval of the rate, in percent."""

    unit: Unit
    counts: ErrorCounts
    ci95: tuple[float, float]
    drawn: Literal["speakers", "utterances"]
    utterances: tuple[UtteranceScore, ...]
    missing: tuple[str, ...]
    """Utterances without a hypothesis; every unit of theirs is a deletion."""

    def to_json(self) -> dict[str, Any]:
        """What result.json says of one split and mode."""
        counts = self.counts
        return {
            RATE_NAMES[self.unit]: round(counts.rate, 4),
            "errors": counts.errors,
            "reference_units": counts.reference_units,
            "sub": counts.sub,
            "del": counts.dele,
            "ins": counts.ins,
            "ci95": [round(bound, 3) for bound in self.ci95],
        }

    def sentence(self) -> str:
        """One line for a person."""
        counts, (low, high) = self.counts, self.ci95
        return (
            f"{RATE_NAMES[self.unit].upper()} {counts.rate:.2f} % ({counts.errors} errors of "
            f"{counts.reference_units}: {counts.sub} sub, {counts.dele} del, {counts.ins} ins), "
            f"95 % {low:.2f}-{high:.2f} over {self.drawn}, {len(self.utterances)} utterances"
        )


def align(
    reference: Sequence[str], hypothesis: Sequence[str]
) -> tuple[tuple[str | None, str | None], ...]:
    """Pairs of units of an alignment with the fewest errors; None: nothing on that side."""
    gap = _GAP
    while gap in reference or gap in hypothesis:
        gap += ">"
    pairs = kaldialign.align(list(reference), list(hypothesis), gap)
    return tuple((None if r == gap else r, None if h == gap else h) for r, h in pairs)


def count_errors(pairs: Iterable[tuple[str | None, str | None]]) -> ErrorCounts:
    """Errors of one alignment."""
    sub = dele = ins = units = 0
    for reference, hypothesis in pairs:
        units += reference is not None
        if reference is None:
            ins += 1
        elif hypothesis is None:
            dele += 1
        else:
            sub += reference != hypothesis
    return ErrorCounts(sub, dele, ins, units)


def score_texts(
    references: Mapping[str, str],
    hypotheses: Mapping[str, str],
    unit: Unit,
    speakers: Mapping[str, str] | None = None,
) -> Score:
    """Score texts by key. A missing hypothesis is all deletions.

    `speakers` (key to speaker): the interval then draws speakers, of which there must be two.
    Raises DataError for hypotheses without a reference and for references without a single unit.
    """
    if extra := [key for key in hypotheses if key not in references]:
        raise DataError(
            f"{_some(extra)} {'has' if len(extra) == 1 else 'have'} a hypothesis but no "
            "reference; score against the references of the same split"
        )
    scored = []
    for key, text in references.items():
        pairs = align(split_units(text, unit), split_units(hypotheses.get(key, ""), unit))
        scored.append(UtteranceScore(key, count_errors(pairs), pairs))
    counts = sum((item.counts for item in scored), ErrorCounts())
    if not counts.reference_units:
        raise DataError("the references hold no text to score against")
    groups = [(speakers or {}).get(item.key, "") for item in scored]
    by_speaker = all(groups) and len(set(groups)) > 1
    if not by_speaker:
        groups = [item.key for item in scored]
    return Score(
        unit=unit,
        counts=counts,
        ci95=bootstrap_ci95(
            np.array([item.counts.errors for item in scored]),
            np.array([item.counts.reference_units for item in scored]),
            groups,
        ),
        drawn="speakers" if by_speaker else "utterances",
        utterances=tuple(scored),
        missing=tuple(key for key in references if key not in hypotheses),
    )


def score_files(
    reference: str | Path, hypothesis: str | Path, unit: Unit, utt2spk: str | Path | None = None
) -> Score:
    """Score two Kaldi text files (`key text` a line); raises DataError."""
    speakers = read_text_file(utt2spk) if utt2spk is not None else None
    return score_texts(read_text_file(reference), read_text_file(hypothesis), unit, speakers)


def read_text_file(path: str | Path) -> dict[str, str]:
    """Texts of a Kaldi text file by key; a key alone has an empty text; raises DataError."""
    try:
        lines = storage.read_bytes(path).decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); convert it") from error
    texts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        key, *text = line.split(maxsplit=1)[:2] or [""]
        if not key:
            continue
        if key in texts:
            raise DataError(f"{path} line {number}: '{key}' is there twice; each key once")
        texts[key] = text[0].strip() if text else ""
    return texts


def write_text_file(path: str | Path, texts: Mapping[str, str]) -> None:
    """Write a Kaldi text file, in the order given; raises DataError."""
    lines = (f"{key} {text}".rstrip() + "\n" for key, text in texts.items())
    storage.write_atomic(path, "".join(lines))


def alignment_text(score: Score) -> str:
    """Every utterance's units in columns: reference, hypothesis, and S, D or I under an error."""
    blocks = []
    for item in score.utterances:
        rows: tuple[list[str], ...] = ([], [], [])
        for reference, hypothesis in item.pairs:
            cells = (reference or "*", hypothesis or "*", _mark(reference, hypothesis))
            width = max(_columns(cell) for cell in cells)
            for row, cell in zip(rows, cells, strict=True):
                row.append(cell + " " * (width - _columns(cell)))
        lines = [f"{item.key} {item.counts.errors} of {item.counts.reference_units}"]
        for name, row in zip(("ref", "hyp", "   "), rows, strict=True):
            lines.append(f"{name} {' '.join(row)}".rstrip())
        blocks.append("\n".join(line for line in lines if line) + "\n")
    return "\n".join(blocks)


def bootstrap_ci95(
    errors: NDArray[np.int64],
    units: NDArray[np.int64],
    groups: Sequence[str],
    samples: int = BOOTSTRAP_SAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of 100 x errors / units, from samples drawn with replacement.

    `errors` and `units` (N,) per utterance; groups are speakers, or each utterance its own. A
    sample draws groups, then as many utterances of each as it has: with a handful of speakers,
    drawing speakers alone would promise far too much.
    """
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(index, kind="stable")
    errors, units = errors[order], units[order]
    sizes = np.bincount(index)
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    rates: list[NDArray[np.float64]] = []
    per_chunk = max(1, _CHUNK // len(errors))
    for first in range(0, samples, per_chunk):
        shape = (min(per_chunk, samples - first), len(sizes))
        drawn = generator.integers(len(sizes), size=shape)
        counts = sizes[drawn].sum(axis=1)  # utterances of each sample
        group = np.repeat(drawn.ravel(), sizes[drawn.ravel()])
        chosen = starts[group] + generator.integers(sizes[group])
        bounds = np.cumsum(counts) - counts
        totals = np.maximum(np.add.reduceat(units[chosen], bounds), 1)
        rates.append(100.0 * np.add.reduceat(errors[chosen], bounds) / totals)
    low, high = np.percentile(np.concatenate(rates), [2.5, 97.5])
    return float(low), float(high)


def _mark(reference: str | None, hypothesis: str | None) -> str:
    if reference is None:
        return "I"
    if hypothesis is None:
        return "D"
    return "S" if reference != hypothesis else ""


def _columns(text: str) -> int:
    """Columns a text takes on a terminal; wide characters take two."""
    widths = (2 if east_asian_width(char) in "WF" else 1 for char in text if not combining(char))
    return sum(widths)


def _some(keys: Sequence[str]) -> str:
    """The first keys of a list as words."""
    shown = ", ".join(f"'{key}'" for key in keys[:3])
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
