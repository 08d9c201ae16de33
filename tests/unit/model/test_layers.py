import pytest
import torch

from rayasr.model.dropout import Dropout, drop, keep_mask
from rayasr.model.subsampling import TABLE_FRAMES, Positions


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5])
def test_dropout_keeps_the_expectation_and_about_the_rate(rate: float) -> None:
    torch.manual_seed(0)
    dropped = drop(torch.ones(200, 1000), rate)
    assert float((dropped == 0).float().mean()) == pytest.approx(rate, abs=0.005)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.01)


def test_dropout_is_off_in_eval_and_added_with_its_factor() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.5)
    x, y = torch.randn(3, 7), torch.randn(3, 7)
    torch.manual_seed(1)
    added = dropout.add(x, y, 0.5)
    torch.manual_seed(1)
    assert torch.allclose(added, x + y * keep_mask(y, 0.5, 0.5))
    dropout.eval()
    assert torch.equal(dropout(x), x)
    assert torch.allclose(dropout.add(x, y, 0.5), x + 0.5 * y)


def test_positions_go_on_beyond_the_table() -> None:
    positions = Positions(8, 0.0, added=False)
    beyond = positions.lookup(TABLE_FRAMES - 2, 4)
    assert torch.allclose(beyond[:, :2], positions.lookup(TABLE_FRAMES - 2, 2))
    assert beyond.shape == (1, 4, 8)
