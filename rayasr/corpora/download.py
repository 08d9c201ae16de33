"""AISHELL-1 from OpenSLR 33: fetched in pieces if need be, checked, and unpacked safely."""

import hashlib
import http.client
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rayasr.corpora.unpack import UNPACK_ERRORS, gzip_fault, unpack, unpack_speakers
from rayasr.errors import DataError
from rayasr.storage import output_error

AISHELL_URLS = (
    "https://openslr.trmal.net/resources/33",
    "https://www.openslr.org/resources/33",
    "https://openslr.elda.org/resources/33",
    "https://openslr.magicdatatech.com/resources/33",
)
"""OpenSLR and its mirrors (US, EU, China), in the order in which they are tried."""

TIMEOUT_S = 30.0
ROUNDS = 3
"""So often all mirrors are tried without a single new byte before giving up."""
PAUSE_S = 5.0
"""Wait before the second round; twice that before the third."""
BLOCK = 1 << 20

Progress = Callable[[str, float, float], None]
"""Called with what is being done, how much of it is done, and how much there is (bytes)."""


@dataclass(frozen=True)
class Archive:
    """One published file, and what must be there once it is unpacked."""

    name: str
    size: int
    """Bytes."""
    md5: str | None
    """None: integrity is only the checksums inside the archive."""
    unpacked: int
    """Bytes of what is in it, about."""
    expected: tuple[str, ...] = ()
    """Paths that must be there after unpacking."""

    @property
    def folder(self) -> str:
        """Name of the folder that the archive unpacks to."""
        return self.name.split(".")[0]


AISHELL = (
    # Sizes and sums as Kaldi's and PaddleSpeech's recipes for this corpus state them.
    Archive(
        name="data_aishell.tgz",
        size=15_582_913_665,
        md5="2f494334227864a8a8fec932999db9d8",
        unpacked=20_800_000_000,
        expected=("data_aishell/transcript/aishell_transcript_v0.8.txt", "data_aishell/wav/train"),
    ),
    Archive(
        name="resource_aishell.tgz",
        size=1_246_920,
        md5="957d480a0fcac85fc18e550756f624e5",
        unpacked=5_000_000,
        expected=("resource_aishell/lexicon.txt",),
    ),
)


class TransferError(Exception):
    """A transfer that ended early; the message says why."""


def download_aishell(
    folder: str | Path,
    *,
    base_urls: Sequence[str] = AISHELL_URLS,
    archives: Sequence[Archive] = AISHELL,
    keep_archives: bool = True,
    notes: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda *_: None,
    pause: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch, check and unpack; what is there is kept, what is half there is gone on with.

    Returns the folder, ready for `--corpus`. Raises DataError where the disk is too small (before
    anything is fetched), no mirror answers, or an archive stays damaged or is unsafe to unpack.
    """
    root = Path(folder).absolute()
    todo = []
    for archive in archives:
        if (root / archive.folder / ".complete").exists():
            notes(f"{root / archive.folder} is there and complete")
        elif not _by_hand(root, archive, notes, progress):
            todo.append(archive)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _check_space(root, todo)
        for archive in todo:
            _fetch_checked(root, archive, base_urls, notes, progress, pause)
            _unpack_checked(root, archive, progress)
            if not keep_archives:
                (root / archive.name).unlink()
            notes(f"{root / archive.folder} is complete")
    except OSError as error:
        raise output_error(root, error) from error
    return root


def free_bytes(folder: Path) -> int:
    """Free space on the file system of a folder."""
    return shutil.disk_usage(folder).free


def _by_hand(
    root: Path, archive: Archive, notes: Callable[[str], None], progress: Progress
) -> bool:
    """Whether a folder that somebody unpacked could be completed without fetching anything."""
    target = root / archive.folder
    if not target.exists() or (root / archive.name).exists():
        return False
    packed = sorted((target / "wav").glob("*.tar.gz"))
    if not packed:
        raise DataError(
            f"{target} is there, but not complete by this command; use it as it is "
            f"(`--corpus {root}`), or move it away to download again"
        )
    notes(f"{target}: unpacking {len(packed)} speaker archives that are there; nothing is fetched")
    unpack_speakers(target / "wav", packed, progress)
    _finish(root, archive)
    return True


def _check_space(root: Path, archives: Sequence[Archive]) -> None:
    need = 0
    for archive in archives:
        have = max(_size(root / archive.name), _size(_partial(root, archive)))
        need += max(0, archive.size - have)
        need += max(0, archive.unpacked - _unpacked(root / archive.folder))
    free = free_bytes(root)
    if need > free:
        raise DataError(
            f"{root} needs {need / 1e9:.1f} GB for archives and recordings and has "
            f"{free / 1e9:.1f} GB free; choose a folder on a larger disk or free some space"
        )


def _fetch_checked(
    root: Path,
    archive: Archive,
    base_urls: Sequence[str],
    notes: Callable[[str], None],
    progress: Progress,
    pause: Callable[[float], None],
) -> None:
    """Have the archive whole and with the right sum; a damaged one is fetched again once."""
    target = root / archive.name
    for attempt in range(2):
        if not target.exists():
            _fetch(root, archive, base_urls, notes, progress, pause)
        fault = _fault(target, archive, progress)
        if fault is None:
            return
        target.unlink()
        if attempt == 0:
            notes(f"{target} is damaged ({fault}); it is fetched again")
            # A mirror with a damaged copy must not be the first again.
            base_urls = [*base_urls[1:], base_urls[0]]
    raise DataError(
        f"{archive.name} is damaged ({fault}) from two sources; "
        "try later, or name another source with --base-url"
    )


def _fetch(
    root: Path,
    archive: Archive,
    base_urls: Sequence[str],
    notes: Callable[[str], None],
    progress: Progress,
    pause: Callable[[float], None],
) -> None:
    """Fetch one archive, going on where an earlier transfer stopped, from the first that serves."""
    partial = _partial(root, archive)
    if _size(partial) > archive.size:
        partial.unlink()
    failures: dict[str, str] = {}
    for round_ in range(ROUNDS):
        if round_ > 0:
            pause(PAUSE_S * round_)
        for base_url in base_urls:
            url = f"{base_url.rstrip('/')}/{archive.name}"
            while _size(partial) < archive.size:
                before = _size(partial)
                try:
                    _transfer(url, partial, archive, progress)
                except TransferError as stop:
                    failures[url] = str(stop)
                    kept = _size(partial)
                    notes(f"{url}: {stop}" + (f"; {kept / 1e6:.1f} MB are kept" if kept else ""))
                if _size(partial) <= before:  # no new byte: another mirror
                    break
            if _size(partial) == archive.size:
                partial.replace(root / archive.name)
                return
    reasons = "; ".join(f"{url}: {reason}" for url, reason in failures.items())
    raise DataError(
        f"cannot download {archive.name} ({reasons}); check the network and run this again, "
        f"it goes on after {_size(partial) / 1e6:.1f} MB, or name a mirror with --base-url"
    )


def _transfer(url: str, partial: Path, archive: Archive, progress: Progress) -> None:
    """Append what is missing of one archive; raises TransferError where the server ends early."""
    start = _size(partial)
    with _open(url, start) as response:
        length = response.headers.get("Content-Length")
        if start and response.status == 206:
            sent = response.headers.get("Content-Range", "")
            if not sent.startswith(f"bytes {start}-"):
                raise TransferError(f"sent another part than asked for ('{sent}')")
            total = sent.rpartition("/")[2]
        else:
            start = 0  # no ranges here: the whole file comes again
            total = length or "*"
        if total not in ("*", str(archive.size)):
            raise TransferError(f"has {total} bytes, not the published {archive.size}")
        with partial.open("ab" if start else "wb") as file:
            while start < archive.size:
                block = _read(response, min(BLOCK, archive.size - start))
                if not block:
                    raise TransferError(f"ended after {start} of {archive.size} bytes")
                file.write(block)
                start += len(block)
                progress(f"download {archive.name}", start, archive.size)


def _open(url: str, start: int) -> http.client.HTTPResponse:
    headers = {"Accept-Encoding": "identity", "User-Agent": "rayasr"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
    except urllib.error.HTTPError as error:
        error.close()
        raise TransferError(f"answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise TransferError(f"cannot be reached ({reason})") from error
    return response


def _read(response: http.client.HTTPResponse, size: int) -> bytes:
    try:
        return response.read(size)
    except (OSError, http.client.HTTPException) as error:
        raise TransferError(f"connection lost ({error})") from error


def _fault(path: Path, archive: Archive, progress: Progress) -> str | None:
    """What is wrong with a fetched archive; None where it is as published."""
    if path.stat().st_size != archive.size:
        return f"{path.stat().st_size} bytes instead of {archive.size}"
    if archive.md5 is None:
        return gzip_fault(path, progress)
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    with path.open("rb") as file:
        while block := file.read(8 * BLOCK):
            digest.update(block)
            done += len(block)
            progress(f"check {archive.name}", done, archive.size)
    found = digest.hexdigest()
    return None if found == archive.md5 else f"its MD5 is {found}, not {archive.md5}"


def _unpack_checked(root: Path, archive: Archive, progress: Progress) -> None:
    path = root / archive.name
    try:
        unpack(path, root, progress)
    except UNPACK_ERRORS as error:
        path.unlink()
        raise DataError(f"{path} was damaged ({error}) and is removed; run this again") from error
    _finish(root, archive)


def _finish(root: Path, archive: Archive) -> None:
    """Mark an unpacked archive as complete, as Kaldi's script does; raises DataError."""
    missing = [name for name in archive.expected if not (root / name).exists()]
    if missing:
        raise DataError(f"{root / archive.folder} lacks {', '.join(missing)} after unpacking")
    (root / archive.folder / ".complete").touch()


def _unpacked(folder: Path) -> int:
    """Bytes of whole files; what begins with a dot is what a stopped command left of one."""
    return sum(_size(path) for path in folder.rglob("[!.]*") if path.is_file())


def _partial(root: Path, archive: Archive) -> Path:
    return root / f"{archive.name}.partial"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
