"""WeNet's raw `data.list`: JSON lines of `key`, `wav`, `txt` and, for parts, `start` and `end`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rayasr.corpora.files import Listing, locate, read_lines
from rayasr.data.manifest import Reject, Utterance
from rayasr.errors import DataError

LOOKS_LIKE = "WeNet (data.list of JSON lines, or one in a folder per split)"


def find(path: Path) -> dict[str, Path] | None:
    """Lists by split, where there are any."""
    if path.is_file() and path.suffix == ".list":
        return {"train": path}
    if (path / "data.list").is_file():
        return {"train": path / "data.list"}
    for folder in (path, path / "data"):
        if folder.is_dir():
            lists = sorted(folder.glob("*/data.list"))
            found = {file.parent.name: file for file in lists}
            found |= {file.stem: file for file in sorted(folder.glob("*.list"))}
            if found:
                return found
    return None


def read(root: Path, found: dict[str, Path], notes: Callable[[str], None]) -> Listing:  # noqa: ARG001
    """List all utterances of these lists; raises DataError for a list of shards."""
    listing = Listing()
    for split, path in found.items():
        rows = [_parse(path, number, line) for number, line in enumerate(read_lines(path), 1)]
        places = locate([row["wav"] for row in rows], path.parent, root)
        for row, (audio, size) in zip(rows, places, strict=True):
            key = str(row["key"])
            start_s, end_s = row["start"], row["end"]
            speaker = str(row.get("speaker") or key)
            text = None if row.get("txt") is None else str(row["txt"])
            if size is None:
                reason, detail = "missing_audio", "no such file"
            elif text is None:
                reason, detail = "missing_text", f"no txt in {path.name}"
            elif not 0 <= start_s < (float("inf") if end_s is None else end_s):
                reason, detail = "bad_segment", f"{start_s} to {end_s} s"
            else:
                listing.utterances.append(
                    Utterance(key, audio, text, speaker, split, 0, start_s, end_s, size)
                )
                continue
            listing.rejects.append(Reject(key, split, audio, reason, detail, text, speaker))
    return listing


def _parse(path: Path, number: int, line: str) -> dict[str, Any]:
    """One line, its times as floats; raises DataError."""
    if not line.startswith("{"):
        raise DataError(
            f"{path}, line {number}: not a JSON object; a list of tar shards cannot be read, "
            "make the raw list (WeNet's make_raw_list.py) instead"
        )
    try:
        row: dict[str, Any] = json.loads(line)
        end = row.get("end")
        row["start"] = float(row.get("start") or 0.0)
        row["end"] = None if end is None or float(end) < 0 else float(end)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}, line {number}: {error}; correct that line") from error
    if not row.get("key") or not isinstance(row.get("wav"), str):
        raise DataError(f"{path}, line {number}: needs the fields key, wav and txt")
    return row
