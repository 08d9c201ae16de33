"""One training step on the CPU, rayasr's model against a plain one in WeNet's order of operations.

python benchmarks/bench_train_step.py [--size full|small] [--repeats 5] [--threads 1] [--skip-check]
       [--keep-memory]

Forward, backward, clipping and Adam, dropout on, float32, in CPU seconds; the two models live in
processes of their own (rayasr's keeps freed memory, as its training does) and take turns on the
same batches. Also in multiples of a 2048 x 2048 matmul. First checks, in float64 with dropout off,
that losses and gradients of the two are equal.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # after the environment is set
from torch import Tensor, nn

from benchmarks.plain_u2 import PlainU2
from rayasr.config import OptimConfig
from rayasr.model.losses import Losses
from rayasr.model.u2 import U2Model, build_model
from rayasr.model_config import ModelConfig
from rayasr.train.allocator import ENVIRONMENT, keep_freed_memory
from rayasr.train.optim import build_optimizer, clip_gradients
from rayasr.train.step import combine

Data = tuple[Tensor, Tensor, Tensor, Tensor]

NAMES = ("plain", "rayasr")

SIZES = {
    # wenet.md 5a: 48.35 M parameters, 16 utterances of 4.6-5.0 s, 76.6 s of audio, 15 units each
    "full": (
        {"convolution_kernel": 8, "attention_dropout_rate": 0.1},
        {"self_attention_dropout_rate": 0.1, "src_attention_dropout_rate": 0.1},
        4233,
    ),
    # what the digits and AN4 recipes train: 2,300 padded frames a batch
    "small": (
        {"output_size": 96, "linear_units": 384, "num_blocks": 4, "convolution_kernel": 8},
        {"linear_units": 384, "num_blocks": 2, "r_num_blocks": 2},
        13,
    ),
}


def make_config(size: str, dropout: bool) -> ModelConfig:
    encoder, decoder, _ = SIZES[size]
    config = ModelConfig.model_validate({"encoder": encoder, "decoder": decoder})
    if dropout:
        return config
    off = {"dropout_rate": 0.0, "positional_dropout_rate": 0.0}
    return ModelConfig.model_validate(
        {
            "encoder": encoder | off | {"attention_dropout_rate": 0.0},
            "decoder": decoder
            | off
            | {"self_attention_dropout_rate": 0.0, "src_attention_dropout_rate": 0.0},
        }
    )


def make_batch(size: str, seed: int, dtype: torch.dtype = torch.float32) -> Data:
    generator = torch.Generator().manual_seed(seed)
    if size == "full":
        lengths = torch.linspace(500, 456, 16).round().long()  # 478 frames on average
        units = torch.full((16,), 15)
    else:
        lengths = torch.linspace(390, 370, 6).round().long()
        units = torch.full((6,), 5)
    vocab = SIZES[size][2]
    features = torch.randn(len(lengths), int(lengths.max()), 80, generator=generator, dtype=dtype)
    tokens = torch.randint(3, vocab, (len(lengths), int(units.max())), generator=generator)
    return features, lengths, tokens, units


def make_models(size: str, dropout: bool, dtype: torch.dtype) -> tuple[U2Model, PlainU2]:
    config, vocab = make_config(size, dropout), SIZES[size][2]
    torch.manual_seed(1)
    ours = build_model(config, num_mel_bins=80, vocab_size=vocab, sos_eos_id=2).to(dtype)
    plain = PlainU2(config, 80, vocab, 2).to(dtype)
    plain.load_state_dict(ours.state_dict())
    return ours.train(), plain.train()


def check_equal(size: str) -> None:
    """Losses and gradients of both models in float64, dropout off, at several chunk sizes."""
    ours, plain = make_models(size, False, torch.float64)
    data = make_batch(size, 0, torch.float64)
    if size == "full":  # two utterances do: float64 is slow
        data = (data[0][::8], data[1][::8], data[2][::8], data[3][::8])
    for chunk in (-1, 7):
        ours.zero_grad()
        plain.zero_grad()
        total = loss_of(ours(*data, chunk_size=chunk), data)
        reference = plain(*data, chunk=chunk)
        total.backward()
        reference.backward()
        expected = dict(plain.named_parameters())
        floor = 1e-9 * max(float(p.grad.norm()) for p in plain.parameters())
        worst = max(
            float((p.grad - expected[name].grad).norm())
            / max(float(expected[name].grad.norm()), floor)
            for name, p in ours.named_parameters()
        )
        difference = abs(float(total.detach()) / float(reference.detach()) - 1.0)
        print(f"float64, chunk {chunk}: loss differs by {difference:.1e}, gradients by {worst:.1e}")
        if difference > 1e-9 or worst > 1e-6:
            raise SystemExit("the two models are not equal")


def loss_of(losses: Losses, data: Data) -> Tensor:
    """As a training step combines them; both models weight CTC by the default."""
    return combine(losses, ModelConfig(), len(data[1]), 0)[0]


def matmul_seconds() -> float:
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    a @ b
    return statistics.median(cpu_seconds(torch.matmul, a, b) for _ in range(3))


def cpu_seconds(function: Callable[..., object], *arguments: object) -> float:
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    model(*data).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    optimizer.zero_grad()


def our_step(model: nn.Module, optimizer: torch.optim.Optimizer, data: Data) -> None:
    loss_of(model(*data), data).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    clip_gradients(gradients, 5.0, None)
    optimizer.step()
    optimizer.zero_grad()


def measure(which: str, size: str, repeats: int, threads: int) -> None:
    """In a process of its own: seconds of each step, one a line, after a matmul's."""
    torch.set_num_threads(threads)
    if which == "rayasr":
        keep_freed_memory()  # as training does
    ours, plain = make_models(size, True, torch.float32)
    optimizer = (
        build_optimizer(ours, OptimConfig())
        if which == "rayasr"
        else torch.optim.Adam(plain.parameters(), lr=0.001)
    )
    print(sum(p.numel() for p in ours.parameters()), flush=True)
    for repeat in range(repeats + 1):
        sys.stdin.readline()  # the two processes take turns
        data = make_batch(size, repeat)
        matmul = matmul_seconds()
        torch.manual_seed(repeat)  # both draw the same chunk size
        if which == "rayasr":
            seconds = cpu_seconds(our_step, ours, optimizer, data)
        else:
            seconds = cpu_seconds(plain_step, plain, optimizer, data)
        print(matmul, seconds, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--skip-check", action="store_true")
    parser.add_argument("--keep-memory", action="store_true", help="for the plain one as well")
    parser.add_argument("--measure", choices=NAMES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    size = arguments.size
    if arguments.measure:
        measure(arguments.measure, size, arguments.repeats, arguments.threads)
        return
    torch.set_num_threads(arguments.threads)
    if not arguments.skip_check:
        check_equal(size)
    workers = {}
    for name in NAMES:
        command = [sys.executable, *sys.argv, "--measure", name]
        environment = os.environ | (ENVIRONMENT if arguments.keep_memory else {})
        workers[name] = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
    parameters = max(int(worker.stdout.readline()) for worker in workers.values())
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    matmuls: list[float] = []
    for repeat in range(arguments.repeats + 1):
        for name, worker in workers.items():
            worker.stdin.write("\n")
            worker.stdin.flush()
            matmul, seconds = map(float, worker.stdout.readline().split())
            if repeat:  # the first is a warm-up
                matmuls.append(matmul)
                times[name].append(seconds)
    report(size, parameters, arguments.threads, matmuls, times)


def report(
    size: str, parameters: int, threads: int, matmuls: list[float], times: dict[str, list[float]]
) -> None:
    matmul = statistics.median(matmuls)
    print(f"{size}: {parameters / 1e6:.2f} M parameters, {threads} thread(s), {processor()}")
    print(f"2048 x 2048 matmul: {matmul:.4f} CPU s")
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:7} min {min(values):.3f} median {median:.3f} max {max(values):.3f} CPU s, "
            f"{median / matmul:.1f} matmuls"
        )
    ratios = [o / p for o, p in zip(times["rayasr"], times["plain"], strict=True)]
    print(
        f"ratio: {statistics.median(ratios):.3f} (step by step {min(ratios):.3f}-{max(ratios):.3f})"
    )


def processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
