"""Spans of CTC's best path, held against an enumeration of all paths."""

import itertools

import pytest
import torch

from rayasr.model.alignment import Spans, alignment_spans, best_path, span_loss
from rayasr.model.u2 import U2Model, build_model
from rayasr.model_config import ModelConfig


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
    tokens = torch.tensor([[1, 2]])
    left, right = alignment_spans(log_probs, torch.tensor([9]), tokens, torch.tensor([2]))
    frames = [[t for t in range(9) if row[t]] for row in left.frames[0]]
    assert frames == [[0, 1, 2, 3, 4], [4, 5, 6, 7], [7, 8]]
    mirrored = [[t for t in range(9) if row[t]] for row in right.frames[0]]
    assert mirrored == [frames[1], frames[0], [0, 1]]
    assert left.counted.all()


def test_an_utterance_that_ctc_does_not_know_yet_is_left_out() -> None:
    log_probs = torch.zeros(1, 8, 5).log_softmax(2)
    tokens = torch.tensor([[1, 2]])
    left, _ = alignment_spans(log_probs, torch.tensor([8]), tokens, torch.tensor([2]))
    assert not left.counted.any()


def test_the_loss_is_small_only_where_attention_is_inside() -> None:
    spans = torch.zeros(1, 2, 4, dtype=torch.bool)
    spans[0, 0, :2] = spans[0, 1, 2:] = True
    where = Spans(spans, torch.ones(1, 2, dtype=torch.bool))
    inside = torch.tensor([[[[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]]])
    assert span_loss(inside, where).item() == pytest.approx(0.0)
    assert span_loss(inside.flip(3), where).item() > 10


def test_training_with_an_alignment_weight_has_its_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    model, arguments = _model(alignment_weight=0.5)
    for weight in model.ctc.parameters():  # every unit as likely as any other, in each frame
        weight.data.zero_()
    assert model(*arguments).alignment.item() == 0.0  # CTC is not believed yet
    monkeypatch.setattr("rayasr.model.alignment.CONFIDENT_LOG_PROB", -1000.0)
    assert model(*arguments).alignment.item() > 0.0
    model.eval()
    assert model(*arguments).alignment.item() == 0.0


def test_unit_variance_divides_what_the_forward_pass_multiplies() -> None:
    plain, _ = _model(init="wenet")
    scaled, _ = _model(init="unit_variance")
    different = {
        name
        for (name, a), b in zip(plain.named_parameters(), scaled.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert different == {
        "encoder.embed.out.0.weight",
        "encoder.embed.out.0.bias",
        "decoder.left_decoder.embed.0.weight",
        "decoder.right_decoder.embed.0.weight",
    }
    ratio = plain.encoder.embed.out[0].weight / scaled.encoder.embed.out[0].weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, 4.0))


def _model(**settings: object) -> tuple[U2Model, tuple[torch.Tensor, ...]]:
    """A small U2++ model of one seed, and a batch for it."""
    torch.manual_seed(0)
    encoder = {"output_size": 16, "linear_units": 16, "num_blocks": 1, "attention_heads": 2}
    decoder = {"linear_units": 16, "num_blocks": 1, "r_num_blocks": 1, "attention_heads": 2}
    config = ModelConfig.model_validate({"encoder": encoder, "decoder": decoder} | settings)
    model = build_model(config, num_mel_bins=20, vocab_size=7, sos_eos_id=2)
    tokens = torch.tensor([[3, 4, 5], [6, -1, -1]])
    lengths = torch.tensor([60, 40])
    return model, (torch.randn(2, 60, 20), lengths, tokens, torch.tensor([3, 1]))
