"""Learning rates, clipping, skipped updates, the moving average."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from rayasr.config import OptimConfig
from rayasr.train.optim import (
    WeightAverage,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
    update_weights,
)


def test_warmup_repeats_the_first_rate_as_wenet_does():
    config = OptimConfig(lr=0.002, warmup_steps=500)
    rates = [learning_rate(config, update, 10_000) for update in range(4)]
    assert rates == pytest.approx([4e-6, 4e-6, 8e-6, 1.2e-5], rel=1e-12)
    assert learning_rate(config, 500, 10_000) == pytest.approx(0.002)
    assert learning_rate(config, 2000, 10_000) == pytest.approx(0.001)


def test_warmup_equals_wenets_rates(shared: Path):
    runs = json.loads((shared / "parity/trajectory/trajectory.json").read_text())["runs"]
    config = OptimConfig(lr=0.001, warmup_steps=50)
    for run in runs.values():
        ours = [learning_rate(config, i, 1000) for i in range(len(run["lr_used"]))]
        assert ours == pytest.approx(run["lr_used"], rel=1e-9)


def test_cosine_rises_then_falls_to_zero():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(config, update, 110) for update in range(110)]
    assert rates[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert rates[59] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert max(rates) == rates[9]


def test_cosine_without_warmup_steps_takes_a_share_of_the_run():
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_fraction=0.1)
    assert learning_rate(config, 9, 100) == pytest.approx(1.0)


def test_clip_equals_torch():
    torch.manual_seed(0)
    gradients = [torch.randn(7, 3), torch.randn(11)]
    parameters = [nn.Parameter(torch.zeros_like(g)) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = nn.utils.clip_grad_norm_(parameters, 0.5)
    assert torch.allclose(clip_gradients(gradients, 0.5, None), expected)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert torch.allclose(parameter.grad, gradient)


def test_clip_divides_the_loss_scale_out():
    gradient = torch.tensor([3.0, 4.0]) * 1024
    norm = clip_gradients([gradient], 100.0, torch.tensor(1024.0))
    assert norm.item() == pytest.approx(5.0)
    assert gradient.tolist() == pytest.approx([3.0, 4.0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_update_with_a_non_finite_norm_is_skipped(bad):
    model = nn.Linear(2, 2)
    optimizer = build_optimizer(model, OptimConfig())
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.full_like(p, bad)
    assert update_weights(optimizer, torch.tensor(bad)).item() == 1.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    assert update_weights(optimizer, torch.tensor(1.0)).item() == 0.0
    assert not torch.equal(before[0], next(model.parameters()))


def test_adamw_decays_matrices_only():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model, OptimConfig(name="adamw", weight_decay=0.5))
    set_learning_rate(optimizer, 0.1)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {decays[id(p)] for p in model.parameters() if p.dim() >= 2} == {0.5}
    assert {decays[id(p)] for p in model.parameters() if p.dim() < 2} == {0.0}
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


def test_average_follows_the_weights_and_swaps():
    parameter = nn.Parameter(torch.zeros(3))
    average = WeightAverage([parameter], decay=0.9)
    with torch.no_grad():
        parameter.fill_(1.0)
    for update in range(200):
        average.update(update)
    assert torch.allclose(average.averages[0], torch.ones(3))
    with torch.no_grad():
        parameter.fill_(2.0)
    average.swap()
    assert torch.allclose(parameter, torch.ones(3))
    average.swap()
    assert torch.equal(parameter, torch.full((3,), 2.0))
