"""rayasr/decode/ctc_search.py on small cases that can be worked out by hand."""

import itertools
import math

import pytest
import torch

from rayasr.decode.ctc_search import ctc_alignment, ctc_greedy, ctc_prefix_beam


def collapse(path):
    merged = [unit for i, unit in enumerate(path) if i == 0 or unit != path[i - 1]]
    return tuple(unit for unit in merged if unit)


def test_greedy_merges_repeats_and_drops_blanks():
    path = [0, 2, 2, 0, 2, 1, 1, 1]
    log_probs = torch.full((1, 9, 3), -5.0)
    log_probs[0, torch.arange(8), torch.tensor(path)] = -0.5
    (found,) = ctc_greedy(log_probs, torch.tensor([8]))
    assert found.units == (2, 2, 1)
    assert found.times == (2, 4, 7)  # the last frame of each run
    assert found.score == pytest.approx(-4.0)


def test_prefix_scores_are_sums_over_all_paths():
    torch.manual_seed(4)
    log_probs = torch.randn(5, 3).log_softmax(1)
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(3), repeat=5):
        score = sum(float(log_probs[t, unit]) for t, unit in enumerate(path))
        units = collapse(path)
        total[units] = total.get(units, 0.0) + math.exp(score)
    (found,) = ctc_prefix_beam(log_probs[None], torch.tensor([5]), 200)
    possible = [item for item in found if item.score > -math.inf]
    assert len(possible) == len(total)
    for item in possible:
        assert math.exp(item.score) == pytest.approx(total[item.units], rel=1e-5)
    scores = [item.score for item in found]
    assert scores == sorted(scores, reverse=True)


def test_no_frames_is_the_empty_prefix():
    (found,) = ctc_prefix_beam(torch.zeros(1, 0, 4), torch.tensor([0]), 3)
    assert [(item.units, item.score, item.times) for item in found] == [((), 0.0, ())]


@pytest.mark.parametrize("seed", range(8))
def test_alignment_is_the_best_path_of_its_units(seed):
    generator = torch.Generator().manual_seed(seed)
    padded = torch.randn(2, 8, 3, generator=generator).log_softmax(2)  # beside a longer one
    log_probs = padded[0, :6]
    units = [(1,), (1, 2), (2, 2), (1, 2, 1)][seed % 4]
    paths = [p for p in itertools.product(range(3), repeat=6) if collapse(p) == units]
    best = max(paths, key=lambda p: sum(float(log_probs[t, u]) for t, u in enumerate(p)))
    ends = tuple(t for t in range(6) if best[t] and (t == 5 or best[t + 1] != best[t]))
    assert ctc_alignment(padded, torch.tensor([6, 8]), [units, (1, 2, 1, 2)])[0] == ends


def test_what_cannot_be_aligned_has_no_times():
    log_probs = torch.zeros(4, 2, 3)
    log_probs[3, :, 2] = -math.inf
    units = [(1, 1), (), (1, 2), (2, 1)]  # a repeat needs a blank between; 2 cannot be here
    assert ctc_alignment(log_probs, torch.full((4,), 2), units) == [(), (), (0, 1), ()]
