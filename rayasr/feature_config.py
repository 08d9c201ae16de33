"""Settings of features, and whose runtime computes the same; the recipe's section `features`."""

import json
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from rayasr.settings import Section, check_settings

CONTRACTS: dict[str, dict[str, Any]] = {
    "wenet": {"snip_edges": True, "high_freq": 0.0, "noise_floor": 0.0},
    "sherpa": {"snip_edges": False, "high_freq": -400.0, "noise_floor": 1.0},
}
"""What WeNet's runtime and sherpa-onnx's WeNet models compute differently from the same audio. The
floor is no part of sherpa-onnx: exported models have it inside (docs/decisions/0008)."""
_ALIKE: dict[str, Any] = {
    "frame_length_ms": 25.0,
    "frame_shift_ms": 10.0,
    "window": "povey",
    "low_freq": 20.0,
}
"""What both have in common; neither runtime can be told otherwise."""
RUNTIMES = {"wenet": "WeNet's runtime", "sherpa": "sherpa-onnx"}
"""Whose front end a contract is."""


class FeatureConfig(Section):
    contract: Literal["wenet", "sherpa"] | None = Field(None, exclude=True)
    """Short for the settings of a runtime that computes features itself: `wenet` (the default
    ones, for WeNet's C++ runtime) or `sherpa` (for sherpa-onnx: snip_edges false, high_freq -400,
    noise_floor 1); rayasr and ONNX Runtime take features as they are set."""
    sample_rate: int = Field(16000, ge=4000)
    """Hz; recordings of another rate are resampled."""
    num_mel_bins: int = Field(80, ge=8)
    """Mel filters, which is the feature dimension."""
    frame_length_ms: float = Field(25.0, gt=0.0)
    """Length of an analysis window in milliseconds."""
    frame_shift_ms: float = Field(10.0, gt=0.0)
    """Distance of two windows in milliseconds."""
    window: Literal["povey", "hamming"] = "povey"
    """Analysis window."""
    low_freq: float = Field(20.0, ge=0.0)
    """Lower edge of the mel bank in Hz."""
    high_freq: float = 0.0
    """Upper edge of the mel bank in Hz; 0: Nyquist, negative: counted from it."""
    snip_edges: bool = True
    """Only whole windows, as WeNet does; false pads the edges by reflection."""
    noise_floor: float = Field(0.0, ge=0.0)
    """Deviation (int16 scale) of white noise below whose mel energies none falls, so that digital
    silence sounds like a quiet room; 0: no floor."""
    dither: float = Field(0.0, ge=0.0)
    """Standard deviation of the noise added to training samples (int16 scale); validation and
    decoding always use 0."""
    backend: Literal["rayasr", "torchaudio"] = "rayasr"
    """What computes fbank; `torchaudio` needs the extra of that name."""

    @property
    def window_samples(self) -> tuple[int, int]:
        """Length and distance of windows in samples, rounded down as Kaldi does."""
        rate = self.sample_rate
        return int(rate * self.frame_length_ms * 0.001), int(rate * self.frame_shift_ms * 0.001)

    @property
    def band(self) -> tuple[float, float]:
        """Lower and upper edge of the mel bank in Hz."""
        nyquist = self.sample_rate / 2
        return self.low_freq, self.high_freq if self.high_freq > 0.0 else nyquist + self.high_freq

    @property
    def front_end(self) -> str | None:
        """The contract that these settings keep; None: neither, so rayasr alone computes them."""
        alike = all(getattr(self, key) == value for key, value in _ALIKE.items())
        for name, fixed in CONTRACTS.items():
            same_band = self.band[1] == self.sample_rate / 2 + fixed["high_freq"]
            same_edges = self.snip_edges == fixed["snip_edges"]
            if alike and same_band and same_edges and self.noise_floor == fixed["noise_floor"]:
                return name
        return None

    def describe_front_end(self) -> str:
        """Which runtimes are right for these features from audio on, for a model's card.

        A runtime that is given features is right for any.
        """
        ours = RUNTIMES[self.front_end] if self.front_end else "rayasr alone"
        others = " and ".join(title for title in RUNTIMES.values() if title != ours)
        return f"that of {ours}; from audio {others} would hear something else"

    @model_serializer(mode="wrap")
    def _dump(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a floor that is not there: stores and runs from before it keep their digests."""
        values: dict[str, Any] = dump(self)
        return {key: value for key, value in values.items() if key != "noise_floor" or value}

    @model_validator(mode="before")
    @classmethod
    def _expand_contract(cls, values: Any) -> Any:
        """Replace `contract` by what it is short for, so that nothing later depends on the name."""
        contract = values.get("contract") if isinstance(values, dict) else None
        if not isinstance(contract, str) or contract not in CONTRACTS:
            return values
        rest = {key: value for key, value in values.items() if key != "contract"}
        for key, value in (CONTRACTS[contract] | _ALIKE).items():
            if rest.setdefault(key, value) != value:
                raise ValueError(
                    f"features.contract {contract} means features.{key} {json.dumps(value)}, "
                    f"found {json.dumps(rest[key], default=str)}; leave out one of the two"
                )
        return rest

    @model_validator(mode="after")
    def _check(self) -> Self:
        (low, high), nyquist = self.band, self.sample_rate / 2
        if not low < high <= nyquist:
            raise ValueError(
                f"features.low_freq {self.low_freq:g} and features.high_freq {self.high_freq:g} "
                f"leave no band below {nyquist:g} Hz; choose 0 <= low < high"
            )
        length, shift = self.window_samples
        if length < 2 or shift < 1:
            raise ValueError(
                f"features.frame_length_ms {self.frame_length_ms:g} and features.frame_shift_ms "
                f"{self.frame_shift_ms:g} are too short at {self.sample_rate} Hz"
            )
        return self


def parse_features(values: dict[str, Any], source: str = "features") -> FeatureConfig:
    """Check plain values of a recipe's features; raises ConfigError."""
    return check_settings(values, FeatureConfig, source)
