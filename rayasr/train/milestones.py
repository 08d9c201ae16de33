"""What happens between steps: a log line, a validation, a checkpoint."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayasr.logs import MetricsLog
from rayasr.train.checkpoint_writer import CheckpointWriter
from rayasr.train.meter import Meter
from rayasr.train.reporter import Reporter
from rayasr.train.setup import Setup, keep_inputs
from rayasr.train.state import Position, copy_to_host
from rayasr.train.validate import validate
from rayasr.train.world import World


@dataclass
class Training:
    """The handles of one worker's training; `log` and `writer` are rank 0's alone."""

    setup: Setup
    world: World
    reporter: Reporter
    meter: Meter
    log: MetricsLog | None
    writer: CheckpointWriter | None
    started: float
    """Monotonic time that `position.seconds` counts from."""
    first_step: int
    validation: dict[str, float] = field(default_factory=dict)
    """The last one, and below the step it was made at."""
    validated_step: int = -1
    saved_step: int = -1
    saved_at: float = field(default_factory=time.monotonic)
    warned: set[str] = field(default_factory=set)

    @property
    def position(self) -> Position:
        """Where training stands."""
        return self.setup.state.position

    def close(self) -> None:
        """Wait for the last checkpoint and close the files."""
        try:
            if self.log is not None:
                self.log.close()
        finally:
            if self.writer is not None:
                self.writer.close()


def begin(setup: Setup, run: Path, world: World, reporter: Reporter) -> Training:
    """Open what rank 0 writes, and start the clocks."""
    position, keep = setup.state.position, setup.recipe.checkpoint
    log = writer = None
    if world.is_first:
        keep_inputs(run, setup)
        log = MetricsLog(run, position.step)
        writer = CheckpointWriter(
            run,
            keep_last=keep.keep_last,
            keep_best=max(keep.keep_best, setup.recipe.average.best),
            mirror=keep.mirror,
            notes=reporter.note,
        )
    return Training(
        setup=setup,
        world=world,
        reporter=reporter,
        meter=Meter(
            setup.recipe,
            setup.store.tokenizer.vocab_size,
            world,
            position,
            setup.state.autocast or setup.state.dtype,
        ),
        log=log,
        writer=writer,
        started=time.monotonic() - position.seconds,
        first_step=position.step,
    )


def log_step(training: Training) -> None:
    """A line of metrics.jsonl; names what made gradients non-finite. Waits for a GPU.

    Raises TrainingError after `train.max_nonfinite_steps` skipped updates in a row.
    """
    position = training.position
    keys = training.meter.non_finite(position)
    row = training.meter.row(position, training.setup.loader.wait_seconds)
    if training.log is None:
        return
    training.log.write(row)
    if keys:
        training.reporter.note(
            f"step {position.step}: {row['skipped']} update(s) skipped, the gradient was not "
            f"finite with {', '.join(keys[:8])}{' …' if len(keys) > 8 else ''}"
        )
    total = training.setup.total_steps
    per_step = position.seconds / max(1, position.step)
    eta = {"total_steps": total, "eta_s": per_step * (total - position.step)}
    training.reporter.row(row | eta)


def validate_dev(training: Training) -> None:
    """Loss and CER of the dev split, into metrics.jsonl and to the reporter."""
    setup, position = training.setup, training.position
    started = time.monotonic()
    batches = setup.loader.validation("dev")
    values = validate(setup.state, batches, setup.recipe, setup.store.tokenizer, training.world)
    took = time.monotonic() - started
    training.meter.pause(took)
    training.validation, training.validated_step = values, position.step
    loss = values["dev_loss"]
    if math.isfinite(loss) and (position.best_dev_loss is None or loss < position.best_dev_loss):
        position.best_dev_loss, position.best_step = loss, position.step
    if training.log is None:
        return
    epoch = position.epoch + (1 if position.epoch_step else 0)
    row: dict[str, Any] = {"step": position.step, "epoch": epoch, **values}
    row["validation_seconds"] = took
    training.log.write(row)
    training.reporter.row(row | {"total_steps": setup.total_steps})
    _warn(training, values)


def save(training: Training) -> None:
    """Copy to the host and let the thread write; every rank reports the milestone."""
    setup, position = training.setup, training.position
    position.window = training.meter.window()
    if training.writer is not None:
        weights, optimizer = copy_to_host(setup.state)
        validated = training.validated_step == position.step
        state = {
            "step": position.step,
            "epoch": position.epoch,
            "seed": setup.recipe.seed,
            "position": position.to_json(),
            "validation": training.validation if validated else None,
            "recipe": setup.recipe.model_dump(mode="json"),
            "training_digest": setup.store.training_digest,
            "num_parameters": setup.num_parameters,
            "train_hours": setup.train_hours,
            "audio_hours": position.audio_seconds / 3600,
        }
        if setup.init_from is not None:  # with the statistics, so that a checkpoint stands alone
            statistics = setup.cmvn.to_json()
            state["init_from"] = setup.init_from.to_json() | {"statistics": statistics}
        training.writer.submit(position.step, weights, optimizer, state)
    training.saved_step, training.saved_at = position.step, time.monotonic()
    training.reporter.milestone({"step": float(position.step), **training.validation})


def _warn(training: Training, values: dict[str, float]) -> None:
    """Say once what a person watching the curves would say, with a remedy."""
    position, total = training.position, training.setup.total_steps
    if position.step < max(500, total / 5):  # early on, blanks alone are how CTC starts
        return
    if values["dev_empty"] > 0.9 and "empty" not in training.warned:
        training.warned.add("empty")
        training.reporter.note(
            f"warning: {values['dev_empty']:.0%} of dev hypotheses are empty (blank collapse); "
            "lower optim.lr, lengthen optim.warmup_steps, or check that texts match recordings"
        )
    stale = position.step - position.best_step
    if stale > total / 3 and "stale" not in training.warned:
        training.warned.add("stale")
        training.reporter.note(
            f"warning: dev loss has not fallen for {stale} steps (best at {position.best_step}); "
            "stop here, or try a lower optim.lr or more augmentation"
        )
