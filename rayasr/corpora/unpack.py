"""Safe unpacking of a corpus archive, with the per-speaker archives inside it.

Only files and folders come out, and only below the target: absolute paths, `..`, links and devices
are refused. A file appears under its name when it is whole, so unpacking goes on after a stop.
"""

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from rayasr.errors import DataError

Progress = Callable[[str, float, float], None]

UNPACK_ERRORS = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
"""What reading a damaged archive raises."""

BLOCK = 1 << 20


def unpack(archive: Path, target: Path, progress: Progress) -> None:
    """Unpack a .tgz below `target`, and the .tar.gz in it where they lie, without storing them.

    Raises DataError for an unsafe member, one of UNPACK_ERRORS for a damaged archive.
    """
    total = archive.stat().st_size
    with archive.open("rb") as file, tarfile.open(fileobj=file, mode="r|gz") as tar:
        for member in tar:
            path = _safe_path(member, target, archive.name)
            if path is None:
                continue
            content = tar.extractfile(member)
            assert content is not None  # _safe_path lets only files through
            if path.name.endswith((".tar.gz", ".tgz")):
                _unpack_inner(content, path.parent, f"{archive.name}: {member.name}")
            else:
                _write(content, path, member.size)
            progress(f"unpack {archive.name}", file.tell(), total)


def unpack_speakers(wav: Path, archives: Sequence[Path], progress: Progress) -> None:
    """Unpack per-speaker archives that lie in a `wav` folder; raises DataError."""
    total = sum(archive.stat().st_size for archive in archives)
    done = 0
    for archive in archives:
        try:
            with archive.open("rb") as file:
                _unpack_inner(file, wav, archive.name)
        except UNPACK_ERRORS as error:
            raise DataError(f"{archive} is damaged ({error}); download it again") from error
        done += archive.stat().st_size
        progress("unpack speakers", done, total)


def gzip_fault(archive: Path, progress: Progress) -> str | None:
    """What the checksums inside a .gz say is wrong with it; None where they agree."""
    total = archive.stat().st_size
    try:
        with archive.open("rb") as file, gzip.open(file) as content:
            while content.read(BLOCK):
                progress(f"check {archive.name}", file.tell(), total)
    except UNPACK_ERRORS as error:
        return str(error)
    return None


def _unpack_inner(content: IO[bytes], target: Path, name: str) -> None:
    with tarfile.open(fileobj=content, mode="r|gz") as tar:
        for member in tar:
            path = _safe_path(member, target, name)
            inner = tar.extractfile(member) if path else None
            if path and inner:
                _write(inner, path, member.size)


def _safe_path(member: tarfile.TarInfo, target: Path, archive: str) -> Path | None:
    """Where a file goes; None for a folder; raises DataError for what must not be unpacked."""
    parts = PurePosixPath(member.name).parts
    inside = not member.name.startswith("/") and ".." not in parts and "\\" not in member.name
    if not inside:
        raise DataError(f"{archive} has a member outside of its folder ('{member.name}'); refused")
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{archive} has a link or a device ('{member.name}'); refused")
    return None if member.isdir() else target / member.name


def _write(content: IO[bytes], path: Path, size: int) -> None:
    if path.is_file() and path.stat().st_size == size:
        return  # whole, of a run that was stopped
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            while block := content.read(BLOCK):
                file.write(block)
        if partial.stat().st_size != size:
            raise EOFError(f"{path.name} ends early")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
