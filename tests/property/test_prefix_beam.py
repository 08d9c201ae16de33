"""Our pruned prefix search against the plain one: equal n-best, bit-equal scores, equal times."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rayasr.decode.ctc_search import ctc_greedy, ctc_prefix_beam
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
