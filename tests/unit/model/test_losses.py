import pytest
import torch
import torch.nn.functional as F

from rayasr.model.losses import add_sos_eos, attention_loss, ctc_loss, reverse_units


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_equals_a_dense_target(smoothing: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 7, dtype=torch.float64)
    targets = torch.tensor([[1, 4, -1], [6, -1, -1]])
    dense = torch.full_like(logits, smoothing / 6)
    dense.scatter_(2, targets.clamp(min=0)[:, :, None], 1 - smoothing)
    divergence = F.kl_div(logits.log_softmax(2), dense, reduction="none").sum(2)
    expected = divergence[targets != -1].sum()
    assert float(attention_loss(logits, targets, smoothing)) == pytest.approx(float(expected))


def test_an_impossible_alignment_counts_as_zero() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    loss = ctc_loss(
        logits, torch.tensor([3, 3]), torch.tensor([[1, 1, 1], [1, 2, -1]]), torch.tensor([3, 2])
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0].abs().max()) == 0.0


def test_units_with_edges_and_reversed() -> None:
    units, lengths = torch.tensor([[5, 6, 7], [8, -1, -1]]), torch.tensor([3, 1])
    inputs, targets = add_sos_eos(units, lengths, 2)
    assert inputs.tolist() == [[2, 5, 6, 7], [2, 8, 2, 2]]
    assert targets.tolist() == [[5, 6, 7, 2], [8, 2, -1, -1]]
    assert reverse_units(units, lengths, -1).tolist() == [[7, 6, 5], [8, -1, -1]]
