"""Models for decoding tests: a tiny one with random weights, and WeNet's trained one."""

from pathlib import Path

import pytest
import torch

from rayasr.checkpoint import LoadedModel, default_decoding, new_model
from rayasr.data.cmvn import CmvnStats
from rayasr.tokenizer import Tokenizer
from tests.factories import DIGITS, tiny_training_recipe
from tests.wenet_models import load_wenet


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """A model of digits that has learned nothing, so that all its searches find much."""
    recipe = tiny_training_recipe(decode__max_padded_frames=600)
    tokenizer = Tokenizer(["<blank>", "<unk>", "<sos/eos>", *DIGITS])
    bins = recipe.features.num_mel_bins
    noise = torch.randn(500, bins, generator=torch.Generator().manual_seed(2)) * 3
    cmvn = CmvnStats.zeros(bins).add(noise.numpy())
    torch.manual_seed(5)
    model = new_model(recipe, tokenizer, cmvn)
    with torch.no_grad():  # sharper than at its start, or everything would be a near-tie
        model.ctc.ctc_lo.weight.mul_(6.0)
        for decoder in (model.decoder.left_decoder, model.decoder.right_decoder):
            decoder.output_layer.weight.mul_(4.0)
            decoder.output_layer.bias[tokenizer.sos_eos_id] += 2.0
    return LoadedModel(
        model.eval(), recipe, tokenizer, cmvn, default_decoding(recipe), Path("tiny")
    )


@pytest.fixture(scope="session")
def trained(shared) -> LoadedModel:
    """WeNet's U2++ of digits."""
    return load_wenet(shared / "parity" / "u2pp_trained")


def random_features(count: int, bins: int = 20, seed: int = 0) -> list[torch.Tensor]:
    """Features of utterances of various lengths, some too short for one encoder frame."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [23, 3, 90, 7, 61, 0, 44, 120, 6, 35][:count]
    return [torch.randn(n, bins, generator=generator) * 3 for n in lengths]
