"""Model folders with random weights, small enough to export in a test."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rayasr.checkpoint import new_model, save_model
from rayasr.config import parse_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.data.fbank import Fbank
from rayasr.tokenizer import Tokenizer

MEL = 20
UNITS = ["<blank>", "<unk>", *"零一二三四五六七八九", "▁", "<sos/eos>"]


def save_tiny_model(folder: Path, features: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A model folder that hears many units in `loud_noise`; `encoder__kind="…"`."""
    sections: dict[str, dict[str, Any]] = {
        "encoder": {
            "output_size": 16,
            "linear_units": 32,
            "num_blocks": 1,
            "attention_heads": 2,
            "convolution_kernel": 4,
            "subsampling_channels": 8,
        },
        "decoder": {"attention_heads": 2, "linear_units": 32, "num_blocks": 1, "r_num_blocks": 1},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        sections[section][name] = value
    recipe = parse_recipe(
        {
            "features": {"sample_rate": 8000, "num_mel_bins": MEL, **(features or {})},
            "model": sections,
        }
    )
    heard = Fbank(recipe.features)(loud_noise(20.0))
    cmvn = CmvnStats.zeros(MEL).add(heard.numpy())
    tokenizer = Tokenizer(UNITS)
    torch.manual_seed(0)
    model = new_model(recipe, tokenizer, cmvn)
    with torch.no_grad():  # each unit as likely as the others
        model.ctc.ctc_lo.weight *= 8.0
        encoder_out, _ = model.eval().encode(heard[None], torch.tensor([len(heard)]))
        model.ctc.ctc_lo.bias -= model.ctc(encoder_out)[0].mean(0)
        model.ctc.ctc_lo.bias[tokenizer.sos_eos_id] -= 1000.0  # which CTC is never trained on
    return save_model(folder / "model", model.state_dict(), recipe, tokenizer, cmvn)


def wandering_fbank(frames: int, seed: int = 0) -> Tensor:
    """Features (T, F) that change slowly, as speech does."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, MEL, generator=generator)
    smooth = torch.nn.functional.avg_pool1d(steps.T[None], 9, 1, 4)[0].T
    return 12.0 + 6.0 * smooth


def loud_noise(seconds: float, rate: int = 8000, seed: int = 0) -> Tensor:
    """Samples (N,) whose spectrum wanders and that leave no mel bin empty."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(round(seconds * rate), generator=generator)
    level = torch.rand(1 + len(noise) // 800, generator=generator).repeat_interleave(800)
    colour = torch.rand(len(level) // 800, generator=generator).repeat_interleave(800)
    level, colour = level[: len(noise)], colour[: len(noise)]
    smooth = torch.nn.functional.avg_pool1d(noise[None], 3, 1, 1)[0]
    return 0.3 * (0.1 + level) * (colour * smooth + (1.0 - colour) * noise) / 3.0
