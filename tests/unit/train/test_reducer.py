"""Gradient buckets: views, extras, and sums over real gloo workers."""

import subprocess
import sys
from pathlib import Path

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


def steps(world: World) -> list[torch.Tensor]:
    """Two steps of five micro-batches; of three workers the last has none to do."""
    model = make_model()
    reducer = GradientReducer(list(model.parameters()), world, num_extras=1, bucket_bytes=128)
    generator = torch.Generator().manual_seed(7)
    inputs = [torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(5)]
    working = min(world.size, 2)
    for _step in range(2):
        reducer.zero()
        mine = inputs[world.rank :: working] if world.rank < working else []
        for index, x in enumerate(mine):
            loss = model(x).square().sum()
            if index == len(mine) - 1:
                reducer.arm(torch.tensor([float(len(mine))], dtype=torch.float64))
            loss.backward()
        if not mine:
            reducer.arm(torch.zeros(1, dtype=torch.float64))
        extras = reducer.finish()
    return [extras.clone(), *reducer.gradients]


def check_world(world: World) -> None:
    """What rank 0 says reaches everybody."""
    assert world.gather(world.rank) == list(range(world.size))
    assert world.share(f"from {world.rank}") == "from 0"
    own, other = torch.full((2,), float(world.rank)), torch.full((1,), world.rank)
    world.broadcast_([own, other])
    assert own.tolist() == [0.0, 0.0]
    assert other.tolist() == [0]


def test_sum_over_workers_equals_one_worker(tmp_path: Path):
    """Real processes over gloo; one of them contributes nothing but zeros."""
    size = 3
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(size), str(tmp_path)])
        for rank in range(size)
    ]
    alone = steps(World.single())
    assert [process.wait(120) for process in processes] == [0] * size
    assert alone[0].item() == 5.0
    for rank in range(size):
        several = torch.load(tmp_path / f"{rank}.pt")
        for a, b in zip(alone, several, strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def test_a_world_of_one_needs_no_process_group():
    assert World.joined() == World.single()
    check_world(World.single())


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=size)
    check_world(World.joined())
    torch.save(steps(World.joined()), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
