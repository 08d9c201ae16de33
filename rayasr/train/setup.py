"""Everything a training needs before its first step: store, model, optimizer, loader, trial."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rayasr import storage
from rayasr.checkpoint import Checkpoint, new_model
from rayasr.config import Recipe, dump_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.data.loader import Loader
from rayasr.data.store import Store
from rayasr.errors import ConfigError, DataError
from rayasr.model.u2 import U2Model
from rayasr.train.init_from import (
    InitFrom,
    copy_weights,
    freeze,
    recorded_cmvn,
    recorded_start,
)
from rayasr.train.reporter import Reporter, StartClock
from rayasr.train.resume import find_start, resolve, with_max_padded_frames
from rayasr.train.state import TrainState, build_state, load_state
from rayasr.train.trial import check_kernels, find_max_padded_frames, try_batches
from rayasr.train.world import World


@dataclass
class Setup:
    """What `fit` works with."""

    recipe: Recipe
    store: Store
    state: TrainState
    loader: Loader
    total_steps: int
    num_parameters: int
    train_hours: float
    has_dev: bool
    cmvn: CmvnStats
    """What normalises features: the store's statistics, or those of the model it started from."""
    init_from: InitFrom | None


def check_workers(recipe: Recipe, workers: int, *, fine_tuned: bool = False) -> None:
    """Raises ConfigError where so many workers cannot train this recipe.

    A `fine_tuned` model keeps the statistics of its batch norms, so any number can.
    """
    if workers > recipe.batch.micro_batches:
        raise ConfigError(
            f"{workers} workers share {recipe.batch.micro_batches} micro-batch(es) of a step; "
            f"set batch.micro_batches to {workers} or more, or use fewer --workers"
        )
    batch_norm = recipe.model.encoder.convolution_norm == "batch_norm"
    if batch_norm and not fine_tuned and workers > 1:
        raise ConfigError(
            "batch_norm statistics would depend on the number of workers; train with one worker, "
            "or set model.encoder.convolution_norm to layer_norm"
        )


def default_workers(
    recipe: Recipe, gpus: int, say: Callable[[str], None], *, fine_tuned: bool = False
) -> int:
    """One worker per GPU, but no more than can train this recipe, which is said; one on a CPU."""
    batch_norm = recipe.model.encoder.convolution_norm == "batch_norm" and not fine_tuned
    most = 1 if batch_norm else recipe.batch.micro_batches
    if gpus > most:
        reason = "batch_norm needs one worker" if batch_norm else f"batch.micro_batches is {most}"
        say(f"training on {most} of {gpus} GPUs, for {reason}")
    return max(1, min(gpus, most))


def set_up(
    recipe: Recipe,
    store_path: str | Path,
    run: Path,
    world: World,
    reporter: Reporter,
    clock: StartClock,
    *,
    init_from: InitFrom | None = None,
    fresh: bool = False,
) -> Setup:
    """Load, build, resume (but for `fresh`) or start from a model, and try.

    Only rank 0 reads a checkpoint or a model and says what it does. Raises ConfigError, DataError,
    CheckpointError, TrainingError.
    """
    check_workers(recipe, world.size, fine_tuned=init_from is not None)
    check_kernels(world.device)
    torch.set_num_threads(recipe.train.threads_per_worker)
    say = reporter.note if world.is_first else (lambda _: None)
    store = Store.open(store_path)
    store.check_recipe(recipe)
    if not len(store.split("train")):
        raise DataError("the store has no training utterances; prepare it from another corpus")
    inputs = store.training_digest
    reads = world.is_first and not fresh
    found = find_start(recipe, inputs, run, say, init_from) if reads else None
    checkpoint: Checkpoint | None = world.share(found)
    recipe = resolve(recipe, checkpoint)
    if checkpoint is not None:
        init_from = recorded_start(checkpoint.state)
    clock.mark("store")
    state, cmvn = _build(recipe, store, world, checkpoint, init_from, say)
    load_state(state, checkpoint, world)
    clock.mark("model")
    if recipe.batch.max_padded_frames == "auto":
        longest = int(store.split("train").frames.max())
        plan = _loader(recipe, store, world).plan
        frames = find_max_padded_frames(state, recipe, world, plan, longest, say)
        recipe = with_max_padded_frames(recipe, min(world.gather(frames)))
    setup = _with_loader(recipe, store, state, world, cmvn, init_from)
    if world.is_first:
        _say_start(setup, checkpoint, say)
    clock.mark("plan")
    if recipe.train.autocheck:
        first = next(iter(setup.loader.validation("dev")), None) if setup.has_dev else None
        worst = setup.loader.probe()
        # On a CPU memory hardly runs out, and each trial costs a step's time: one is enough.
        worst = worst if world.device.type == "cuda" else worst[:1]
        try_batches(state, first, worst, recipe, world)
        clock.mark("trial batches")
    return setup


def keep_inputs(run: Path, setup: Setup) -> None:
    """What averaging needs when the store is elsewhere; and the recipe as it is trained."""
    storage.make_folder(run)
    setup.store.tokenizer.save(run)
    storage.write_json(run / "cmvn.json", setup.cmvn.to_json())
    storage.write_atomic(run / "recipe.yaml", dump_recipe(setup.recipe))


def _build(
    recipe: Recipe,
    store: Store,
    world: World,
    checkpoint: Checkpoint | None,
    init_from: InitFrom | None,
    say: Callable[[str], None],
) -> tuple[TrainState, CmvnStats]:
    """A model before `load_state`, and the statistics that rank 0 keeps with it."""
    torch.manual_seed(recipe.seed)
    cmvn = store.cmvn if checkpoint is None else recorded_cmvn(checkpoint, store.cmvn)
    model = new_model(recipe, store.tokenizer, cmvn)
    if init_from is not None:
        if checkpoint is None and world.is_first:
            cmvn = copy_weights(model, store.tokenizer, init_from, say) or cmvn
        _hold_still(model, init_from, say)
    state = build_state(model, recipe, world)
    if recipe.train.compile:
        model.encoder.compile(dynamic=True)
    return state, cmvn


def _hold_still(model: U2Model, init_from: InitFrom, say: Callable[[str], None]) -> None:
    """What fine-tuning leaves as it is, and says: frozen parameters, statistics of batch norms."""
    if init_from.freeze:
        frozen = freeze(model, init_from.freeze)
        total = sum(parameter.numel() for parameter in model.parameters())
        say(f"frozen: {', '.join(init_from.freeze)}, {frozen:,} of {total:,} parameters")
    if model.keep_statistics():
        say("batch_norm keeps the statistics of the model that training started from")


def _with_loader(
    recipe: Recipe,
    store: Store,
    state: TrainState,
    world: World,
    cmvn: CmvnStats,
    init_from: InitFrom | None,
) -> Setup:
    loader = _loader(recipe, store, world)
    return Setup(
        recipe=recipe,
        store=store,
        state=state,
        loader=loader,
        total_steps=loader.plan.total_steps(recipe.train.epochs),
        num_parameters=sum(p.numel() for p in state.model.parameters()),
        train_hours=float(store.split("train").seconds.sum()) / 3600,
        has_dev="dev" in store.info["splits"] and len(store.split("dev").keys) > 0,
        cmvn=cmvn,
        init_from=init_from,
    )


def _loader(recipe: Recipe, store: Store, world: World) -> Loader:
    pinned = world.device.type == "cuda"
    return Loader(store, recipe, rank=world.rank, world_size=world.size, pin_memory=pinned)


def _say_start(setup: Setup, checkpoint: Checkpoint | None, say: Callable[[str], None]) -> None:
    epochs = setup.recipe.train.epochs
    say(
        f"{setup.num_parameters / 1e6:.2f} M parameters, {setup.train_hours:.2f} h of training "
        f"speech, {setup.total_steps} steps in {epochs} epochs"
    )
    if not setup.has_dev:
        say("the store has no dev split: nothing is validated, the newest checkpoints are averaged")
    if checkpoint is not None:
        at, start = setup.state.position, setup.init_from
        say(
            f"going on from {checkpoint.path}: weights, optimizer moments, learning rate, epoch "
            f"{at.epoch + 1}, step {at.epoch_step} of it, {at.step} of {setup.total_steps} in all"
            f"{'' if start is None else f'; its training started from {start.model}'}"
        )
