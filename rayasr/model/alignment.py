"""Where CTC hears each unit, to show the attention decoders where to look.

From little speech an attention decoder does not find out by itself which frames a unit is in,
while CTC does within minutes. Its best path gives each unit a span of frames, and the decoders are
trained to keep their attention inside (in the spirit of guided attention, Tachibana et al. 2018).
The same path tells when a given unit was spoken. Nothing here needs to script.
"""

from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

CONFIDENT_LOG_PROB = -1.0
"""An utterance takes part once the log-probability of its best path exceeds this per unit."""


class Spans(NamedTuple):
    """The frames in which one decoder should look for each unit and for the end of sentence."""

    frames: Tensor
    """bool (B, L + 1, T'), in the order in which the decoder writes."""
    counted: Tensor
    """bool (B, L + 1): positions of utterances whose path is believed."""


@torch.no_grad()
def alignment_spans(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[Spans, Spans]:
    """Spans for the left-to-right and the right-to-left decoder.

    CTC log-probabilities (B, T', V), frames (B,), units (B, L) and their numbers (B,).

    A unit's span reaches half-way to its neighbours; the end of sentence is what lies behind the
    last unit (before the first one, for the right-to-left decoder).
    """
    units_of_frames, scores = best_path(log_probs, lengths, tokens, token_lengths)
    num_frames, num_units = log_probs.size(1), tokens.size(1)
    frames = torch.arange(num_frames, device=tokens.device)
    centers = _mean_frames(units_of_frames, num_units)  # (B, L)
    positions = torch.arange(num_units + 1, device=tokens.device)
    last = token_lengths[:, None]

    end = lengths[:, None].to(centers.dtype)
    centers = torch.where(positions[:-1] < last, centers, end)
    halfway = (torch.cat([-1 - centers[:, :1], centers], 1) + torch.cat([centers, end], 1)) / 2
    below, above = halfway[:, :-1], halfway[:, 1:]  # (B, L): where each span begins and ends
    inside = (frames >= below[:, :, None]) & (frames <= above[:, :, None])  # (B, L, T')

    final = centers.gather(1, (token_lengths - 1).clamp(min=0)[:, None])
    behind = (frames > final) & (frames < lengths[:, None])  # (B, T')
    before = frames < centers[:, :1]
    is_end = (positions == last)[:, :, None]  # (B, L + 1, 1)
    inside = torch.cat([inside, behind[:, None]], dim=1)
    mirrored = torch.where(positions < last, last - 1 - positions, positions)
    reversed_inside = inside.gather(1, mirrored[:, :, None].expand_as(inside))
    believed = scores > CONFIDENT_LOG_PROB * token_lengths
    counted = (positions <= last) & believed[:, None] & (last > 0)
    left = Spans(torch.where(is_end, behind[:, None], inside), counted)
    return left, Spans(torch.where(is_end, before[:, None], reversed_inside), counted)


def span_loss(weights: Tensor, spans: Spans) -> Tensor:
    """-log of the attention mass inside the spans, summed over positions; 0-dim.

    Attention weights (B, H, L + 1, T') are averaged over heads first: heads may specialise.
    """
    mass = (weights.mean(1) * spans.frames).sum(2).clamp(min=1e-6)
    return -(mass.log() * spans.counted).sum()


@torch.no_grad()
def best_path(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """The best CTC path: which unit each frame belongs to, and the path's log-probability.

    Returns int64 (B, T'), an index into `tokens` or -1 for blank and padding, and (B,): -inf, and a
    path of no meaning, where the frames are too few.
    Viterbi over blank, unit, blank, unit, … blank (2 L + 1 states).
    """
    batch, num_frames, _ = log_probs.shape
    states = torch.zeros(batch, 2 * tokens.size(1) + 1, dtype=torch.int64, device=tokens.device)
    states[:, 1::2] = tokens.clamp(min=0)
    emissions = log_probs.gather(2, states[:, None].expand(-1, num_frames, -1))  # (B, T', S)
    may_skip = torch.zeros_like(states, dtype=torch.bool)  # over a blank, to a different unit
    may_skip[:, 3::2] = states[:, 3::2] != states[:, 1:-2:2]
    skip_penalty = torch.where(may_skip, 0.0, -inf)

    scores = torch.full_like(emissions[:, 0], -inf)
    scores[:, :2] = emissions[:, 0, :2]
    history, steps = [scores], []
    for t in range(1, num_frames):
        before = torch.nn.functional.pad(scores, (2, 0), value=-inf)
        arrivals = torch.stack([scores, before[:, 1:-1], before[:, :-2] + skip_penalty])
        best, step = arrivals.max(0)
        scores = best + emissions[:, t]
        history.append(scores)
        steps.append(step)

    rows = torch.arange(batch, device=tokens.device)
    final = torch.stack(history, dim=1)[rows, lengths - 1]  # (B, S)
    in_blank = final.gather(1, 2 * token_lengths[:, None])[:, 0]
    in_unit = final.gather(1, (2 * token_lengths - 1).clamp(min=0)[:, None])[:, 0]
    state = 2 * token_lengths - (in_unit > in_blank).to(torch.int64)
    path = torch.full((batch, num_frames), -1, dtype=torch.int64, device=tokens.device)
    for t in range(num_frames - 1, -1, -1):
        inside = t < lengths
        path[:, t] = torch.where(inside & (state % 2 == 1), state // 2, -1)
        if t > 0:
            came = steps[t - 1].gather(1, state[:, None])[:, 0]
            state = torch.where(inside, state - came, state)
    return path, torch.maximum(in_blank, in_unit)


def _mean_frames(units_of_frames: Tensor, num_units: int) -> Tensor:
    """Mean frame of each unit, float32 (B, L); 0 for units that are not there."""
    index = units_of_frames + 1  # column 0 collects blanks
    frames = torch.arange(index.size(1), device=index.device, dtype=torch.float32)
    sums = torch.zeros(index.size(0), num_units + 1, device=index.device)
    counts = sums.scatter_add(1, index, torch.ones_like(index, dtype=torch.float32))
    sums = sums.scatter_add(1, index, frames.expand(index.shape))
    return (sums / counts.clamp(min=1.0))[:, 1:]
