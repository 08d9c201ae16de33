"""Whether a runtime that starts from audio hears what the model was trained on."""

from typing import Literal

from rayasr.feature_config import RUNTIMES, FeatureConfig


def mismatch(features: FeatureConfig, runtime: Literal["wenet", "sherpa"]) -> str:
    """Why a runtime is wrong for a model, and what to do; empty where it is right."""
    if features.front_end == runtime:
        return ""
    ours = RUNTIMES[features.front_end] if features.front_end else "no runtime's"
    return (
        f"{RUNTIMES[runtime]} computes other features from audio than this model was trained on "
        f"({ours}); train with features.contract: {runtime}, or give --force to export it all the "
        "same"
    )
