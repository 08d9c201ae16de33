"""The checkpoint folder of a job: restored to every host, and mirrored to S3 while it runs."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from launcher.contract import Host, TransferError
from launcher.emulator.objects import ObjectStore, split_url

Signature = tuple[int, int]  # size, time of change


class CheckpointMirror:
    """Keeps one S3 prefix like the hosts' folders, deletions included; all hosts share it."""

    def __init__(
        self,
        objects: ObjectStore,
        url: str,
        hosts: Sequence[Host],
        every_s: float,
        note: Callable[[str], None],
    ) -> None:
        self._objects = objects
        self._url = url.rstrip("/")
        self._folders = [host.ml / "checkpoints" for host in hosts]
        self._seen: dict[Path, dict[str, Signature]] = {}
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)
        self._note = note

    def restore(self) -> None:
        """Copy what is in S3 to every host; raises TransferError."""
        found = self._objects.find(self._url)
        for folder in self._folders:
            self._objects.download(split_url(self._url)[0], found, folder)
            self._seen[folder] = _scan(folder)

    def __enter__(self) -> Self:
        """Mirror from now on, again and again."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Mirror a last time, now that nothing writes any more."""
        self._ended.set()
        self._thread.join()
        self._mirror()

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self._mirror()

    def _mirror(self) -> None:
        for folder in self._folders:
            try:
                self._mirror_folder(folder)
            except TransferError as error:
                self._note(f"checkpoints: {error}")  # the next round tries again

    def _mirror_folder(self, folder: Path) -> None:
        before, now = self._seen[folder], _scan(folder)
        for name, signature in now.items():
            if before.get(name) != signature and (folder / name).exists():
                self._objects.upload(folder / name, f"{self._url}/{name}")
        for name in before.keys() - now.keys():
            self._objects.delete(f"{self._url}/{name}")
        self._seen[folder] = now


def _scan(folder: Path) -> dict[str, Signature]:
    """The files below a folder; one that vanishes meanwhile is not there."""
    found = {}
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_file():
                stat = path.stat()
                found[str(path.relative_to(folder))] = (stat.st_size, stat.st_mtime_ns)
        except OSError:
            continue
    return found
