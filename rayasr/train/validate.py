"""Loss and greedy CER of a split: deterministic, shared out over the workers."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from kaldialign import edit_distance

from rayasr.config import Recipe
from rayasr.data.batch import Batch
from rayasr.decode.ctc_search import ctc_greedy
from rayasr.text import split_units
from rayasr.tokenizer import Tokenizer
from rayasr.train.state import TrainState
from rayasr.train.step import autocast
from rayasr.train.world import World

CHUNK_SIZE = 16
"""Encoder frames (640 ms) of the chunk that streaming models are also validated with."""


@dataclass
class _Sums:
    """What one worker adds up for one chunk size."""

    ctc: float = 0.0
    attention: float = 0.0
    errors: int = 0
    empty: int = 0
    utterances: int = 0
    units: int = 0
    reference: int = 0


@torch.no_grad()
def validate(
    state: TrainState,
    batches: Iterable[Batch],
    recipe: Recipe,
    tokenizer: Tokenizer,
    world: World,
) -> dict[str, float]:
    """Means over a split: dev_loss, dev_loss_ctc, dev_loss_att, dev_cer (or dev_wer), in percent.

    Chunk-trained models get the same with `_chunk16`. `dev_empty` is the share of empty hypotheses.
    Restores training mode, weights and torch's random state need no restoring: nothing is drawn.
    """
    chunks = [-1, CHUNK_SIZE] if recipe.model.encoder.dynamic_chunk else [-1]
    sums = {chunk: _Sums() for chunk in chunks}
    state.model.eval()
    if state.average is not None:
        state.average.swap()
    try:
        for batch in batches:
            on_device = batch.to(world.device)
            for chunk, total in sums.items():
                _add(total, state, on_device, chunk, recipe, tokenizer)
    finally:
        if state.average is not None:
            state.average.swap()
        state.model.train()
    result: dict[str, float] = {}
    for chunk, total in sums.items():
        result |= _means(total, recipe, world, "" if chunk < 0 else f"_chunk{chunk}")
    return result


def _add(
    total: _Sums, state: TrainState, batch: Batch, chunk: int, recipe: Recipe, tokenizer: Tokenizer
) -> None:
    with autocast(state, batch.features.device):
        features = batch.features.to(state.dtype)
        encoder_out, lengths = state.model.encode(features, batch.feature_lengths, chunk)
        losses = state.model.losses(encoder_out, lengths, batch.tokens, batch.token_lengths)
        hypotheses = ctc_greedy(state.model.ctc_log_probs(encoder_out), lengths)
    total.ctc += float(losses.ctc)
    total.attention += float(losses.attention)
    total.utterances += len(batch.keys)
    total.units += int(batch.token_lengths.sum())
    rows = zip(hypotheses, batch.tokens.tolist(), batch.token_lengths.tolist(), strict=True)
    for found, tokens, num_tokens in rows:
        total.empty += not found.units
        reference = split_units(tokenizer.decode(tokens[:num_tokens]), recipe.decode.unit)
        hypothesis = split_units(tokenizer.decode(found.units), recipe.decode.unit)
        total.errors += int(edit_distance(reference, hypothesis)["total"])
        total.reference += len(reference)


def _means(total: _Sums, recipe: Recipe, world: World, suffix: str) -> dict[str, float]:
    values = torch.tensor(
        [
            total.ctc,
            total.attention,
            total.errors,
            total.empty,
            total.utterances,
            total.units,
            total.reference,
        ],
        dtype=torch.float64,
        device=world.device,
    )
    ctc, attention, errors, empty, utterances, units, reference = world.sum_(values).tolist()
    if not utterances:
        return {}
    denominator = utterances + units if recipe.model.length_normalized_loss else utterances
    weight = recipe.model.ctc_weight
    ctc, attention = ctc / utterances, attention / denominator
    rate = "dev_wer" if recipe.decode.unit == "word" else "dev_cer"
    any_values: dict[str, Any] = {
        "dev_loss": weight * ctc + (1.0 - weight) * attention,
        "dev_loss_ctc": ctc,
        "dev_loss_att": attention,
        rate: 100.0 * errors / max(1.0, reference),
        "dev_empty": empty / utterances,
    }
    return {name + suffix: float(value) for name, value in any_values.items()}
