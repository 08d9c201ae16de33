"""Members of tar archives, read in any order without unpacking to disk."""

import tarfile
from collections import OrderedDict
from pathlib import Path

from rayasr.errors import DataError

MAX_KEPT_BYTES = 256 << 20
"""Unpacked members kept in memory per process; the oldest go first."""

_MAX_OPEN = 4
_open_archives: "OrderedDict[str, _Archive]" = OrderedDict()


class MissingMemberError(DataError):
    """There is no such archive, or no member of that name in it."""


def read_member(archive: str, member: str) -> bytes:
    """The bytes of one file inside a tar archive, compressed or not; raises DataError.

    A few archives stay open per process, so that a shard's members cost one pass over each.
    """
    reader = _open_archives.pop(archive, None)
    try:
        if reader is None or reader.stamp != _stamp(archive):
            reader = _Archive(archive)
        content = reader.read(member)
    except FileNotFoundError as error:
        raise MissingMemberError(f"{archive} does not exist; check the corpus") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive} cannot be read ({error}); fetch it again") from error
    _open_archives[archive] = reader
    while len(_open_archives) > _MAX_OPEN or (
        len(_open_archives) > 1 and _kept_bytes() > MAX_KEPT_BYTES
    ):
        _open_archives.popitem(last=False)[1].close()
    return content


class _Archive:
    """One archive, passed through forwards, keeping the members it comes by.

    A compressed archive cannot be read backwards, and a shard asks in the order of keys.
    """

    def __init__(self, path: str) -> None:
        self.stamp = _stamp(path)
        self.kept_bytes = 0
        self._path = path
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._tar = _open(path)
        self._ended = False

    def read(self, member: str) -> bytes:
        """Bytes of a member; raises MissingMemberError where there is none of that name."""
        name = _plain(member)
        if name in self._kept:
            return self._kept[name]
        content = self._advance_to(name)
        if content is None:  # passed before and given up since, or not there at all
            self._tar.close()
            self._tar = _open(self._path)
            self._ended = False
            content = self._advance_to(name)
        if content is None:
            raise MissingMemberError(f"{self._path} has no member {member}; check the corpus")
        return content

    def close(self) -> None:
        """Give up the file and what was kept."""
        self._tar.close()
        self._kept.clear()

    def _advance_to(self, name: str) -> bytes | None:
        while not self._ended:
            info = self._tar.next()
            if info is None:
                self._ended = True
            elif info.isfile() and (file := self._tar.extractfile(info)) is not None:
                content = file.read()
                self._keep(_plain(info.name), content)
                if _plain(info.name) == name:
                    return content
        return None

    def _keep(self, name: str, content: bytes) -> None:
        self.kept_bytes += len(content) - len(self._kept.pop(name, b""))
        self._kept[name] = content
        while self.kept_bytes > MAX_KEPT_BYTES and len(self._kept) > 1:
            self.kept_bytes -= len(self._kept.popitem(last=False)[1])


def _open(path: str) -> tarfile.TarFile:
    return tarfile.open(path, "r|*")


def _kept_bytes() -> int:
    return sum(archive.kept_bytes for archive in _open_archives.values())


def _plain(name: str) -> str:
    return name.removeprefix("./")


def _stamp(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns
