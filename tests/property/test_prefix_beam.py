"""Our pruned prefix search against the plain one: equal n-best, bit-equal scores, equal times."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayasr.decode.ctc_search import GreedySearch, PrefixSearch, ctc_greedy, ctc_prefix_beam
from rayasr.decode.hypothesis import best_of, shared_prefix
from tests.property.prefix_beam_reference import prefix_beam

pytestmark = pytest.mark.property

KINDS = ("plain", "ties", "impossible", "blank", "coarse", "sharp")


def random_log_probs(seed: int, frames: int, units: int, kind: str) -> torch.Tensor:
    """(frames, units) log-probabilities; some kinds have equal or impossible (-inf) units."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(frames, units, generator=generator) * (6.0 if kind == "sharp" else 1.5)
    if kind == "ties":
        logits = logits.round()
    elif kind == "impossible":
        gone = torch.rand(frames, units, generator=generator) < 0.4
        logits = logits.masked_fill(gone, -math.inf)
        logits[:, seed % units] = 0.0
    elif kind == "blank":
        logits[:, 0] += 6.0
    return logits.round() / 2 if kind == "coarse" else logits.log_softmax(dim=1)


@settings(max_examples=400, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    frames=st.integers(0, 24),
    units=st.integers(1, 14),
    beam_size=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
)
def test_equals_the_plain_search(seed, frames, units, beam_size, kind):
    log_probs = random_log_probs(seed, frames, units, kind)
    padded = torch.full((1, frames + 3, units), 5.0)  # what stands in the padding must not matter
    padded[0, :frames] = log_probs
    (found,) = ctc_prefix_beam(padded, torch.tensor([frames]), beam_size)
    expected = prefix_beam(log_probs, beam_size)
    assert [(h.units, h.score, h.times) for h in found] == expected
    for item in found:
        assert item.unit_confidences == peaks(log_probs, beam_size, item.units, item.times)


def peaks(log_probs, beam_size, units, times):
    """Each unit's highest probability behind the end of the one before it, in the frames where the
    search looks at it."""
    found, start = [], 0
    for unit, end in zip(units, times, strict=False):
        rows = [row.topk(min(beam_size, len(row))) for row in log_probs[start : end + 1]]
        pairs = [pair for row in rows for pair in zip(*map(torch.Tensor.tolist, row), strict=True)]
        found.append(max(math.exp(value) for value, other in pairs if other == unit))
        start = end + 1
    return tuple(found)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    cuts=st.lists(st.integers(0, 24), max_size=6).map(sorted),
    units=st.integers(1, 14),
    beam_size=st.integers(1, 12),
    kind=st.sampled_from(KINDS),
)
def test_frames_that_come_in_pieces_change_nothing(seed, cuts, units, beam_size, kind):
    log_probs = random_log_probs(seed, 24, units, kind)
    length = torch.tensor([24])
    (nbest,) = ctc_prefix_beam(log_probs[None], length, beam_size)
    greedy = ctc_greedy(log_probs[None], length)
    for search, whole in ((PrefixSearch(beam_size), nbest), (GreedySearch(), greedy)):
        fixed = ()
        for start, end in itertools.pairwise([0, *cuts, 24]):
            search.advance(log_probs[start:end])
            so_far = best_of(search.nbest(), beam_size)
            before, fixed = fixed, shared_prefix([item.units for item in so_far])
            assert fixed[: len(before)] == before  # what all of the beam shared stays
        assert search.nbest() == whole


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS))
def test_batch_size_does_not_matter(seed, kind):
    lengths = [(seed * 7 + i * 5) % 20 for i in range(4)]
    batch = torch.zeros(4, max(lengths) + 1, 9)
    for i, frames in enumerate(lengths):
        batch[i, :frames] = random_log_probs(seed + i, frames, 9, kind)
    together = ctc_prefix_beam(batch, torch.tensor(lengths), 6)
    greedy = ctc_greedy(batch, torch.tensor(lengths))
    for i, frames in enumerate(lengths):
        alone = batch[i : i + 1, :frames]
        assert ctc_prefix_beam(alone, torch.tensor([frames]), 6) == [together[i]]
        if frames:
            assert ctc_greedy(alone, torch.tensor([frames])) == [greedy[i]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_a_large_vocabulary(seed):
    log_probs = random_log_probs(seed, 12, 4233, "plain")
    (found,) = ctc_prefix_beam(log_probs[None], torch.tensor([12]), 10)
    expected = prefix_beam(log_probs, 10)
    assert [(h.units, h.score, h.times) for h in found] == expected
