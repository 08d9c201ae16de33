"""Whether a runtime that starts from audio hears what the model was trained on."""

from typing import Literal

from rayasr.errors import ConfigError
from rayasr.feature_config import RUNTIMES, FeatureConfig

Runtime = Literal["wenet", "sherpa"]


def check_front_end(features: FeatureConfig, runtime: Runtime, what: str) -> None:
    """Raises ConfigError where `what` (files, in words) would be given other features."""
    if reason := mismatch(features, runtime):
        raise ConfigError(f"{what}: {reason}")


def mismatch(features: FeatureConfig, runtime: Runtime) -> str:
    """Why a runtime is wrong for a model, and what to do; empty where it is right."""
    if features.front_end == runtime:
        return ""
    ours = RUNTIMES[features.front_end] if features.front_end else "no runtime's"
    return (
        f"{RUNTIMES[runtime]} computes other features from audio than this model was trained on "
        f"({ours}); train with features.contract: {runtime}, or give --force to export it all the "
        "same"
    )
