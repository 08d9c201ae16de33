"""Before the first step: what would fail in hours fails in the first minute."""

import resource
from collections.abc import Callable

import torch

from rayasr.config import Recipe
from rayasr.data.batch import Batch
from rayasr.data.batch_plan import BatchPlan
from rayasr.data.loader import LoadedStep
from rayasr.errors import TrainingError, first_line
from rayasr.train.state import NUM_EXTRAS, TrainState
from rayasr.train.step import autocast, forward
from rayasr.train.world import World

_SAFE_SHARE = 0.8
"""Share of the free GPU memory that `max_padded_frames: auto` fills; the rest is fragmentation."""
_USUAL = 20_000
"""Padded frames that are tried at least: batches of the validation have the same bound."""


def check_kernels(device: torch.device) -> None:
    """Raises TrainingError where this torch build cannot run on the GPU."""
    if device.type != "cuda":
        return
    try:
        (torch.ones(8, device=device) * 2).sum().item()
    except RuntimeError as error:
        name = torch.cuda.get_device_name(device)
        raise TrainingError(
            f"torch {torch.__version__} has no kernels for {name} ({first_line(error)}); "
            "install a torch build for this GPU, or train with --devices cpu"
        ) from error


def try_batches(
    state: TrainState,
    validation: Batch | None,
    worst: list[Batch],
    recipe: Recipe,
    world: World,
) -> None:
    """A validation batch forward, then the worst micro-batches forward and backward.

    Leaves no trace: buffers are restored, gradients cleared. Raises TrainingError naming the
    setting to turn where memory runs out.
    """
    buffers = [buffer.clone() for buffer in state.model.buffers()]
    try:
        if validation is not None:
            state.model.eval()
            batch = validation.to(world.device)
            with torch.no_grad(), autocast(state, world.device):
                state.model.encode(batch.features.to(state.dtype), batch.feature_lengths)
        state.model.train()
        for batch in worst:
            _try(state, batch, recipe, world)
    finally:
        for buffer, kept in zip(state.model.buffers(), buffers, strict=True):
            buffer.copy_(kept)
        state.reducer.zero()


def find_max_padded_frames(
    state: TrainState,
    recipe: Recipe,
    world: World,
    plan: BatchPlan,
    longest: int,
    notes: Callable[[str], None],
) -> int:
    """The bound, in padded frames, up to which this GPU holds micro-batches; 20,000 on a CPU.

    A bound never enlarges a micro-batch, it divides the groups that frames_per_step and
    micro_batches make. So first what holds the largest of them is tried, with made-up utterances of
    the `longest` length; only where that does not fit, the largest that does is searched.
    """
    if world.device.type != "cuda":
        return _USUAL
    largest = max(batch.padded_frames for batch in plan.worst_micro_batches())
    low, high = longest, max(_USUAL, longest, round(largest / _SAFE_SHARE))
    if _fits(state, recipe, world, high, longest):
        found = high
    else:
        while high - low > low // 8:
            middle = (low + high) // 2
            fits = _fits(state, recipe, world, middle, longest)
            low, high = (middle, high) if fits else (low, middle)
        found = max(longest, int(low * _SAFE_SHARE))
    notes(f"batch.max_padded_frames: auto found {found}; the largest micro-batch has {largest}")
    return found


def memory_used(device: torch.device) -> float:
    """Most memory used so far in GiB: the GPU's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _try(state: TrainState, batch: Batch, recipe: Recipe, world: World) -> None:
    batch_size, frames = batch.features.shape[:2]
    units = int(batch.token_lengths.sum())
    loaded = LoadedStep(0, 0, [batch], batch_size, units, frames, frames * batch_size, 0.0)
    extras = torch.zeros(NUM_EXTRAS, dtype=state.dtype, device=world.device)
    try:
        forward(state, batch, recipe.model, loaded, extras).backward()  # type: ignore[no-untyped-call]
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        more = "" if recipe.batch.frames_per_step else " and raise batch.micro_batches by as much"
        raise TrainingError(
            f"the largest micro-batch ({batch_size} utterances, {batch_size * frames} padded "
            f"frames) does not fit into memory; lower batch.max_padded_frames"
            f" ({recipe.batch.max_padded_frames}){more}"
        ) from error


def _fits(state: TrainState, recipe: Recipe, world: World, frames: int, longest: int) -> bool:
    utterances = max(1, frames // longest)
    units = max(1, min(longest // 10, recipe.batch.max_padded_units // utterances))
    batch = Batch(
        features=torch.randn(utterances, longest, recipe.features.num_mel_bins),
        feature_lengths=torch.full((utterances,), longest),
        tokens=torch.ones(utterances, units, dtype=torch.int64),
        token_lengths=torch.full((utterances,), units),
        keys=["made up"] * utterances,
        seed=0,
    )
    try:
        try_batches(state, None, [batch], recipe, world)
    except TrainingError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True
