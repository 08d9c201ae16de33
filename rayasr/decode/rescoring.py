"""Attention rescoring: the decoders score what CTC prefix search found.

The parts of the score are kept apart, so that weights can be tried without running a network again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp

import torch
from torch import Tensor

from rayasr.decode.hypothesis import Hypothesis, best_of, mean_probability
from rayasr.model.u2 import U2Model

MAX_ROW_FRAMES = 30_000
"""Encoder frames over all hypotheses of one decoder pass: bounds memory, changes no result."""


@dataclass(frozen=True, slots=True)
class ScoredNbest:
    """An utterance's n-best by CTC with the decoders' log-probabilities of it."""

    nbest: tuple[Hypothesis, ...]
    left: tuple[tuple[float, ...], ...]
    """For each hypothesis those of its units, then of `<eos>`."""
    right: tuple[tuple[float, ...], ...] | None
    """The same by the right-to-left decoder, units in their own order; None where there is none."""

    def best(self, ctc_weight: float, reverse_weight: float) -> Hypothesis:
        """The hypothesis with the largest total, which becomes its score; ties: CTC's order."""
        return self.ranked(ctc_weight, reverse_weight, 1)[0]

    def ranked(self, ctc_weight: float, reverse_weight: float, count: int) -> list[Hypothesis]:
        """The `count` best by their totals, which become their scores; ties: CTC's order."""
        totals = self.totals(ctc_weight, reverse_weight)
        order = sorted(range(len(totals)), key=totals.__getitem__, reverse=True)
        return [self._rescored(i, totals[i], ctc_weight, reverse_weight) for i in order[:count]]

    def totals(self, ctc_weight: float, reverse_weight: float) -> list[float]:
        """left x (1 - reverse_weight) + right x reverse_weight + ctc_weight x CTC, for each."""
        right, share = (self.right, reverse_weight) if self.right else (self.left, 0.0)
        return [
            sum(left) * (1.0 - share) + sum(back) * share + ctc_weight * hypothesis.score
            for left, back, hypothesis in zip(self.left, right, self.nbest, strict=True)
        ]

    def _rescored(
        self, i: int, total: float, ctc_weight: float, reverse_weight: float
    ) -> Hypothesis:
        found = self.nbest[i]
        probabilities = [exp(value) for value in self.left[i][:-1]]
        if self.right and reverse_weight > 0.0:  # whatever the weight, as in WeNet
            pairs = zip(probabilities, self.right[i], strict=False)
            probabilities = [(left + exp(right)) / 2 for left, right in pairs]
        mean = mean_probability(total - ctc_weight * found.score, len(found.units))
        return replace(found, score=total, confidence=mean, unit_confidences=tuple(probabilities))


def score_nbest(
    model: U2Model,
    nbests: Sequence[Sequence[Hypothesis]],
    encoder_out: Tensor,
    lengths: Tensor,
) -> list[ScoredNbest]:
    """Score the n-best lists of a batch; `encoder_out` (B, T, D), `lengths` (B,).

    Prefixes that no path leads to (a beam wider than there are prefixes has some) are left out.
    """
    nbests = [best_of(nbest, len(nbest)) for nbest in nbests]
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
    nbests: Sequence[Sequence[Hypothesis]],
    encoder_out: Tensor,
    lengths: Tensor,
) -> list[ScoredNbest]:
    """Score some utterances' lists in one decoder pass; shorter lists are filled with ()."""
    device = encoder_out.device
    width = max(len(nbest) for nbest in nbests)
    rows = [(*(item.units for item in nbest), *[()] * (width - len(nbest))) for nbest in nbests]
    units = [row for filled in rows for row in filled]  # (B x width)
    left, right = model.decoder_log_probs(
        _with_sos(units, model.sos_eos_id).to(device),
        torch.tensor([len(row) + 1 for row in units], device=device),
        encoder_out,
        (torch.arange(encoder_out.shape[1], device=device) < lengths[:, None]).unsqueeze(1),
        1.0,  # any weight above 0: both decoders, weighted later
    )  # (B x width, L + 1, V) each
    left_rows = _unit_scores(left, units, model.sos_eos_id)
    right_rows: list[tuple[float, ...]] | None = None
    if model.bidirectional:
        backwards = _unit_scores(right, [row[::-1] for row in units], model.sos_eos_id)
        right_rows = [(*row[-2::-1], row[-1]) for row in backwards]
    scored = []
    for i, nbest in enumerate(nbests):
        part = slice(i * width, i * width + len(nbest))
        back = None if right_rows is None else tuple(right_rows[part])
        scored.append(ScoredNbest(tuple(nbest), tuple(left_rows[part]), back))
    return scored


def _with_sos(units: Sequence[Sequence[int]], sos_eos_id: int) -> Tensor:
    """Rows of units behind `<sos>`, padded with `<eos>`: (N, L + 1) int64."""
    longest = max(len(row) for row in units)
    return torch.tensor(
        [[sos_eos_id, *row] + [sos_eos_id] * (longest - len(row)) for row in units],
        dtype=torch.int64,
    )


def _unit_scores(
    log_probs: Tensor, units: Sequence[Sequence[int]], sos_eos_id: int
) -> list[tuple[float, ...]]:
    """Log-probabilities of each row's units and the `<eos>` behind them, from (N, L + 1, V)."""
    targets = _with_sos(units, sos_eos_id)[:, 1:]
    targets = torch.nn.functional.pad(targets, (0, 1), value=sos_eos_id).to(log_probs.device)
    picked = log_probs.gather(2, targets.unsqueeze(2)).squeeze(2).tolist()  # (N, L + 1)
    return [tuple(values[: len(row) + 1]) for values, row in zip(picked, units, strict=True)]
