"""Gradient buckets: views, extras, and sums over real gloo workers in threads' stead."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from rayasr.train.reducer import GradientReducer, _group
from rayasr.train.world import World


def make_model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def test_gradients_are_views_that_accumulate():
    model = make_model()
    parameters = list(model.parameters())
    reducer = GradientReducer(parameters, World.single(), num_extras=2, bucket_bytes=100)
    x = torch.randn(5, 4, dtype=torch.float64)
    model(x).sum().backward()
    model(x).sum().backward()
    reducer.arm(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert reducer.finish().tolist() == [1.0, 2.0]
    flat = torch.cat([p.grad.flatten() for p in reversed(parameters)])
    assert torch.equal(torch.cat(reducer.gradients), flat)
    reducer.zero()
    assert all(p.grad.abs().sum() == 0 for p in parameters)


def test_groups_split_by_size_and_dtype():
    parameters = [nn.Parameter(torch.zeros(10)) for _ in range(4)]
    parameters.insert(2, nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    sizes = [len(group) for group in _group(parameters, bucket_bytes=80)]
    assert sizes == [2, 1, 2]
    assert [len(g) for g in _group(parameters[:1], bucket_bytes=1)] == [1]


def _worker(rank: int, size: int, folder: str) -> None:
    """Six micro-batches shared over the workers; the last rank of four gets none."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    world = World.joined()
    model = make_model()
    reducer = GradientReducer(list(model.parameters()), world, num_extras=1, bucket_bytes=128)
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(6)]
    working = min(size, 3)
    for _step in range(2):
        reducer.zero()
        mine = inputs[rank::working] if rank < working else []
        for index, x in enumerate(mine):
            loss = model(x).square().sum()
            if index == len(mine) - 1:
                reducer.arm(torch.tensor([float(len(mine))], dtype=torch.float64))
            loss.backward()
        if not mine:
            reducer.arm(torch.zeros(1, dtype=torch.float64))
        extras = reducer.finish()
    values = world.gather(rank)
    assert values == list(range(size))
    assert world.share(f"from {rank}") == "from 0"
    own = torch.full((2,), float(rank))
    world.broadcast_([own])
    assert own.tolist() == [0.0, 0.0]
    torch.save([extras.clone(), *reducer.gradients], f"{folder}/{size}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 4])
def test_sum_over_workers_equals_one_worker(tmp_path: Path, size):
    context = multiprocessing.get_context("spawn")
    for workers in (1, size):
        (tmp_path / "meet").unlink(missing_ok=True)
        processes = [
            context.Process(target=_worker, args=(rank, workers, str(tmp_path)))
            for rank in range(workers)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            assert process.exitcode == 0
    alone = torch.load(tmp_path / "1-0.pt")
    for rank in range(size):
        several = torch.load(tmp_path / f"{size}-{rank}.pt")
        assert several[0].item() == 6.0
        for a, b in zip(alone, several, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)
