"""One training step: the losses of its micro-batches, the summed gradient, the update."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from rayasr.config import Recipe
from rayasr.data.batch import Batch
from rayasr.data.loader import LoadedStep
from rayasr.model.losses import Losses
from rayasr.model_config import ModelConfig
from rayasr.train.optim import clip_gradients, set_learning_rate, update_weights
from rayasr.train.state import NUM_EXTRAS, TrainState


class StepResult(NamedTuple):
    """What a step leaves on the device; nothing here has been waited for."""

    extras: Tensor
    """(NUM_EXTRAS,), summed over workers: loss, CTC, attention, stop code, checkpoint wanted."""
    grad_norm: Tensor
    skipped: Tensor
    losses: list[Tensor]
    """This worker's loss of each micro-batch, to find what made a gradient non-finite."""


def train_step(
    state: TrainState,
    loaded: LoadedStep,
    recipe: Recipe,
    lr: float,
    signals: tuple[float, float] = (0.0, 0.0),
) -> StepResult:
    """One update; losses are divided by the step's utterances (or units) over all workers.

    `signals` are this worker's stop code and its wish for a checkpoint; they come back summed.
    """
    device = state.reducer.gradients[0].device
    extras = torch.zeros(NUM_EXTRAS, dtype=state.dtype, device=device)
    if any(signals):
        extras[3:] = torch.tensor(signals, dtype=state.dtype)
    set_learning_rate(state.optimizer, lr)
    if not state.model.training:  # asked, because setting it visits every module
        state.model.train()
    state.reducer.zero()
    micro_losses: list[Tensor] = []
    for index, batch in enumerate(loaded.batches):
        loss = forward(state, batch, recipe.model, loaded, extras)
        micro_losses.append(loss.detach())
        if index == len(loaded.batches) - 1:
            state.reducer.arm(extras)
        (loss if state.scale is None else loss * state.scale.value).backward()  # type: ignore[no-untyped-call]
    if not loaded.batches:  # fewer micro-batches than workers: this one adds zeros
        state.reducer.arm(extras)
    extras = state.reducer.finish().clone()
    scale = None if state.scale is None else state.scale.value
    grad_norm = clip_gradients(state.reducer.gradients, recipe.optim.max_grad_norm, scale)
    skipped = update_weights(state.optimizer, grad_norm)
    if state.scale is not None:
        state.scale.update(skipped)
    if state.average is not None:
        state.average.update(state.position.step)
    return StepResult(extras, grad_norm, skipped, micro_losses)


def forward(
    state: TrainState, batch: Batch, config: ModelConfig, loaded: LoadedStep, extras: Tensor
) -> Tensor:
    """This micro-batch's share of the step's loss; adds its parts to `extras`."""
    device = extras.device
    batch = batch.to(device)
    torch.manual_seed(batch.seed)  # dropout, dither and chunk size belong to the micro-batch
    with autocast(state, device):
        losses = state.model(
            batch.features.to(state.dtype), batch.feature_lengths, batch.tokens, batch.token_lengths
        )
    loss, ctc, attention = combine(losses, config, loaded.num_utterances, loaded.num_units)
    extras[:3] += torch.stack([loss, ctc, attention]).detach().to(extras.dtype)
    return loss


def combine(
    losses: Losses, config: ModelConfig, num_utterances: int, num_units: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, CTC, attention) from sums over utterances: each divided by its denominator.

    The attention loss also has the end of sentence to predict, once per utterance.
    """
    ctc = losses.ctc / num_utterances
    normalized = config.length_normalized_loss
    attention = losses.attention / (num_units + num_utterances if normalized else num_utterances)
    loss = config.ctc_weight * ctc + (1.0 - config.ctc_weight) * attention
    if config.alignment_weight > 0.0:
        loss = loss + config.alignment_weight * losses.alignment / num_utterances
    return loss, ctc, attention


def autocast(state: TrainState, device: torch.device) -> AbstractContextManager[object]:
    """The forward pass's number format."""
    if state.autocast is None:
        return nullcontext()
    return torch.autocast(device.type, dtype=state.autocast)
