"""LibriSpeech's layout: `PART/SPEAKER/CHAPTER/KEY.flac` with `SPEAKER-CHAPTER.trans.txt` beside."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rayasr.corpora.files import AUDIO_SUFFIXES, Listing, list_files, read_texts
from rayasr.data.manifest import Reject, Utterance

LOOKS_LIKE = "LibriSpeech (PART/SPEAKER/CHAPTER/*.trans.txt)"

TRANSCRIPT_SUFFIX = ".trans.txt"

SPLITS = {"test-clean": "test"}
"""Parts whose split is not the first word of their name; `test-other` stays a split of its own."""


def find(path: Path) -> Path | None:
    """The folder that holds the parts."""
    for folder in (path / "LibriSpeech", path):
        if folder.is_dir() and next(folder.glob(f"*/*/*/*{TRANSCRIPT_SUFFIX}"), None):
            return folder
    return None


def read(root: Path, found: Path, notes: Callable[[str], None]) -> Listing:
    """List all utterances under FOUND; train-* become train, dev-* dev, test-clean test."""
    prefix = found.relative_to(root).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    files = list_files(found, AUDIO_SUFFIXES | {".txt"})
    listing = Listing()
    texts: dict[str, tuple[str, str]] = {}  # (text, split) by key
    for name in files:
        if name.endswith(TRANSCRIPT_SUFFIX):
            split = split_of(name)
            for key, text in read_texts(found / name, split, listing).items():
                texts.setdefault(key, (text, split))
    for name, size in files.items():
        path = PurePosixPath(name)
        if path.suffix == ".txt":
            continue
        split = split_of(name)
        if path.stem not in texts:
            detail = f"not in a *{TRANSCRIPT_SUFFIX} of its folder"
            listing.rejects.append(Reject(path.stem, split, prefix + name, "missing_text", detail))
        else:
            speaker = path.stem.split("-")[0]
            listing.utterances.append(
                Utterance(path.stem, prefix + name, texts[path.stem][0], speaker, split, size=size)
            )
    stems = {PurePosixPath(name).stem for name in files}
    for key in sorted(texts.keys() - stems):
        detail = f"only in a *{TRANSCRIPT_SUFFIX}"
        listing.rejects.append(Reject(key, texts[key][1], "", "missing_audio", detail))
    if any(utterance.split == "test-other" for utterance in listing.utterances):
        notes(f"{found}: test is test-clean; test-other stays a split of that name")
    return listing


def split_of(name: str) -> str:
    """Split of a path that begins with a part's name."""
    part = name.split("/")[0]
    known = part.split("-")[0]
    return SPLITS.get(part, known if known in ("train", "dev") else part)
