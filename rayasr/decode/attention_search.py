"""Beam search with the left-to-right attention decoder alone."""

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from rayasr.decode.hypothesis import Hypothesis, best_of, mean_probability
from rayasr.model.u2 import U2Model


@dataclass
class _Beams:
    """Running hypotheses of the utterances that are not done: A of them, N each."""

    index: list[int]  # (A,) row of the batch
    units: Tensor  # (A * N, length so far), `<sos>` first
    unit_scores: Tensor  # (A * N, length so far), log-probability of each, 0 for `<sos>`
    scores: Tensor  # (A, N), best first
    ended: Tensor  # (A, N) bool
    cache: list[Tensor] | None  # by layer: of units (A * N, …), of encoder frames (A, …)
    encoder_out: Tensor  # (A, T, D)
    encoder_mask: Tensor  # (A, 1, T) bool


@torch.no_grad()
def attention_beam(
    model: U2Model,
    encoder_out: Tensor,
    lengths: Tensor,
    beam_size: int,
    length_penalty: float = 0.0,
    nbest: int = 1,
) -> list[list[Hypothesis]]:
    """The `nbest` best hypotheses of each utterance; `encoder_out` (B, T, D), `lengths` (B,).

    Scores count `<eos>`; there are no times, for the decoder knows none. A hypothesis has at most
    as many units as its own utterance has encoder frames (WeNet's limit is that of the padded
    batch, so there a result depends on its neighbours). With a `length_penalty` p, scores are
    compared after division by length^p, `<sos/eos>` not counted.
    """
    limits = lengths.tolist()
    found: dict[int, list[Hypothesis]] = {}
    beams = _start(model, encoder_out, lengths, beam_size)
    step = 0
    while beams.index:
        done = [
            limits[row] <= step or _is_done(beams, i, length_penalty, nbest)
            for i, row in enumerate(beams.index)
        ]
        for i, row in enumerate(beams.index):
            if done[i]:
                found[row] = _best(beams, i, model.sos_eos_id, length_penalty, nbest)
        if any(done):
            beams = _keep(beams, [i for i, is_done in enumerate(done) if not is_done])
        if beams.index:
            _step(model, beams, beam_size)
        step += 1
    return [found[row] for row in range(len(limits))]


def _start(model: U2Model, encoder_out: Tensor, lengths: Tensor, beam_size: int) -> _Beams:
    num, frames, _ = encoder_out.shape
    device = encoder_out.device
    scores = torch.full((num, beam_size), -inf, device=device)
    scores[:, 0] = 0.0
    mask = torch.arange(frames, device=device) < lengths.to(device)[:, None]  # (B, T)
    return _Beams(
        index=list(range(num)),
        units=torch.full((num * beam_size, 1), model.sos_eos_id, device=device),
        unit_scores=torch.zeros(num * beam_size, 1, device=device),
        scores=scores,
        ended=torch.zeros(num, beam_size, dtype=torch.bool, device=device),
        cache=None,
        encoder_out=encoder_out,
        encoder_mask=mask.unsqueeze(1),
    )


def _step(model: U2Model, beams: _Beams, beam_size: int) -> None:
    """Extend every hypothesis by one unit, in place; an ended one stays as it is."""
    eos = model.sos_eos_id
    log_probs, cache = model.decoder_step(
        beams.units, beams.encoder_out, beams.encoder_mask, beams.cache
    )  # (A * N, V)
    num = len(beams.index)
    width = min(beam_size, log_probs.shape[1])
    values, units = log_probs.topk(width, dim=1)  # (A * N, W)
    ended = beams.ended.view(-1, 1)
    only_first = torch.full_like(values, -inf)
    only_first[:, 0] = 0.0
    values = torch.where(ended, only_first, values)
    units = torch.where(ended, eos, units)
    totals = (beams.scores.view(-1, 1) + values).view(num, beam_size * width)
    beams.scores, chosen = totals.topk(beam_size, dim=1)  # (A, N)
    first = torch.arange(num, device=chosen.device).unsqueeze(1) * beam_size
    parent = (first + chosen // width).view(-1)  # (A * N,)
    unit = units.view(num, -1).gather(1, chosen)  # (A, N)
    value = values.view(num, -1).gather(1, chosen)
    beams.units = torch.cat([beams.units[parent], unit.view(-1, 1)], dim=1)
    beams.unit_scores = torch.cat([beams.unit_scores[parent], value.view(-1, 1)], dim=1)
    beams.cache = [part[parent] if i % 2 == 0 else part for i, part in enumerate(cache)]
    beams.ended = unit == eos


def _is_done(beams: _Beams, i: int, length_penalty: float, nbest: int) -> bool:
    """Whether more steps cannot change an utterance's best hypotheses.

    Log-probabilities only fall, so without a length penalty the best have won once they ended.
    """
    ended = beams.ended[i]
    return bool(ended[:nbest].all()) if length_penalty == 0.0 else bool(ended.all())


def _keep(beams: _Beams, kept: list[int]) -> _Beams:
    """The beams of some utterances only."""
    device = beams.scores.device
    chosen = torch.tensor(kept, dtype=torch.int64, device=device)
    num_hyps = beams.scores.shape[1]
    rows = (chosen[:, None] * num_hyps + torch.arange(num_hyps, device=device)).view(-1)
    cache = beams.cache
    if cache is not None:
        cache = [part[rows if i % 2 == 0 else chosen] for i, part in enumerate(cache)]
    return _Beams(
        index=[beams.index[i] for i in kept],
        units=beams.units[rows],
        unit_scores=beams.unit_scores[rows],
        scores=beams.scores[chosen],
        ended=beams.ended[chosen],
        cache=cache,
        encoder_out=beams.encoder_out[chosen],
        encoder_mask=beams.encoder_mask[chosen],
    )


def _best(beams: _Beams, i: int, eos: int, length_penalty: float, nbest: int) -> list[Hypothesis]:
    num_hyps = beams.scores.shape[1]
    rows = slice(i * num_hyps, (i + 1) * num_hyps)
    units, probabilities = beams.units[rows], beams.unit_scores[rows].exp()  # (N, L)
    counts = (units != eos).sum(dim=1)
    ranked = beams.scores[i] / counts.to(beams.scores.dtype).pow(length_penalty)
    found = []
    for row in ranked.argsort(descending=True, stable=True)[:nbest].tolist():
        length, score = int(counts[row]), float(beams.scores[i, row])
        spoken = slice(1, 1 + length)  # <sos>, units, then only <eos>
        kept = tuple(units[row, spoken].tolist()), tuple(probabilities[row, spoken].tolist())
        found.append(Hypothesis(kept[0], score, (), mean_probability(score, length), kept[1]))
    return best_of(found, nbest)
