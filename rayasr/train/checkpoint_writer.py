"""Checkpoints written off the step path: a thread writes, forgets old ones, feeds a mirror."""

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import (
    CHECKPOINT_NAME,
    MANIFEST_FILE,
    Checkpoint,
    adopt,
    best_of,
    copy_checkpoint,
    list_checkpoints,
    remove_checkpoint,
    save_checkpoint,
)
from rayasr.errors import RayasrError


class CheckpointWriter:
    """Writes checkpoints in a thread, forgets old ones, copies finished ones to a mirror.

    An error while writing is raised by the next `submit` or by `close`.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        keep_last: int,
        keep_best: int,
        mirror: str | None,
        notes: Callable[[str], None],
    ) -> None:
        self._run = Path(run)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._mirror, self._notes = mirror, notes
        self._jobs: queue.Queue[tuple[Any, ...] | None] = queue.Queue(maxsize=1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
        self._thread.start()

    def submit(
        self,
        step: int,
        model: dict[str, Tensor],
        optimizer: dict[str, Tensor],
        state: dict[str, Any],
    ) -> None:
        """Hand over tensors on the CPU that nobody changes any more."""
        self._raise()
        self._jobs.put((step, model, optimizer, state))

    def close(self) -> None:
        """Wait until everything is written."""
        self._jobs.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                step, model, optimizer, state = job
                saved = save_checkpoint(self._run, step, model, optimizer, state)
                kept = self._forget()
                if self._mirror is not None:
                    self._copy(saved, {checkpoint.path.name for checkpoint in kept})
            except BaseException as error:
                self._error = error

    def _forget(self) -> list[Checkpoint]:
        found = list_checkpoints(self._run)
        kept = [*found[-self._keep_last :], *best_of(found, self._keep_best)]
        paths = {checkpoint.path for checkpoint in kept}
        for checkpoint in found:
            if checkpoint.path not in paths:
                remove_checkpoint(checkpoint.path)
        return kept

    def _copy(self, checkpoint: Checkpoint, kept: set[str]) -> None:
        """A mirror that cannot be reached is said, and does not stop training."""
        try:
            folder = storage.join(str(self._mirror), "checkpoints")
            mirror_folder(checkpoint.path, storage.join(folder, checkpoint.path.name))
            for name in storage.list_names(folder):
                if CHECKPOINT_NAME.fullmatch(name) and name not in kept:
                    system, inside = storage.filesystem(storage.join(folder, name))
                    system.delete_dir(inside)
        except (OSError, RayasrError) as error:
            self._notes(f"mirror {self._mirror}: {checkpoint.path.name} was not copied: {error}")


def mirror_folder(source: Path, target: str) -> None:
    """Copy a folder's files, the manifest last; raises DataError."""
    storage.make_folder(target)
    names = sorted(path.name for path in source.iterdir() if path.is_file())
    for name in sorted(names, key=lambda name: name == MANIFEST_FILE):
        storage.copy_file(source / name, storage.join(target, name))


def fetch_from_mirror(place: str, run: Path, notes: Callable[[str], None]) -> Checkpoint | None:
    """Copy a mirror's newest complete checkpoint into a run that has none; None if it has none."""
    folder = storage.join(place, "checkpoints")
    for name in reversed(storage.list_names(folder)):
        remote = storage.join(folder, name)
        if not CHECKPOINT_NAME.fullmatch(name) or MANIFEST_FILE not in storage.list_names(remote):
            continue
        fetched = adopt(copy_checkpoint(remote, run), run)
        notes(f"fetched {name} from {place}")
        return fetched
    return None
