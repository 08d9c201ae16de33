"""rayasr/decode/rescoring.py: the decoders' scores, however rows are grouped."""

import math

import pytest
import torch

from rayasr.decode import rescoring
from rayasr.decode.hypothesis import Hypothesis
from rayasr.decode.rescoring import ScoredNbest, score_nbest


def hypothesis(*units, score=0.0):
    return Hypothesis(units, score, tuple(range(len(units))))


@pytest.fixture
def encoded(tiny):
    torch.manual_seed(0)
    with torch.no_grad():
        return tiny.model.encode(torch.randn(3, 60, 20), torch.tensor([60, 31, 44]))


NBESTS = [
    [hypothesis(3, 4, 5), hypothesis()],
    [hypothesis(7)],
    [hypothesis(4, 4), hypothesis(5, 6, 7, 8), hypothesis(9)],
]


def test_scores_are_sums_over_units_and_eos(tiny, encoded):
    encoder_out, lengths = encoded
    scored = score_nbest(tiny.model, NBESTS, encoder_out, lengths)
    frames = encoder_out[:1, : lengths[0]]
    hyps = torch.tensor([[2, 3, 4, 5]])
    with torch.no_grad():
        left, right = tiny.model.forward_attention_decoder(hyps, torch.tensor([4]), frames, 0.3)
    forward = [float(left[0, i, unit]) for i, unit in enumerate([3, 4, 5, 2])]
    backward = [float(right[0, i, unit]) for i, unit in [(2, 3), (1, 4), (0, 5), (3, 2)]]
    assert scored[0].left[0] == pytest.approx(forward, abs=1e-4)
    assert scored[0].right[0] == pytest.approx(backward, abs=1e-4)
    assert [len(row) for row in scored[2].left] == [3, 5, 2]
    assert scored[0].totals(0.0, 0.25)[0] == pytest.approx(
        0.75 * sum(forward) + 0.25 * sum(backward), abs=1e-4
    )
    best = scored[0].ranked(0.0, 0.25, 2)[0 if scored[0].best(0.0, 0.25).units else 1]
    means = [(math.exp(a) + math.exp(b)) / 2 for a, b in zip(forward, backward, strict=True)]
    assert best.unit_confidences == pytest.approx(means[:3], abs=1e-5)
    assert best.confidence == pytest.approx(math.exp(best.score / 4))


def test_grouping_changes_nothing(tiny, encoded, monkeypatch):
    encoder_out, lengths = encoded
    together = score_nbest(tiny.model, NBESTS, encoder_out, lengths)
    monkeypatch.setattr(rescoring, "MAX_ROW_FRAMES", 1)
    apart = score_nbest(tiny.model, NBESTS, encoder_out, lengths)
    for a, b in zip(together, apart, strict=True):
        assert a.nbest == b.nbest
        for ours, theirs in zip(a.left + a.right, b.left + b.right, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


def test_weights():
    scored = ScoredNbest(
        (hypothesis(1, score=-1.0), hypothesis(2, score=-4.0)),
        ((-6.0, -2.0), (-5.0, -1.0)),
        ((-4.0, -1.0), (-1.0, -2.0)),
    )
    assert scored.totals(0.5, 0.25) == [-0.75 * 8 - 0.25 * 5 - 0.5, -0.75 * 6 - 0.25 * 3 - 2.0]
    assert scored.best(0.0, 0.5).units == (2,)
    assert scored.best(1.0, 0.5).units == (1,)
    assert scored.best(1.0, 0.5).score == -7.5
    assert [item.units for item in scored.ranked(0.0, 0.5, 9)] == [(2,), (1,)]
    both, left_only = scored.best(0.0, 0.5), scored.best(0.0, 0.0)
    assert both.unit_confidences == pytest.approx([(math.exp(-5.0) + math.exp(-1.0)) / 2])
    assert left_only.unit_confidences == pytest.approx([math.exp(-5.0)])
    assert left_only.confidence == pytest.approx(math.exp(-6.0 / 2))
    tie = ScoredNbest((hypothesis(1), hypothesis(2)), ((-0.5, -0.5),) * 2, None)
    assert tie.best(0.5, 0.5).units == (1,)
    assert tie.best(0.5, 0.5).unit_confidences == pytest.approx([math.exp(-0.5)])


def test_impossible_prefixes_are_left_out(tiny, encoded):
    encoder_out, lengths = encoded
    nbest = [hypothesis(3, score=-1.0), hypothesis(3, 3, score=-float("inf"))]
    (scored,) = score_nbest(tiny.model, [nbest], encoder_out[:1], lengths[:1])
    assert scored.nbest == (nbest[0],)
    assert scored.best(0.0, 0.5).units == (3,)
