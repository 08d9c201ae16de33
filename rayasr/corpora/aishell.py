"""AISHELL-1's layout: `data_aishell/wav/SPLIT/SPEAKER/KEY.wav` and one transcript for all.

The published archive holds one more archive per speaker, `wav/S0002.tar.gz`, with members
`train/S0002/KEY.wav`; both forms are read, and a mixture of them.
"""

import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from rayasr.corpora.files import AUDIO_SUFFIXES, Listing, list_files, read_texts
from rayasr.data.manifest import ARCHIVE_SEPARATOR, Reject, Utterance
from rayasr.errors import DataError

LOOKS_LIKE = "AISHELL-1 (data_aishell/wav and data_aishell/transcript)"

UNPACK_THREADS = 8


def find(path: Path) -> Path | None:
    """The folder with `wav` and `transcript`; raises DataError where all is still one archive."""
    for folder in (path / "data_aishell", path):
        if (folder / "wav").is_dir() and (folder / "transcript").is_dir():
            return folder
    archive = path if path.name == "data_aishell.tgz" else path / "data_aishell.tgz"
    if archive.is_file():
        raise DataError(
            f"{archive} is still packed; unpack it with "
            f"`rayasr data download aishell {archive.parent}`, which fetches nothing that is there"
        )
    return None


def read(root: Path, found: Path, notes: Callable[[str], None]) -> Listing:
    """List all utterances under FOUND, an AISHELL folder in or at the corpus root."""
    prefix = found.relative_to(root).as_posix()
    prefix = "" if prefix == "." else f"{prefix}/"
    audio: dict[str, tuple[str, int]] = {}  # by key, in the order of train, dev, test
    listing = Listing()
    for inside, size in sorted(_audio_files(found, notes), key=lambda item: _order(item[0])):
        key = _stem(inside)
        path = f"{prefix}wav/{inside}"
        if key not in audio:
            audio[key] = (path, size)
        elif ARCHIVE_SEPARATOR not in path:  # an archive beside what was unpacked from it is fine
            detail = f"{audio[key][0]} has this key too"
            listing.rejects.append(Reject(key, _split(path), path, "duplicate_key", detail))
    texts = _read_transcripts(found / "transcript", listing)
    for key, (path, size) in audio.items():
        if (text := texts.get(key)) is None:
            detail = f"no line for it in {prefix}transcript"
            listing.rejects.append(Reject(key, _split(path), path, "missing_text", detail))
        else:
            listing.utterances.append(
                Utterance(key, path, text, _speaker(path), _split(path), size=size)
            )
    splits = {_speaker(path): _split(path) for path, _ in audio.values()}
    for key in texts.keys() - audio.keys():
        split = splits.get(_speaker_of_key(key), "train")
        listing.rejects.append(Reject(key, split, "", "missing_audio", f"none under {prefix}wav"))
    listing.rejects.sort(key=lambda item: item.key)
    return listing


def _audio_files(found: Path, notes: Callable[[str], None]) -> Iterator[tuple[str, int]]:
    """Path inside `wav` and size of each recording, unpacked ones first."""
    yield from list_files(found / "wav").items()
    archives = sorted(path for path in (found / "wav").glob("*.tar.gz") if path.is_file())
    if archives:
        notes(
            f"{found}: listing {len(archives)} packed speaker archives; unpacked they read faster "
            f"(`rayasr data download aishell {found.parent}` unpacks what is there)"
        )
    with ThreadPoolExecutor(UNPACK_THREADS) as pool:
        for archive, members in zip(archives, pool.map(_members, archives), strict=True):
            for name, size in members:
                yield f"{archive.name}{ARCHIVE_SEPARATOR}{name}", size


def _members(archive: Path) -> list[tuple[str, int]]:
    try:
        with tarfile.open(archive) as tar:
            return [
                (member.name, member.size)
                for member in tar
                if member.isfile() and PurePosixPath(member.name).suffix.lower() in AUDIO_SUFFIXES
            ]
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{archive} is damaged ({error}); download it again") from error


def _read_transcripts(folder: Path, listing: Listing) -> dict[str, str]:
    """Texts by key from all .txt files of the folder."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise DataError(f"{folder} holds no transcript; aishell_transcript_v0.8.txt belongs there")
    texts: dict[str, str] = {}
    for file in files:
        for key, text in read_texts(file, "train", listing).items():
            texts.setdefault(key, text)
    return texts


def _parts(path: str) -> tuple[str, ...]:
    """Path of a recording below `wav` or inside its archive: (SPLIT, SPEAKER, FILE)."""
    inside = path.rpartition(ARCHIVE_SEPARATOR)[2]
    parts = inside.removeprefix("data_aishell/").removeprefix("./").removeprefix("wav/").split("/")
    return tuple(parts)


def _split(path: str) -> str:
    parts = _parts(path)
    return parts[0] if len(parts) > 2 else "train"


def _speaker(path: str) -> str:
    parts = _parts(path)
    return parts[-2] if len(parts) > 1 else _speaker_of_key(_stem(path))


def _stem(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[0]


def _speaker_of_key(key: str) -> str:
    """`S0002` of `BAC009S0002W0122`; the key itself where it has another form."""
    speaker = key[6:11]
    return speaker if speaker[:1] == "S" and speaker[1:].isdigit() else key


def _order(inside: str) -> tuple[bool, int, str]:
    names = {"train": 0, "dev": 1, "test": 2}
    path = inside.rpartition(ARCHIVE_SEPARATOR)[2]
    return ARCHIVE_SEPARATOR in inside, names.get(_split(inside), 3), path
