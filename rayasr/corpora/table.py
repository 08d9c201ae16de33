"""Tables: CSV, TSV or JSON lines with `audio` and `text`, under NeMo's names too.

Optional columns: `key`, `speaker`, `split`, `offset` and `duration` in seconds. Where there is no
`split` the file's name says it (`train.csv`, `dev_manifest.json`), else all is training data.
"""

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

from rayasr.corpora.files import Listing, locate, read_lines
from rayasr.data.manifest import Reject, Utterance
from rayasr.errors import DataError

LOOKS_LIKE = "table (.csv, .tsv or .jsonl with audio and text, or NeMo's audio_filepath and text)"

NAMES = {
    "audio": ("audio", "audio_filepath", "audio_path", "path", "wav", "file", "file_name"),
    "text": ("text", "txt", "sentence", "transcript", "transcription"),
    "key": ("key", "id", "utt_id"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "split": ("split",),
    "start": ("offset", "start"),
    "duration": ("duration",),
}
"""Columns by meaning, the first name found counts."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json")


def find(path: Path) -> list[Path] | None:
    """Table files that have columns for audio and text."""
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in files if file.suffix in SUFFIXES and _is_table(file)] or None


def read(root: Path, found: list[Path], notes: Callable[[str], None]) -> Listing:  # noqa: ARG001
    """List all utterances of these tables."""
    listing = Listing()
    for path in found:
        rows = list(_rows(path))
        places = locate([row["audio"] for row in rows], path.parent, root)
        for row, (audio, size) in zip(rows, places, strict=True):
            _add(listing, path, row, audio, size)
    return listing


def _add(listing: Listing, path: Path, row: dict[str, Any], audio: str, size: int | None) -> None:
    split = str(row.get("split") or split_of(path.stem))
    start_s, end_s = row["start_s"], row["end_s"]
    key = str(row.get("key") or key_of(audio, start_s if end_s is not None else 0.0))
    speaker = str(row.get("speaker") or key)
    text = None if row.get("text") is None else str(row["text"])
    if size is None:
        reason, detail = "missing_audio", "no such file"
    elif text is None:
        reason, detail = "missing_text", f"no text in {path.name}"
    elif not 0 <= start_s < (float("inf") if end_s is None else end_s):
        reason, detail = "bad_segment", f"{start_s} to {end_s} s"
    else:
        listing.utterances.append(
            Utterance(key, audio, text, speaker, split, 0, start_s, end_s, size)
        )
        return
    listing.rejects.append(Reject(key, split, audio, reason, detail, text, speaker))


def split_of(stem: str) -> str:
    """Split that a file name speaks of: `train`, `dev` or `test`; training data where none."""
    for word in re.split(r"[^a-z]+", stem.lower()):
        if word in ("dev", "valid", "validation", "val"):
            return "dev"
        if word in ("test", "eval"):
            return "test"
    return "train"


def key_of(audio: str, start_s: float = 0.0) -> str:
    """A key made from a path: without suffix and white space, with the start of a part in ms."""
    path = PurePath(audio)
    parts = path.with_suffix("").parts[-3:] if path.is_absolute() else path.with_suffix("").parts
    key = re.sub(r"\s+", "_", "-".join(part for part in parts if part not in ("/", "..")))
    return f"{key}-{round(start_s * 1000):07d}" if start_s else key


def _is_table(path: Path) -> bool:
    try:
        first = next(_raw_rows(path), None)
    except DataError:
        return False
    return first is not None and all(_pick(first, name)[0] for name in ("audio", "text"))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows with our names, `start_s` and `end_s`; raises DataError naming the row."""
    for number, raw in enumerate(_raw_rows(path), 1):
        row = {name: _pick(raw, name)[1] for name in NAMES}
        if not isinstance(row["audio"], str) or not row["audio"]:
            raise DataError(f"{path}, row {number}: no audio; columns are {', '.join(raw)}")
        try:
            row["start_s"] = float(row["start"] or 0.0)
            # NeMo's duration alone only repeats how long the file is.
            is_part = row["start"] not in (None, "") and row["duration"] not in (None, "")
            row["end_s"] = row["start_s"] + float(row["duration"]) if is_part else None
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, row {number}: {error}; times are in seconds") from error
        yield row


def _raw_rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix in (".csv", ".tsv"):
        dialect = "excel" if path.suffix == ".csv" else "excel-tab"
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for row in csv.DictReader(file, dialect=dialect):
                    yield {key: value for key, value in row.items() if key is not None}
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"cannot read {path}: {error}; it must be UTF-8 with a header"
            ) from error
        return
    for number, line in enumerate(read_lines(path), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: not a JSON object")
        yield row


def _pick(row: dict[str, Any], name: str) -> tuple[bool, Any]:
    """Whether the row has a column of that meaning, and its value."""
    for candidate in NAMES[name]:
        if candidate in row:
            return True, row[candidate]
    return False, None
