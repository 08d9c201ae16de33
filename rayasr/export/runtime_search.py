"""Search as WeNet's runtimes do it around a network: one for TorchScript, one for ONNX, the same.

A runtime has a network that gives log-probabilities, and decoders that score whole hypotheses; what
to look for, and how to weigh it, is outside of both.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from rayasr.config import Mode
from rayasr.decode.ctc_search import ctc_greedy, ctc_prefix_beam
from rayasr.decode.hypothesis import Hypothesis, best_of

Decoders = Callable[[Sequence[Sequence[int]]], Sequence[Tensor]]
"""Log-probabilities (N, L + 1, V) of what follows each unit of N hypotheses: left to right, and
right to left over the reversed units where there is such a decoder."""


def nearest_mode(wanted: Mode, *, has_decoders: bool) -> Mode:
    """The model's default mode, or the nearest that a runtime has: none searches by attention."""
    if wanted in ("ctc_greedy_search", "ctc_prefix_beam_search"):
        return wanted
    return "attention_rescoring" if has_decoders else "ctc_prefix_beam_search"


def search(
    log_probs: Tensor,
    mode: Mode,
    settings: Mapping[str, Any],
    sos_eos_id: int,
    decoders: Decoders | None,
) -> tuple[int, ...]:
    """Units found in CTC's log-probabilities (T', V); `settings` are those of decoding.json."""
    if not len(log_probs):
        return ()
    length = torch.tensor([len(log_probs)])
    if mode == "ctc_greedy_search":
        return ctc_greedy(log_probs[None], length)[0].units
    (nbest,) = ctc_prefix_beam(log_probs[None], length, settings["beam_size"])
    if mode == "ctc_prefix_beam_search" or decoders is None:
        return nbest[0].units
    found = best_of(nbest, len(nbest))
    scored = decoders([item.units for item in found])
    return rescore(found, scored, sos_eos_id, settings["ctc_weight"], settings["reverse_weight"])


def rescore(
    nbest: Sequence[Hypothesis],
    scored: Sequence[Tensor],
    sos_eos_id: int,
    ctc_weight: float,
    reverse_weight: float,
) -> tuple[int, ...]:
    """The units that decoders and CTC like best together; `scored` as from `Decoders`."""
    left, *right = scored
    share = reverse_weight if right else 0.0
    best, best_score = nbest[0], -inf
    for i, item in enumerate(nbest):
        score = _sum(left[i], item.units, sos_eos_id) * (1.0 - share) + ctc_weight * item.score
        if share > 0.0:
            score += _sum(right[0][i], item.units[::-1], sos_eos_id) * share
        if score > best_score:
            best, best_score = item, score
    return best.units


def _sum(log_probs: Tensor, units: Sequence[int], sos_eos_id: int) -> float:
    """Log-probability of units and the `<eos>` behind them; log_probs (L, V)."""
    steps = torch.tensor([*units, sos_eos_id])
    return float(log_probs[torch.arange(len(steps)), steps].double().sum())
