"""A model folder for the verbs that decode."""

from pathlib import Path

import pytest
import torch

from rayasr.checkpoint import save_model
from rayasr.data.cmvn import CmvnStats
from rayasr.model.u2 import build_model
from rayasr.tokenizer import Tokenizer
from tests.factories import DIGITS, tiny_training_recipe


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> Path:
    """A model folder of random weights."""
    torch.set_num_threads(1)
    recipe = tiny_training_recipe()
    tokenizer = Tokenizer(["<blank>", "<unk>", "<sos/eos>", *DIGITS])
    torch.manual_seed(3)
    weights = build_model(
        recipe.model, num_mel_bins=20, vocab_size=tokenizer.vocab_size, sos_eos_id=2
    ).state_dict()
    cmvn = CmvnStats.zeros(20).add(torch.randn(50, 20).numpy())
    folder = tmp_path_factory.mktemp("run") / "model"
    return save_model(folder, weights, recipe, tokenizer, cmvn)
