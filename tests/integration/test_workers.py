"""One, two, three and four workers train the same model: float64, 50 steps, over real gloo."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this file is a worker's program too

from rayasr.checkpoint import cmvn_tensors, list_checkpoints, save_model
from rayasr.config import parse_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.logs import read_metrics
from rayasr.model.u2 import build_model
from rayasr.tokenizer import Tokenizer
from rayasr.train.init_from import prepare_init
from rayasr.train.loop import fit
from rayasr.train.reporter import Reporter
from rayasr.train.world import World
from tests.factories import make_store, make_tone_corpus, tiny_training_recipe

RECIPE = tiny_training_recipe(
    train__precision="fp64", train__epochs=13, train__validate_every_epochs=13
)
STEPS = 50
_VALUES = RECIPE.model_dump()
_VALUES["model"]["encoder"]["convolution_norm"] = "batch_norm"
_VALUES["train"]["epochs"] = _VALUES["train"]["validate_every_epochs"] = 3
TUNED = parse_recipe(_VALUES)


@pytest.mark.integration
def test_the_number_of_workers_does_not_change_the_model(tmp_path: Path):
    corpus = make_tone_corpus(tmp_path / "corpus", train=60, dev=4, test=2)
    make_store(tmp_path / "store", corpus, RECIPE)
    for size in (1, 2, 3, 4):
        run_workers(size, tmp_path)
    alone = list_checkpoints(tmp_path / "run1")[-1]
    assert alone.step >= STEPS
    for size in (2, 3, 4):
        several = list_checkpoints(tmp_path / f"run{size}")[-1]
        a, b = alone.model(), several.model()
        assert differences(a, b) < 1e-10, size
        for row, other in zip(
            read_metrics(tmp_path / "run1"), read_metrics(tmp_path / f"run{size}"), strict=True
        ):
            for key in ("step", "epoch", "padding", "audio_hours"):
                assert row.get(key) == other.get(key)
            assert row.keys() == other.keys()
            for key in row.keys() & {"loss", "dev_loss", "dev_cer"}:
                assert row[key] == pytest.approx(other[key], rel=1e-9)
    steps = [row["step"] for row in read_metrics(tmp_path / "run4") if "loss" in row]
    assert steps == list(range(1, alone.step + 1))


@pytest.mark.integration
def test_nor_does_it_when_a_model_is_fine_tuned(tmp_path: Path):
    """Batch norms with kept statistics, a frozen part, a model that only rank 0 reads."""
    corpus = make_tone_corpus(tmp_path / "corpus", train=24, dev=4, test=2)
    make_store(tmp_path / "store", corpus, TUNED)
    tokenizer = Tokenizer(["<blank>", "<unk>", *"二一零", "<sos/eos>"])
    cmvn = CmvnStats.zeros(20).add(np.random.default_rng(1).normal(9.0, 4.0, (300, 20)))
    torch.manual_seed(3)
    model = build_model(
        TUNED.model, num_mel_bins=20, vocab_size=6, sos_eos_id=5, cmvn=cmvn_tensors(cmvn)
    )
    save_model(tmp_path / "model", model.state_dict(), TUNED, tokenizer, cmvn)
    for size in (1, 2):
        run_workers(size, tmp_path, tmp_path / "model")
    alone, both = (list_checkpoints(tmp_path / f"run{size}")[-1] for size in (1, 2))
    assert differences(alone.model(), both.model()) < 1e-10
    frozen = "encoder.embed.out.0.weight"
    assert torch.equal(both.model()[frozen], model.state_dict()[frozen].double())
    assert alone.state["init_from"] == both.state["init_from"]


def differences(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of two models' tensors, each as a share of the tensor's norm."""
    assert a.keys() == b.keys()
    floats = [name for name in a if a[name].is_floating_point()]
    return max(float((a[name] - b[name]).norm() / a[name].norm()) for name in floats)


def run_workers(size: int, folder: Path, model: Path | None = None) -> None:
    """Train in `size` processes into FOLDER/run<size>, from fresh weights or from a model's."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(size), str(folder), str(model or "")],
            env=environment,
        )
        for rank in range(size)
    ]
    assert [process.wait(250) for process in processes] == [0] * size


def main(rank: int, size: int, folder: Path, model: str) -> None:
    if size > 1:
        dist.init_process_group("gloo", f"file://{folder}/meet{size}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    world = World.joined()
    reporter = Reporter(note=lambda _: None)
    recipe = TUNED if model else RECIPE
    start = prepare_init(recipe, model, ["encoder.embed"]) if model else None
    run = folder / f"run{size}"
    fit(recipe, folder / "store", run, world=world, reporter=reporter, init_from=start)
    if size > 1:
        dist.barrier()  # nobody leaves while another still reads
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
