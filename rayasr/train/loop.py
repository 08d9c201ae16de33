"""The training loop, in time order; runs without Ray, one copy per worker."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from rayasr.config import Recipe
from rayasr.train.init_from import InitFrom
from rayasr.train.milestones import Training, begin, log_step, save, validate_dev
from rayasr.train.optim import learning_rate
from rayasr.train.reporter import Reporter, StartClock
from rayasr.train.setup import Setup, set_up
from rayasr.train.step import train_step
from rayasr.train.trial import memory_used
from rayasr.train.world import World

STOP_ASKED, STOP_TIME = 1.0, 2.0
_DRY_RUN_STEPS = 5


@dataclass(frozen=True)
class FitOptions:
    """What a training is asked for besides its recipe; none of it moves a step."""

    max_time_s: float | None = None
    """Wall seconds of training, summed over resumes, after which it ends."""
    dry_run: bool = False
    """Load, try, estimate, leave."""


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    finished: bool
    reason: str
    """finished, time, stopped or dry run."""
    step: int
    total_steps: int
    seconds: float
    validation: dict[str, float] = field(default_factory=dict)
    """The last one of this part of the run."""


def fit(
    recipe: Recipe,
    store_path: str | Path,
    run: str | Path,
    *,
    world: World,
    reporter: Reporter | None = None,
    options: FitOptions | None = None,
    clock: StartClock | None = None,
    init_from: InitFrom | None = None,
) -> FitResult:
    """Train to the end, to the time limit or to a stop request; goes on from RUN's checkpoint.

    `init_from` is the model that a fresh start begins with. Every worker calls this. Raises
    ConfigError, DataError, CheckpointError, TrainingError.
    """
    reporter, clock = reporter or Reporter(), clock or StartClock()
    options = options or FitOptions()
    fresh = options.dry_run  # which has no use for a checkpoint: it throws its weights away
    setup = set_up(
        recipe, store_path, Path(run), world, reporter, clock, init_from=init_from, fresh=fresh
    )
    try:
        if options.dry_run:
            return _dry_run(setup, world, reporter)
        training = begin(setup, Path(run), world, reporter)
        try:
            return _train(training, options, clock)
        finally:
            training.close()
    finally:
        setup.loader.close()


def _train(training: Training, options: FitOptions, clock: StartClock) -> FitResult:
    """Step, log, validate, save, until the epochs are done or somebody says stop."""
    setup, position = training.setup, training.position
    recipe, state, loader = setup.recipe, setup.state, setup.loader
    stop = 0.0
    while position.epoch < recipe.train.epochs and not stop:
        last_of_epoch = loader.plan.steps_per_epoch(position.epoch) - 1
        for loaded in loader.steps(position.epoch, position.epoch_step):
            lr = learning_rate(recipe.optim, position.step, setup.total_steps)
            result = train_step(state, loaded, recipe, lr, _signals(training, options))
            position.step += 1
            position.epoch_step += 1
            position.audio_seconds += loaded.seconds
            position.seconds = time.monotonic() - training.started
            training.meter.add(loaded, result, lr)
            if position.step == training.first_step + 1 and training.world.is_first:
                clock.mark("first step")
                training.reporter.note(f"first step after {clock.describe()}")
            logging = _every(recipe.train.log_every_steps, position.step)
            if logging or position.step == setup.total_steps:
                log_step(training)  # the only wait for a GPU in the path of a step
                if training.reporter.host_leaves():
                    stop = STOP_ASKED  # all ranks hear of it at the same step
            ends_epoch = loaded.step == last_of_epoch
            if ends_epoch:
                position.epoch, position.epoch_step = position.epoch + 1, 0
            wanted = 0.0
            if logging or ends_epoch or training.world.device.type == "cpu":
                asked, wanted = result.extras[3:].tolist()
                stop = stop or asked
            if _validation_is_due(training, ends_epoch):
                validate_dev(training)
            if _save_is_due(training, bool(wanted)):
                save(training)
            if stop:
                break
    finished = position.epoch >= recipe.train.epochs
    if stop == STOP_TIME and setup.has_dev and training.validated_step != position.step:
        validate_dev(training)
        save(training)
    if training.saved_step != position.step and position.step > training.first_step:
        save(training)
    reason = "finished" if finished else ("time" if stop == STOP_TIME else "stopped")
    validation, total = training.validation, setup.total_steps
    return FitResult(finished, reason, position.step, total, position.seconds, validation)


def _signals(training: Training, options: FitOptions) -> tuple[float, float]:
    """Rank 0's stop code and its wish for a checkpoint; they travel with the gradients."""
    if not training.world.is_first:
        return 0.0, 0.0
    stop = 0.0
    seconds = time.monotonic() - training.started
    if training.reporter.stop_requested():
        stop = STOP_ASKED
    elif options.max_time_s is not None and seconds >= options.max_time_s:
        stop = STOP_TIME
    minutes = (time.monotonic() - training.saved_at) / 60
    return stop, float(minutes >= training.setup.recipe.checkpoint.every_minutes)


def _validation_is_due(training: Training, ends_epoch: bool) -> bool:
    recipe, position = training.setup.recipe.train, training.position
    if not training.setup.has_dev:
        return False
    if _every(recipe.validate_every_steps, position.step):
        return True
    last = position.epoch == recipe.epochs
    return ends_epoch and (last or _every(recipe.validate_every_epochs, position.epoch))


def _save_is_due(training: Training, wanted: bool) -> bool:
    """After a validation, at the wished-for steps, in time, and at the end."""
    position, recipe = training.position, training.setup.recipe
    return (
        wanted
        or training.validated_step == position.step
        or _every(recipe.checkpoint.every_steps, position.step)
        or position.epoch >= recipe.train.epochs
    )


def _every(interval: int | None, count: int) -> bool:
    return interval is not None and count % interval == 0


def _dry_run(setup: Setup, world: World, reporter: Reporter) -> FitResult:
    """Time a few real steps, say what the run will cost, keep nothing."""
    state, total = setup.state, setup.total_steps
    frames, started = 0, time.monotonic()
    for index, loaded in enumerate(setup.loader.steps(0), start=1):
        float(train_step(state, loaded, setup.recipe, 0.0).grad_norm)  # waits for the GPU
        frames += loaded.frames
        if index >= _DRY_RUN_STEPS:
            break
    frames_per_s = frames / max(1e-9, time.monotonic() - started)
    shift_s = setup.recipe.features.frame_shift_ms / 1000
    hours = setup.train_hours * setup.recipe.train.epochs
    if world.is_first:
        reporter.note(
            f"dry run: {setup.num_parameters:,} parameters, {total} steps, "
            f"{memory_used(world.device):.1f} GiB used, {frames_per_s * shift_s:.0f} hours of "
            f"speech per hour, about {hours * 60 / (frames_per_s * shift_s):.0f} minutes on "
            f"{world.size} worker(s)"
        )
    return FitResult(False, "dry run", 0, total, 0.0)
