"""Spans of CTC's best path, held against an enumeration of all paths."""

import itertools

import pytest
import torch

from rayasr.model.alignment import alignment_spans, best_path, span_loss


def all_paths(num_frames: int, units: list[int]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every (labels, unit index or -1 per frame) that CTC reads as `units`."""
    states = [0, *itertools.chain.from_iterable((unit, 0) for unit in units)]
    found = []
    for path in itertools.combinations_with_replacement(range(len(states)), num_frames):
        steps = [b - a for a, b in itertools.pairwise(path)]
        skips_fine = all(
            step < 2 or (step == 2 and states[a] != states[a + 2] and states[a] != 0)
            for a, step in zip(path, steps, strict=False)
        )
        if path[0] <= 1 and path[-1] >= len(states) - 2 and skips_fine:
            labels = tuple(states[s] for s in path)
            found.append((labels, tuple(s // 2 if s % 2 else -1 for s in path)))
    return found


@pytest.mark.parametrize("units", [[1], [1, 2], [2, 2], [1, 2, 1]])
def test_best_path_is_the_best_of_all_paths(units: list[int]) -> None:
    generator = torch.Generator().manual_seed(len(units))
    log_probs = torch.randn(1, 6, 3, generator=generator).log_softmax(2)
    path, score = best_path(
        log_probs, torch.tensor([6]), torch.tensor([units]), torch.tensor([len(units)])
    )
    scores = {
        frames: sum(log_probs[0, t, label].item() for t, label in enumerate(labels))
        for labels, frames in all_paths(6, units)
    }
    best = max(scores, key=lambda frames: scores[frames])
    assert tuple(path[0].tolist()) == best
    assert score.item() == pytest.approx(scores[best], abs=1e-5)


def test_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    log_probs = torch.randn(2, 9, 4, generator=generator).log_softmax(2)
    tokens = torch.tensor([[1, 3, 3], [2, -1, -1]])
    lengths, token_lengths = torch.tensor([9, 5]), torch.tensor([3, 1])
    path, scores = best_path(log_probs, lengths, tokens, token_lengths)
    alone, score = best_path(log_probs[1:, :5], lengths[1:], tokens[1:, :1], token_lengths[1:])
    assert path[1, :5].tolist() == alone[0].tolist()
    assert path[1, 5:].tolist() == [-1] * 4
    assert scores[1].item() == pytest.approx(score.item())


def test_spans_reach_half_way_and_the_end_lies_outside() -> None:
    log_probs = torch.full((1, 9, 3), -20.0)
    log_probs[0, :, 0] = 0.0
    for frame, unit in ((2, 1), (6, 2)):
        log_probs[0, frame] = torch.tensor([-20.0, -20.0, -20.0])
        log_probs[0, frame, unit] = 0.0
    spans = alignment_spans(log_probs, torch.tensor([9]), torch.tensor([[1, 2]]), torch.tensor([2]))
    frames = [[t for t in range(9) if row[t]] for row in spans.left[0]]
    assert frames == [[0, 1, 2, 3, 4], [4, 5, 6, 7], [7, 8]]
    mirrored = [[t for t in range(9) if row[t]] for row in spans.right[0]]
    assert mirrored == [frames[1], frames[0], [0, 1]]
    assert spans.counted.all()


def test_an_utterance_that_ctc_does_not_know_yet_is_left_out() -> None:
    log_probs = torch.zeros(1, 8, 5).log_softmax(2)
    spans = alignment_spans(log_probs, torch.tensor([8]), torch.tensor([[1, 2]]), torch.tensor([2]))
    assert not spans.counted.any()


def test_the_loss_is_small_only_where_attention_is_inside() -> None:
    spans = torch.zeros(1, 2, 4, dtype=torch.bool)
    spans[0, 0, :2] = spans[0, 1, 2:] = True
    counted = torch.ones(1, 2, dtype=torch.bool)
    inside = torch.tensor([[[[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]]])
    assert span_loss(inside, spans, counted).item() == pytest.approx(0.0)
    assert span_loss(inside.flip(3), spans, counted).item() > 10
