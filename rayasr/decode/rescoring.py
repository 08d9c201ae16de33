"""Attention rescoring: the decoders score what CTC prefix search found.

The parts of the score are kept apart, so that weights can be tried without running a network again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from rayasr.decode.ctc_search import CtcHypothesis
from rayasr.model.u2 import U2Model

MAX_ROW_FRAMES = 30_000
"""Encoder frames over all hypotheses of one decoder pass: bounds memory, changes no result."""


@dataclass(frozen=True, slots=True)
class ScoredNbest:
    """An utterance's n-best with log-probabilities by both decoders, `<eos>` counted."""

    nbest: tuple[CtcHypothesis, ...]
    left: tuple[float, ...]
    right: tuple[float, ...] | None
    """None for a model without a right-to-left decoder."""

    def totals(self, ctc_weight: float, reverse_weight: float) -> list[float]:
        """left x (1 - reverse_weight) + right x reverse_weight + ctc_weight x CTC, for each."""
        right, share = (self.right, reverse_weight) if self.right else (self.left, 0.0)
        return [
            left * (1.0 - share) + back * share + ctc_weight * hypothesis.score
            for left, back, hypothesis in zip(self.left, right, self.nbest, strict=True)
        ]

    def best(self, ctc_weight: float, reverse_weight: float) -> CtcHypothesis:
        """The hypothesis with the largest total, which becomes its score; ties: CTC's order."""
        totals = self.totals(ctc_weight, reverse_weight)
        index = max(range(len(totals)), key=totals.__getitem__)
        found = self.nbest[index]
        return CtcHypothesis(found.units, totals[index], found.times)


def score_nbest(
    model: U2Model,
    nbests: Sequence[Sequence[CtcHypothesis]],
    encoder_out: Tensor,
    lengths: Tensor,
) -> list[ScoredNbest]:
    """Score the n-best lists of a batch; `encoder_out` (B, T, D), `lengths` (B,).

    Prefixes that no path leads to (a beam wider than there are prefixes has some) are left out.
    """
    nbests = [[item for item in nbest if item.score > -inf] or nbest[:1] for nbest in nbests]
    scored: list[ScoredNbest] = []
    frames = lengths.tolist()
    start = 0
    while start < len(nbests):
        stop, rows, longest = start, 0, 0
        while stop < len(nbests):
            rows += len(nbests[stop])
            longest = max(longest, frames[stop])
            if stop > start and rows * longest > MAX_ROW_FRAMES:
                break
            stop += 1
        part = slice(start, stop)
        longest = max(frames[part])
        scored += _score_rows(model, nbests[part], encoder_out[part, :longest], lengths[part])
        start = stop
    return scored


@torch.no_grad()
def _score_rows(
    model: U2Model,
    nbests: Sequence[Sequence[CtcHypothesis]],
    encoder_out: Tensor,
    lengths: Tensor,
) -> list[ScoredNbest]:
    """Score some utterances' lists in one decoder pass: one row per hypothesis."""
    device = encoder_out.device
    units = [hypothesis.units for nbest in nbests for hypothesis in nbest]
    owner = torch.repeat_interleave(
        torch.arange(len(nbests)), torch.tensor([len(nbest) for nbest in nbests])
    ).to(device)  # (N,) utterance of each row
    left, right = model.decoder_log_probs(
        _with_sos(units, model.sos_eos_id).to(device),
        torch.tensor([len(row) + 1 for row in units], device=device),
        encoder_out[owner],
        (torch.arange(encoder_out.shape[1], device=device) < lengths[owner, None]).unsqueeze(1),
        1.0,  # any weight above 0: both decoders, weighted later
    )  # (N, L + 1, V) each
    left_scores = _sum_units(left, units, model.sos_eos_id)
    right_scores = None
    if model.bidirectional:
        right_scores = _sum_units(right, [row[::-1] for row in units], model.sos_eos_id)
    scored, first = [], 0
    for nbest in nbests:
        rows = slice(first, first + len(nbest))
        backward = None if right_scores is None else tuple(right_scores[rows])
        scored.append(ScoredNbest(tuple(nbest), tuple(left_scores[rows]), backward))
        first += len(nbest)
    return scored


def _with_sos(units: Sequence[Sequence[int]], sos_eos_id: int) -> Tensor:
    """Rows of units behind `<sos>`, padded with `<eos>`: (N, L + 1) int64."""
    longest = max(len(row) for row in units)
    return torch.tensor(
        [[sos_eos_id, *row] + [sos_eos_id] * (longest - len(row)) for row in units],
        dtype=torch.int64,
    )


def _sum_units(log_probs: Tensor, units: Sequence[Sequence[int]], sos_eos_id: int) -> list[float]:
    """Log-probability of each row's units and the `<eos>` behind them, added in float64."""
    targets = _with_sos(units, sos_eos_id)[:, 1:]
    targets = torch.nn.functional.pad(targets, (0, 1), value=sos_eos_id).to(log_probs.device)
    picked = log_probs.gather(2, targets.unsqueeze(2)).squeeze(2).double().cpu()  # (N, L + 1)
    position = torch.arange(picked.shape[1])
    counted = position <= torch.tensor([len(row) for row in units])[:, None]
    sums: list[float] = torch.where(counted, picked, 0.0).sum(dim=1).tolist()
    return sums
