"""Files on this machine, on a mount or on s3://, through pyarrow.fs; the lease of a run."""

import errno
import hashlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from rayasr.errors import ConfigError, DataError, RayasrError

LEASE_STALE_S = 60.0
LEASE_BEAT_S = 10.0
_SETTLE_S = 0.2
"""How long a lease that was written over another must stand before it is believed."""


def is_remote(path: str | Path) -> bool:
    """Whether a path is a URL such as s3://bucket/key."""
    return "://" in str(path)


def join(folder: str | Path, *parts: str) -> str:
    """Path of something inside a folder, local or remote."""
    return "/".join([str(folder).rstrip("/"), *parts])


def filesystem(path: str | Path) -> tuple[fs.FileSystem, str]:
    """The pyarrow file system of a path, and the path inside it; raises ConfigError."""
    if is_remote(path):
        try:
            system, inside = fs.FileSystem.from_uri(str(path))
            return system, str(inside)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot open {path}: {error}") from error
    return fs.LocalFileSystem(), str(Path(path).absolute())


def exists(path: str | Path) -> bool:
    """Whether a file or a folder is there."""
    system, inside = filesystem(path)
    return bool(system.get_file_info(inside).type != fs.FileType.NotFound)


def list_names(folder: str | Path) -> list[str]:
    """Sorted names in a folder; [] where there is no such folder."""
    system, inside = filesystem(folder)
    selector = fs.FileSelector(inside, allow_not_found=True)
    return sorted(info.base_name for info in system.get_file_info(selector))


def read_bytes(path: str | Path) -> bytes:
    """A whole file; raises DataError where it is missing or unreadable."""
    system, inside = filesystem(path)
    try:
        with system.open_input_file(inside) as file:
            return bytes(file.readall())
    except OSError as error:
        raise DataError(f"cannot read {path}: {_reason(error)}") from error


def read_json(path: str | Path) -> Any:
    """A JSON file's value; raises DataError where it is missing or damaged."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise DataError(f"{path} is damaged (not JSON: {error}); make it again") from error


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file so that readers see either nothing or all of it; raises DataError.

    A local file is written beside its final name, synced and renamed. On s3:// an object appears
    only when its upload ends, so it is written under its final name.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        if is_remote(path):
            system, inside = filesystem(path)
            with system.open_output_stream(inside) as stream:
                stream.write(data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise output_error(path, error) from error


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: str | Path) -> str:
    """Hash of a local file in hex; raises OSError."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: str | Path) -> None:
    """Create a folder with its parents; raises DataError where that is not allowed."""
    system, inside = filesystem(path)
    try:
        system.create_dir(inside, recursive=True)
    except OSError as error:
        raise output_error(path, error) from error


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy one file between any two file systems; raises DataError."""
    from_system, from_inside = filesystem(source)
    to_system, to_inside = filesystem(target)
    try:
        fs.copy_files(
            from_inside, to_inside, source_filesystem=from_system, destination_filesystem=to_system
        )
    except OSError as error:
        raise output_error(target, error) from error


def remove(path: str | Path) -> None:
    """Remove one file; raises DataError where that is not allowed."""
    system, inside = filesystem(path)
    try:
        system.delete_file(inside)
    except FileNotFoundError:
        return
    except OSError as error:
        raise output_error(path, error) from error


def output_error(path: str | Path, error: OSError) -> RayasrError:
    """A failed write as a sentence that says what to do."""
    if error.errno == errno.ENOSPC:
        return DataError(f"no space left while writing {path}; free some space and run again")
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return DataError(f"{path} is not writable ({_reason(error)}); choose another output folder")
    return DataError(f"cannot write {path}: {_reason(error)}")


class Lease:
    """One writer for a run folder, held by a heartbeat in `lease.json`, without file locks.

    Taken over when its owner's heartbeat is a minute old, or at once when the owner ran in this
    boot and PID namespace and its process is gone; an owner elsewhere is watched for up to that
    minute before a start is refused. An owner that was suspended for so long finds
    the other's name at its next heartbeat. Use as a context manager, and `check` now and then.
    """

    def __init__(self, folder: str | Path, notes: Callable[[str], None] | None = None) -> None:
        self._path = Path(folder) / "lease.json"
        self._notes = notes or (lambda _: None)
        self._owner = _this_process()
        self._stop = threading.Event()
        self._beat: threading.Thread | None = None
        self._taken_by: dict[str, Any] | None = None

    def __enter__(self) -> "Lease":
        """Take the lease; raises ConfigError naming the owner where another run holds it."""
        self._take()
        self._beat = threading.Thread(target=self._keep_alive, daemon=True, name="lease")
        self._beat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._beat is not None:
            self._beat.join()
        if self._is_ours(self._read()):
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Raises ConfigError where another run has taken the lease over."""
        if (taken_by := self._taken_by) is not None:
            raise ConfigError(
                f"{self._path.parent} was taken over by {_name(taken_by)} while this run stood "
                "still; that one goes on, this one ends"
            )

    def _take(self) -> None:
        ours = self._path.with_name(f".{self._path.name}.{self._owner['pid']}")
        write_json(ours, self._beating())
        try:
            os.link(ours, self._path)  # of two starts at once one fails
        except OSError:  # there is a lease, or no hard links on this file system
            self._refuse_living(self._read())
            ours.replace(self._path)
            time.sleep(_SETTLE_S)  # of all that found it free the last to write has it
        finally:
            ours.unlink(missing_ok=True)
        holder = self._read()
        if not self._is_ours(holder):
            self._refuse_living(holder)
            raise ConfigError(f"{self._path} cannot be kept; is the folder being removed?")

    def _refuse_living(self, holder: dict[str, Any] | None) -> None:
        if holder is not None and _alive(holder, self._owner) and self._beats(holder):
            raise ConfigError(
                f"{self._path.parent} is in use by {_name(holder)}; "
                "stop that run first, or choose another --out"
            )

    def _beats(self, holder: dict[str, Any]) -> bool:
        """Watch an owner that cannot be looked up: a job that was just killed must not block."""
        if _is_near(holder, self._owner):
            return True
        self._notes(
            f"{self._path.parent} was in use by {_name(holder)} a moment ago; waiting up to "
            f"{LEASE_STALE_S:.0f} s for a sign of life"
        )
        now: dict[str, Any] | None = holder
        while now is not None and _alive(now, self._owner):
            if now.get("heartbeat") != holder.get("heartbeat"):
                return True
            time.sleep(_SETTLE_S)
            now = self._read()
        return False

    def _keep_alive(self) -> None:
        while not self._stop.wait(LEASE_BEAT_S):
            holder = self._read()
            if holder is not None and not self._is_ours(holder):
                self._taken_by = holder
                return
            with suppress(RayasrError):  # on a full disk; the next beat may find room
                write_json(self._path, self._beating())

    def _read(self) -> dict[str, Any] | None:
        try:
            holder = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return None  # not there, or damaged: nobody holds it
        return holder if isinstance(holder, dict) and "pid" in holder else None

    def _is_ours(self, holder: dict[str, Any] | None) -> bool:
        return holder is not None and _same_process(holder, self._owner)

    def _beating(self) -> dict[str, Any]:
        return self._owner | {"heartbeat": time.time()}


def _name(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}"


def _this_process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "boot_id": _first_line("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _link("/proc/self/ns/pid"),
        "process_start": _process_start(os.getpid()),
    }


def _same_process(a: dict[str, Any], b: dict[str, Any]) -> bool:
    keys = ("host", "pid", "boot_id", "pid_namespace", "process_start")
    return all(a.get(key) == b.get(key) for key in keys)


def _is_near(holder: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether the owner's process can be looked up: same boot, same PID namespace."""
    same = all(holder.get(key) == ours[key] for key in ("boot_id", "pid_namespace"))
    return same and bool(ours["boot_id"])


def _alive(holder: dict[str, Any], ours: dict[str, Any]) -> bool:
    if _same_process(holder, ours):
        return False
    if _is_near(holder, ours):
        return bool(_process_start(int(holder["pid"])) == holder.get("process_start"))
    return bool(time.time() - float(holder.get("heartbeat", 0)) < LEASE_STALE_S)


def _process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot, which tells a reused pid; '' if gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _reason(error: OSError) -> str:
    """What the system says, without the path and details that pyarrow adds to it."""
    return os.strerror(error.errno) if error.errno else error.strerror or str(error)
