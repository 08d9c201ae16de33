"""How an emulator is to behave, and what is wrong with that."""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from launcher.contract import FileSystem
from launcher.emulator.attempt import MAX_FILL_BYTES
from launcher.emulator.containers import PROGRAM
from launcher.emulator.faults import Fault
from launcher.spec import JobSpec
from rayasr.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """How an emulator behaves."""

    num_hosts: int = 1
    port: int = 0  # any that is free
    runner: str = "processes"
    file_systems: Mapping[str, FileSystem] = field(default_factory=dict)  # fs-… → its root
    faults: Sequence[Fault] = ()
    grace_s: float = 120.0  # from SIGTERM to SIGKILL; SageMaker's
    mirror_every_s: float = 5.0  # checkpoints to S3
    root: Path | None = None  # where jobs' files stay; without one they do not
    program: Sequence[str] = PROGRAM  # of each host, where there is no image
    job_files: Sequence[JobSpec] = ()  # what they name is there from the start

    def check(self) -> None:
        """See that the folders are there and may be used so; raises ConfigError."""
        for identity, system in self.file_systems.items():
            if not system.folder.is_dir():
                raise ConfigError(
                    f"--file-system {identity}={system.folder}: there is no such folder"
                )
        for fault in self.faults:
            if fault.kind == "full-disk":
                _check_full_disk(fault)


def parse_file_system(text: str) -> tuple[str, FileSystem]:
    """Read fs-0123456789=DIR, or fs-0123456789/MOUNTNAME=DIR; raises ConfigError."""
    match = re.fullmatch(r"(fs-[0-9a-f]{8,})(?:/([A-Za-z0-9_-]{1,8}))?=(.+)", text)
    if match is None:
        raise ConfigError(
            f"--file-system {text}: write fs-0123456789=DIR, or fs-0123456789/MOUNTNAME=DIR"
        )
    identity, mount_name, folder = match.groups()
    path = Path(folder).expanduser().resolve()
    return identity, FileSystem(path, mount_name) if mount_name else FileSystem(path)


def _check_full_disk(fault: Fault) -> None:
    """Refuse to fill a disk that others need too."""
    if not Path(fault.detail).is_dir():
        raise ConfigError(f"--inject {fault}: there is no such folder")
    if shutil.disk_usage(fault.detail).free > MAX_FILL_BYTES:
        raise ConfigError(
            f"--inject {fault}: more than {MAX_FILL_BYTES // 2**30} GiB are free there; mount a "
            "small file system, such as `mount -t tmpfs -o size=500m tmpfs DIR`"
        )
