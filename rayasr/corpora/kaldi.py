"""Kaldi folders: `wav.scp`, `text`, `utt2spk` and, for parts of recordings, `segments`.

Either one folder, which is then all training data, or one folder per split inside a folder.
"""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import NamedTuple

from rayasr.corpora.files import Listing, locate, read_lines, read_pairs, read_texts
from rayasr.data.manifest import Reject, Utterance
from rayasr.errors import DataError

LOOKS_LIKE = "Kaldi (wav.scp and text, or one such folder per split)"

CONVERT = (
    "commands are never run: run them once yourself, write their output to wav or flac files "
    "and list those in wav.scp"
)


class Entry(NamedTuple):
    """One utterance: a recording's name in wav.scp, or a part of it."""

    key: str
    recording: str
    start_s: float
    end_s: float | None


def find(path: Path) -> dict[str, Path] | None:
    """Folders by split, where there are any with a wav.scp."""
    if (path / "wav.scp").is_file():
        return {"train": path}
    for folder in (path, path / "data"):
        if folder.is_dir():
            found = {file.parent.name: file.parent for file in sorted(folder.glob("*/wav.scp"))}
            if found:
                return found
    return None


def read(root: Path, found: dict[str, Path], notes: Callable[[str], None]) -> Listing:
    """List all utterances of these folders; raises DataError where wav.scp has only commands."""
    listing = Listing()
    for split, folder in found.items():
        _read_split(root, split, folder, listing, notes)
    return listing


def _read_split(
    root: Path, split: str, folder: Path, listing: Listing, notes: Callable[[str], None]
) -> None:
    if not (folder / "text").is_file():
        raise DataError(
            f"{folder} has a wav.scp but no text; write {folder / 'text'} with lines `KEY WORDS…`"
        )
    texts = read_texts(folder / "text", split, listing)
    has_speakers = (folder / "utt2spk").is_file()
    speakers = dict(read_pairs(folder / "utt2spk")) if has_speakers else {}
    audio, commands = _read_recordings(root, split, folder, listing, notes)
    entries, bad_segments = _read_segments(folder)
    if entries is None:
        entries = [Entry(key, key, 0.0, None) for key in (*audio, *commands)]
    for entry in entries:
        path, size = audio.get(entry.recording, ("", None))
        text = texts.pop(entry.key, None)
        speaker = speakers.get(entry.key) or entry.key
        if entry.recording in commands:
            reason, detail = "command_in_wav_scp", CONVERT
        elif size is None:
            reason = "missing_audio"
            detail = "no such file" if path else f"wav.scp has no recording {entry.recording}"
        elif text is None:
            reason, detail = "missing_text", f"no line for it in {folder.name}/text"
        else:
            times = entry.start_s, entry.end_s
            listing.utterances.append(
                Utterance(entry.key, path, text, speaker, split, 0, *times, size)
            )
            continue
        listing.rejects.append(Reject(entry.key, split, path, reason, detail, text, speaker))
    for key, detail in bad_segments.items():
        known = texts.pop(key, None), speakers.get(key) or key
        listing.rejects.append(Reject(key, split, "", "bad_segment", detail, *known))
    for key in texts:
        listing.rejects.append(Reject(key, split, "", "missing_audio", "only in text"))
    listing.rejects.sort(key=lambda item: item.key)


def _read_recordings(
    root: Path, split: str, folder: Path, listing: Listing, notes: Callable[[str], None]
) -> tuple[dict[str, tuple[str, int | None]], list[str]]:
    """Path and size (None: no such file) by name of recording, and the names that are commands."""
    scp = folder / "wav.scp"
    pairs = read_pairs(scp)
    commands = [key for key, value in pairs if "|" in (value[:1], value[-1:])]
    if pairs and len(commands) == len(pairs):
        raise DataError(f"{scp} lists only commands such as '{pairs[0][1]}'; {CONVERT}")
    if commands:
        notes(f"{scp} has {len(commands)} commands; {CONVERT}")
    files = [(key, value) for key, value in pairs if "|" not in (value[:1], value[-1:])]
    audio: dict[str, tuple[str, int | None]] = {}
    for (key, _), place in zip(
        files, locate([name for _, name in files], folder, root), strict=True
    ):
        if audio.setdefault(key, place) is not place:
            detail = "more than one line in wav.scp"
            listing.rejects.append(Reject(key, split, place[0], "duplicate_key", detail))
    return audio, commands


def _read_segments(folder: Path) -> tuple[list[Entry] | None, dict[str, str]]:
    """The utterances of `segments`, None where there is no such file; and bad lines by key."""
    path = folder / "segments"
    if not path.is_file():
        return None, {}
    entries = []
    bad: dict[str, str] = {}
    for line in read_lines(path):
        try:
            key, recording, start, end = line.split()
            # Kaldi writes -1 for the end of the recording.
            entry = Entry(key, recording, float(start), None if end == "-1" else float(end))
            end_s = inf if entry.end_s is None else entry.end_s
            good = 0 <= entry.start_s < end_s and (entry.end_s is None or end_s < inf)
        except ValueError:
            key, good = line.split()[0], False
        if good:
            entries.append(entry)
        else:
            bad[key] = f"segments: '{line}'"
    return entries, bad
