"""Every shipped recipe builds its model, of the size that WeNet publishes where it is WeNet's."""

from pathlib import Path

import pytest
import torch

from rayasr.config import load_recipe
from rayasr.model.u2 import build_model

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
AISHELL_UNITS = 4233
MILLIONS = {"aishell_u2pp_conformer": 48.35, "aishell_unified_transformer": 30.4}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_model_of_a_recipe_is_built(path: Path) -> None:
    recipe = load_recipe(path)
    with torch.device("meta"):  # shapes without memory
        model = build_model(
            recipe.model,
            num_mel_bins=recipe.features.num_mel_bins,
            vocab_size=AISHELL_UNITS,
            sos_eos_id=2,
        )
    count = sum(parameter.numel() for parameter in model.parameters())
    if path.stem in MILLIONS:
        assert count / 1e6 == pytest.approx(MILLIONS[path.stem], abs=0.05)
    assert count > 1e6


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("aishell_*.yaml")), ids=lambda path: path.stem)
def test_a_large_recipe_can_be_shared_out_over_sixteen_workers(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.batch.micro_batches >= 16
    assert recipe.batch.frames_per_step is not None
