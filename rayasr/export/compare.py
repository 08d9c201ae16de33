"""What every exported file is compared with the checkpoint on before it counts as written."""

from collections.abc import Iterable

import torch
from torch import Tensor

from rayasr.checkpoint import LoadedModel
from rayasr.data.fbank import energy_floor
from rayasr.errors import CheckpointError
from rayasr.export.info import Precision

TOLERANCE = 1e-3
"""Largest difference of a log-probability between a float32 file and the checkpoint."""


def noise(loaded: LoadedModel, frames: int) -> Tensor:
    """Fbank (frames, F) that has the corpus's mean and variance, and the model's floor."""
    mean, istd = (torch.from_numpy(values) for values in loaded.cmvn.mean_istd())
    generator = torch.Generator().manual_seed(frames)
    features = torch.randn(frames, len(mean), generator=generator) / istd + mean
    return torch.maximum(features, energy_floor(loaded.recipe.features).log())


def largest_difference(
    name: str, loaded: LoadedModel, pairs: Iterable[tuple[Tensor, Tensor]], precision: Precision
) -> float:
    """Of log-probabilities, the checkpoint's and a file's in each pair.

    Raises CheckpointError where shapes differ, a number is not finite, or a float32 file is further
    away than rounding explains; int8 has no limit.
    """
    worst = 0.0
    for wanted, found in pairs:
        same = wanted.shape == found.shape and bool(found.isfinite().all())
        worst = max(worst, float((wanted - found).abs().max()) if same else float("inf"))
    if worst == float("inf") or (precision == "float32" and not worst <= TOLERANCE):
        raise CheckpointError(
            f"{name} differs from {loaded.path} by {worst:.3g} in a log-probability, so it was not "
            "kept; please report this with the recipe"
        )
    return worst
