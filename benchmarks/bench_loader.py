"""What the plan and the loader cost, beside the training step they feed.

    python benchmarks/bench_loader.py [STORE] [--steps 30]

Without a store: the plan alone, on 120,098 lengths like AISHELL-1's. With one, by its recipe:
CPU seconds per step of the loader and of the model (forward and backward, one thread), how many
times over the loader could feed it, and a training loop's wait with and without the thread.
"""

import argparse
import time
from itertools import islice
from typing import Any

import numpy as np
import torch

from rayasr.checkpoint import new_model
from rayasr.config import parse_recipe
from rayasr.data.batch_plan import BatchPlan, Step
from rayasr.data.loader import LoadedStep, Loader
from rayasr.data.store import Store
from rayasr.model.u2 import U2Model

PLANS: dict[str, dict[str, Any]] = {
    "58,000 frames a step, 16 micro-batches": {
        "batch": {"frames_per_step": 58000, "micro_batches": 16, "max_padded_frames": "auto"}
    },
    "20,000 padded frames a step": {"batch": {"max_padded_frames": 20000}},
    "the same, half of it strung": {
        "batch": {"max_padded_frames": 20000},
        "augment": {"stringing": {"fraction": 0.5}},
    },
}


def main() -> None:
    """Print both halves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", nargs="?")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench_plan()
    if options.store is not None:
        bench_loader(options.store, options.steps)


def bench_plan() -> None:
    """Seconds to plan one epoch of AISHELL-1, and to count the steps of 360."""
    rng = np.random.default_rng(0)
    num = 120_098
    base = np.clip(rng.normal(450, 140, num), 120, 1450)
    frames = np.stack([base / 0.9, base, base / 1.1], axis=1).astype(np.int32)
    units, speakers = (base * 0.032 + 1).astype(np.int32), rng.integers(0, 340, num)
    print(f"plan of {num:,} utterances    epoch s   360 epochs' steps s   padding   steps")
    for name, sections in PLANS.items():
        recipe = parse_recipe(sections | {"train": {"epochs": 360}})
        plan = BatchPlan(frames, units, speakers, np.ones(num), recipe)
        started = time.perf_counter()
        steps = plan.epoch(200)
        planned = time.perf_counter()
        total = plan.total_steps(360)
        counted = time.perf_counter()
        print(
            f"  {name:40} {planned - started:6.2f} {counted - planned:6.2f} "
            f"{padding(steps):8.2%} {len(steps):6} of {total:,}"
        )


def bench_loader(path: str, num_steps: int) -> None:
    """CPU seconds a step of loader and model, and the wait of a loop over both."""
    store = Store.open(path)
    recipe = store.recipe
    model = new_model(recipe, store.tokenizer, store.cmvn)
    with Loader(store, recipe) as loader:
        print(f"padding over the first epoch of {path}: {padding(loader.plan.epoch(0)):.2%}")
        started = time.process_time()
        steps = list(islice(loader._produce(0, 0), num_steps))
        loading = (time.process_time() - started) / len(steps)
        train(model, steps[:2])  # warm-up
        started, wall = time.process_time(), time.perf_counter()
        train(model, steps)
        training = (time.process_time() - started) / len(steps)
        alone = time.perf_counter() - wall
        loader.wait_seconds = 0.0
        wall = time.perf_counter()
        train(model, islice(loader.steps(0), num_steps))
        together = time.perf_counter() - wall
        waited = loader.wait_seconds
    heard = sum(step.seconds for step in steps) / len(steps)
    apart = alone + loading * len(steps)
    print(f"loader {loading:.4f} CPU s a step, {heard / loading:,.0f} s of audio per CPU s")
    print(
        f"model  {training:.4f} CPU s a step: the loader could feed it {training / loading:.1f} x"
    )
    print(f"{len(steps)} steps, wall s: model alone {alone:.2f}, after its loader {apart:.2f},")
    print(f"beside its thread {together:.2f}, of which it waited {waited / together:.2%}")


def train(model: U2Model, steps: Any) -> None:
    """Forward and backward of each micro-batch."""
    step: LoadedStep
    for step in steps:
        model.zero_grad()
        for batch in step.batches:
            torch.manual_seed(batch.seed)
            losses = model(batch.features, batch.feature_lengths, batch.tokens, batch.token_lengths)
            (losses.ctc + losses.attention).backward()


def padding(steps: list[Step]) -> float:
    """Share of padded frames that hold no audio."""
    batches = [batch for step in steps for batch in step.micro_batches]
    frames = sum(item.frames for batch in batches for item in batch.items)
    return 1 - frames / sum(batch.padded_frames for batch in batches)


if __name__ == "__main__":
    main()
