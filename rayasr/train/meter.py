"""Numbers of the steps since the last log line, kept on the device until they are logged."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from rayasr.config import Recipe
from rayasr.data.loader import LoadedStep
from rayasr.errors import TrainingError
from rayasr.train.flops import matmul_rate, training_flops
from rayasr.train.state import Position
from rayasr.train.step import StepResult
from rayasr.train.world import World

_LOSSES = ("loss", "loss_ctc", "loss_att")
_SUMS = (*_LOSSES, "steps")


class Meter:
    """Collects step results; `row()` is the only place in a step's path that waits for a GPU."""

    def __init__(
        self,
        recipe: Recipe,
        vocab_size: int,
        world: World,
        position: Position,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._recipe, self._vocab_size, self._world = recipe, vocab_size, world
        self._peak = matmul_rate(world.device, dtype) * world.size
        kept = position.window
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=world.device)
        self._sums += torch.tensor([kept.get(name, 0.0) for name in _SUMS], dtype=torch.float64)
        self._frames = int(kept.get("frames", 0))
        self._padded = int(kept.get("padded_frames", 0))
        self._clear_clock()

    def add(self, loaded: LoadedStep, result: StepResult, lr: float) -> None:
        """Take one step in."""
        good = 1.0 - result.skipped  # a skipped step's loss is mostly not a number
        losses = torch.where(good > 0, result.extras[: len(_LOSSES)], 0.0)
        self._sums += torch.cat([losses, good.reshape(1).to(losses.dtype)])
        self._frames += loaded.frames
        self._padded += loaded.padded_frames
        self._audio_s += loaded.seconds
        self._flops += training_flops(
            self._recipe, self._vocab_size, loaded.frames, loaded.num_units, loaded.num_utterances
        )
        self._lr, self._norm = lr, result.grad_norm
        self._skipped.append(result.skipped)
        keys = [batch.keys for batch in loaded.batches]
        self._suspects.append((result.losses, keys))

    def window(self) -> dict[str, float]:
        """The sums for state.json; waits for the device."""
        sums = dict(zip(_SUMS, self._sums.tolist(), strict=True))
        counts = {"frames": self._frames, "padded_frames": self._padded}
        return sums | counts

    def pause(self, seconds: float) -> None:
        """Leave time out of the speed: a validation's."""
        self._started += seconds

    def row(self, position: Position, waited_s: float) -> dict[str, Any]:
        """One line for metrics.jsonl; empties the window."""
        *sums, steps = self._sums.tolist()
        means = [value / steps if steps else math.nan for value in sums]
        elapsed = max(1e-9, time.monotonic() - self._started)
        row: dict[str, Any] = {
            "step": position.step,
            "epoch": position.epoch + 1,
            **dict(zip(_LOSSES, means, strict=True)),
            "lr": self._lr,
            "grad_norm": float(self._norm),
            "padding": 1.0 - self._frames / max(1, self._padded),
            "audio_hours": position.audio_seconds / 3600,
            "audio_hours_per_hour": self._audio_s / elapsed,
            "mfu": self._flops / elapsed / self._peak,
            "data_wait": min(1.0, (waited_s - self._waited_s) / elapsed),
            "skipped": int(torch.stack(self._skipped).sum()) if self._skipped else 0,
            "seconds": position.seconds,
        }
        self._sums.zero_()
        self._frames = self._padded = 0
        self._clear_clock(waited_s)
        return row

    def non_finite(self, position: Position) -> list[str]:
        """Keys of the utterances in skipped steps since the last line, from all workers.

        Counts skipped steps in a row; raises TrainingError at `train.max_nonfinite_steps`.
        """
        keys: list[str] = []
        flags = [bool(flag) for flag in torch.stack(self._skipped).tolist()]
        for flag, (losses, batches) in zip(flags, self._suspects, strict=True):
            position.skipped_in_row = position.skipped_in_row + 1 if flag else 0
            if flag:
                keys += _guilty(losses, batches)
        if not any(flags):  # the same on all workers: the flag comes from the summed gradient
            return []
        everybody = [key for part in self._world.gather(keys) for key in part]
        limit = self._recipe.train.max_nonfinite_steps
        if position.skipped_in_row >= limit:
            raise TrainingError(
                f"the gradient was not finite in {position.skipped_in_row} steps in a row up to "
                f"step {position.step}, last with {_listed(everybody)}; look at these recordings, "
                "lower optim.lr, or train with train.precision: fp32"
            )
        return everybody

    def _clear_clock(self, waited_s: float = 0.0) -> None:
        self._started = time.monotonic()
        self._waited_s = waited_s
        self._audio_s = self._flops = 0.0
        self._lr = 0.0
        self._norm = torch.zeros(())
        self._skipped: list[Tensor] = []
        self._suspects: list[tuple[list[Tensor], list[list[str]]]] = []


def _guilty(losses: list[Tensor], batches: list[list[str]]) -> list[str]:
    """Keys of the micro-batches whose loss is not finite; of all where each loss is."""
    bad = [
        keys for loss, keys in zip(losses, batches, strict=True) if not bool(torch.isfinite(loss))
    ]
    return [key for keys in (bad or batches) for key in keys]


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
