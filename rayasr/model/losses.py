"""CTC and label-smoothed cross-entropy, as sums over the batch, and what the model returns."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE_ID = -1
"""Padding of unit sequences."""


class Losses(NamedTuple):
    """Sums over the utterances of a batch, 0-dim tensors, in nats; nothing is divided."""

    ctc: Tensor
    attention: Tensor
    """Both directions, weighted."""
    alignment: Tensor
    """Attention outside the spans that CTC gives, both directions; 0 where not asked for."""


def at_least_float32(logits: Tensor) -> Tensor:
    """Half-precision logits in float32; float64 stays float64."""
    return logits if logits.dtype == torch.float64 else logits.float()


def ctc_loss(logits: Tensor, lengths: Tensor, units: Tensor, unit_lengths: Tensor) -> Tensor:
    """CTC loss summed over utterances; blank is 0, an impossible alignment counts as 0.

    Logits (B, T, V), lengths (B,), units (B, L) padded with anything, unit_lengths (B,).
    """
    log_probs = logits.log_softmax(2).transpose(0, 1)  # (T, B, V)
    return F.ctc_loss(
        log_probs, units, lengths, unit_lengths, 0, reduction="sum", zero_infinity=True
    )


def smoothing_entropy(vocab_size: int, smoothing: float) -> float:
    """Σ t log t of the smoothed target t: the part of the loss that no model can lower."""
    if smoothing == 0.0:
        return 0.0
    keep = 1.0 - smoothing
    return keep * math.log(keep) + smoothing * math.log(smoothing / (vocab_size - 1))


def attention_loss(
    logits: Tensor, targets: Tensor, smoothing: float, ignore_id: int = IGNORE_ID
) -> Tensor:
    """KL divergence from the smoothed targets, summed over all units that are not ignore_id.

    Logits (N, L, V), targets (N, L). The target is 1 - s at the unit and s / (V - 1) elsewhere, so
    the sum over the vocabulary needs no dense target: only logsumexp, mean and one column.
    """
    vocab_size = logits.size(2)
    valid = targets != ignore_id
    log_norm = logits.logsumexp(2)
    at_target = logits.gather(2, targets.clamp(min=0)[:, :, None])[:, :, 0] - log_norm
    everywhere = logits.sum(2) - vocab_size * log_norm
    spread = smoothing / (vocab_size - 1)
    loss = smoothing_entropy(vocab_size, smoothing) - (
        (1.0 - smoothing - spread) * at_target + spread * everywhere
    )
    return loss.masked_fill(valid.logical_not(), 0.0).sum()


def add_sos_eos(
    units: Tensor, lengths: Tensor, sos_eos_id: int, ignore_id: int = IGNORE_ID
) -> tuple[Tensor, Tensor]:
    """Decoder input and target, each (B, L + 1), of units (B, L) padded with ignore_id.

    The input starts with <sos>, its padding is <eos>; the target ends with <eos>, then ignore_id.
    """
    edge = torch.full_like(units[:, :1], sos_eos_id)
    inputs = torch.cat([edge, units.masked_fill(units == ignore_id, sos_eos_id)], dim=1)
    targets = torch.cat([units, torch.full_like(edge, ignore_id)], dim=1)
    return inputs, targets.scatter(1, lengths[:, None], edge)


def reverse_units(units: Tensor, lengths: Tensor, padding: int) -> Tensor:
    """Each sequence of (B, L) back to front, padding left where it is."""
    index = lengths[:, None] - 1 - torch.arange(units.size(1), device=units.device)  # (B, L)
    return units.gather(1, index.clamp(min=0)).masked_fill(index < 0, padding)
