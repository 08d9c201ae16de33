"""The count of operations against one made by hand, and against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from rayasr.config import Recipe
from rayasr.model.u2 import build_model
from rayasr.train.flops import matmul_rate, training_flops
from tests.factories import tiny_training_recipe


def test_full_size_model_costs_what_was_counted_by_hand():
    """U2++ of WeNet's recipe, 16 utterances, 76.6 s, 15 units each: about 543 GFLOP."""
    flops = training_flops(Recipe(), 4233, 7660, 16 * 15, 16)
    assert flops == pytest.approx(543e9, rel=0.05)


def test_torch_counts_the_same():
    recipe = tiny_training_recipe()
    torch.manual_seed(0)
    model = build_model(recipe.model, num_mel_bins=20, vocab_size=13, sos_eos_id=2).train()
    frames, units = torch.full((2,), 203), torch.full((2,), 6)
    counter = FlopCounterMode(display=False)
    with counter:
        tokens = torch.full((2, 6), 5)
        losses = model(torch.randn(2, 203, 20), frames, tokens, units, chunk_size=-1)
        (losses.ctc + losses.attention).backward()
    ours = training_flops(recipe, 13, 406, 12, 2)
    assert ours == pytest.approx(counter.get_total_flops(), rel=0.35)


def test_a_device_has_a_rate():
    assert matmul_rate(torch.device("cpu"), torch.float32) > 1e8
