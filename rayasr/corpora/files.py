"""Files of a corpus: sizes of very many, cheaply, and text files as lines."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from rayasr.data.manifest import Reject, Utterance
from rayasr.errors import DataError

AUDIO_SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".sph", ".w64", ".caf")
).union((".m4a", ".mp4", ".aac", ".wma", ".amr", ".webm"))
"""What counts as a recording; whether it can be read is found out when it is."""

STAT_THREADS = 16
"""A network file system answers one call in about a millisecond, but many at once."""

STAT_CHUNK = 512


@dataclass
class Listing:
    """What a reader found in one corpus; paths are relative to the corpus root, or absolute."""

    utterances: list[Utterance] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def list_files(folder: Path, suffixes: Iterable[str] = AUDIO_SUFFIXES) -> dict[str, int]:
    """Sizes of the files in a tree, by path relative to it, sorted; hidden ones are left out."""
    wanted = frozenset(suffixes)
    sizes: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        level = [str(folder)]
        while level:
            found = list(pool.map(lambda path: _scan(path, wanted), level))
            level = []
            for files, folders in found:
                sizes.update(files)
                for path, identity in folders:
                    if identity not in seen:  # a link back to a parent must not be walked forever
                        seen.add(identity)
                        level.append(path)
    skip = len(str(folder)) + 1
    return {path[skip:]: sizes[path] for path in sorted(sizes)}


def file_sizes(paths: Sequence[str | Path]) -> list[int | None]:
    """Size of each file in bytes; None where there is no such file."""
    chunks = [paths[i : i + STAT_CHUNK] for i in range(0, len(paths), STAT_CHUNK)]
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return [size for sizes in pool.map(_sizes, chunks) for size in sizes]


def locate(names: Sequence[str], folder: Path, root: Path) -> list[tuple[str, int | None]]:
    """Path relative to `root` (or absolute, outside of it) and size of files named in a list.

    Names are absolute, relative to the list's folder or relative to the corpus root.
    """
    found: list[tuple[str, int | None]] = []
    places = [os.path.join(folder, name) for name in names]  # noqa: PTH118 (faster than Path)
    for place, size in zip(places, file_sizes(places), strict=True):
        found.append((_relative(place, root), size))
    missing = [i for i, (_, size) in enumerate(found) if size is None]
    if folder != root and missing:
        for i, size in zip(missing, file_sizes([root / names[i] for i in missing]), strict=True):
            if size is not None:
                found[i] = (_relative(str(root / names[i]), root), size)
    return found


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 file without their ends, empty ones left out; raises DataError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}, line {line}: not UTF-8; convert it, "
            "for example with `iconv -f GB18030 -t UTF-8`"
        ) from error
    for line_text in text.split("\n"):  # not splitlines: U+2028 and others may stand in a text
        if stripped := line_text.strip():
            yield stripped


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """A Kaldi table: first word of each line, and the rest of it ("" where there is no more)."""
    pairs = []
    for line in read_lines(path):
        key, *rest = line.split(maxsplit=1)
        pairs.append((key, rest[0] if rest else ""))
    return pairs


def read_texts(path: Path, split: str, listing: Listing) -> dict[str, str]:
    """Texts by key; of lines with one key the first stays, the others are rejected."""
    texts: dict[str, str] = {}
    for key, text in read_pairs(path):
        if key in texts:
            detail = f"more than one line in {path.name}"
            listing.rejects.append(Reject(key, split, "", "duplicate_key", detail))
        else:
            texts[key] = text
    return texts


def _scan(
    folder: str, suffixes: frozenset[str]
) -> tuple[dict[str, int], list[tuple[str, tuple[int, int]]]]:
    files: dict[str, int] = {}
    folders = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    status = entry.stat()
                    folders.append((entry.path, (status.st_dev, status.st_ino)))
                elif os.path.splitext(entry.name)[1].lower() in suffixes:  # noqa: PTH122
                    files[entry.path] = entry.stat().st_size
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}") from error
    return files, folders


def _sizes(paths: Sequence[str | Path]) -> list[int | None]:
    return [_size(path) for path in paths]


def _size(path: str | Path) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (a Path object costs as much as the call)
    except (OSError, ValueError):
        return None


def _relative(path: str, root: Path) -> str:
    inside = f"{root}/"
    return path[len(inside) :].replace("/./", "/") if path.startswith(inside) else path
