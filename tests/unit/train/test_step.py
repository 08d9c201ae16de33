"""One step: WeNet's trajectory through our step, denominators, accumulation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rayasr.config import parse_recipe
from rayasr.data.batch import Batch
from rayasr.data.loader import LoadedStep
from rayasr.model.losses import Losses
from rayasr.model.u2 import build_model
from rayasr.model_config import ModelConfig
from rayasr.train.optim import learning_rate
from rayasr.train.state import build_state
from rayasr.train.step import combine, train_step
from rayasr.train.world import World

RECIPE = parse_recipe(
    {
        "model": {
            "encoder": {
                "output_size": 32,
                "linear_units": 64,
                "num_blocks": 2,
                "convolution_kernel": 8,
                "dropout_rate": 0.0,
                "positional_dropout_rate": 0.0,
                "dynamic_chunk": False,
            },
            "decoder": {
                "linear_units": 64,
                "num_blocks": 1,
                "r_num_blocks": 1,
                "dropout_rate": 0.0,
                "positional_dropout_rate": 0.0,
            },
        },
        "optim": {"lr": 0.001, "warmup_steps": 50},
    }
)


def load_batches(arrays: dict[str, np.ndarray]) -> list[Batch]:
    batches = []
    for i in range(5):
        get = lambda key, i=i: torch.from_numpy(arrays[f"batch{i}.{key}"])  # noqa: E731
        tokens = get("target").long()
        batches.append(
            Batch(
                get("feats").float(),
                get("feats_lengths").long(),
                tokens,
                get("target_lengths").long(),
                [str(i)] * len(tokens),
                seed=i,
            )
        )
    return batches


@pytest.mark.parametrize(("accumulate", "updates"), [(1, 100), (4, 25)])
def test_wenets_trajectory(shared: Path, accumulate: int, updates: int):
    """Losses, gradient norms and rates of WeNet's own training, update by update."""
    folder = shared / "parity" / "trajectory"
    wenet = json.loads((folder / "trajectory.json").read_text())["runs"]
    wenet = wenet[f"accum{accumulate}_float32"]
    with np.load(folder / "trajectory.npz") as file:
        arrays = dict(file)
    model = build_model(RECIPE.model, num_mel_bins=80, vocab_size=13, sos_eos_id=2)
    initial = {k[5:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("init.")}
    model.load_state_dict(initial)
    state = build_state(model, RECIPE, World.single())
    batches = load_batches(arrays)
    for update in range(updates):
        micro = range(update * accumulate, (update + 1) * accumulate)
        loaded = make_step([batches[i % 5] for i in micro])
        lr = learning_rate(RECIPE.optim, update, updates)
        result = train_step(state, loaded, RECIPE, lr)
        state.position.step += 1
        tolerance = 1e-5 if (update + 1) * accumulate <= 20 else 1e-3
        for key, ours in zip(("loss", "loss_ctc", "loss_att"), result.extras, strict=False):
            expected = sum(wenet[key][i] for i in micro) / accumulate
            assert float(ours) == pytest.approx(expected, rel=tolerance), (update, key)
        assert lr == pytest.approx(wenet["lr_used"][update], rel=1e-9)
        assert float(result.grad_norm) == pytest.approx(wenet["grad_norm"][update], rel=5e-3)


def make_step(batches: list[Batch]) -> LoadedStep:
    utterances = sum(len(batch.keys) for batch in batches)
    units = sum(int(batch.token_lengths.sum()) for batch in batches)
    return LoadedStep(0, 0, batches, utterances, units, 1, 1, 1.0)


def test_losses_are_divided_by_utterances_or_units():
    losses = Losses(torch.tensor(40.0), torch.tensor(120.0), torch.tensor(8.0))
    loss, ctc, attention = combine(losses, ModelConfig(ctc_weight=0.5), 4, 20)
    assert (ctc.item(), attention.item(), loss.item()) == (10.0, 30.0, 20.0)
    config = ModelConfig(length_normalized_loss=True)
    assert combine(losses, config, 4, 20)[2].item() == 5.0  # 20 units and 4 ends
    config = ModelConfig(ctc_weight=0.5, alignment_weight=0.5)
    assert combine(losses, config, 4, 20)[0].item() == 21.0


def test_a_worker_without_a_micro_batch_contributes_zeros():
    model = build_model(RECIPE.model, num_mel_bins=80, vocab_size=13, sos_eos_id=2)
    state = build_state(model, RECIPE, World.single())
    result = train_step(state, make_step([])._replace(num_utterances=4), RECIPE, 0.1, (2.0, 1.0))
    assert result.extras.tolist() == [0.0, 0.0, 0.0, 2.0, 1.0]
    assert result.grad_norm.item() == 0.0
