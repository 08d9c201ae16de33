"""Sums for cepstral mean and variance normalisation, in float64 and in WeNet's JSON form."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rayasr.errors import DataError

VARIANCE_FLOOR = 1e-20
"""As in WeNet's load_cmvn."""


@dataclass(frozen=True, eq=False)
class CmvnStats:
    """Per-bin sums over frames: `sums` and `squares` float64 (F,), and how many frames."""

    sums: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    frames: int

    @classmethod
    def zeros(cls, num_bins: int) -> "CmvnStats":
        """Nothing counted yet."""
        return cls(np.zeros(num_bins), np.zeros(num_bins), 0)

    def add(self, features: npt.NDArray[Any]) -> "CmvnStats":
        """With the frames of one utterance, (T, F) of any float type, counted in float64."""
        frames = np.asarray(features, dtype=np.float64)
        return CmvnStats(
            self.sums + frames.sum(0),
            self.squares + np.einsum("tf,tf->f", frames, frames),
            self.frames + len(frames),
        )

    def merge(self, other: "CmvnStats") -> "CmvnStats":
        """Both counts together; merge in a fixed order where results must repeat bit for bit."""
        return CmvnStats(
            self.sums + other.sums, self.squares + other.squares, self.frames + other.frames
        )

    def mean_istd(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Mean and 1 / deviation per bin, float32 (F,); raises DataError without frames."""
        if self.frames == 0:
            raise DataError("no frames were counted for CMVN; prepare a corpus with a train split")
        mean = self.sums / self.frames
        variance = np.maximum(self.squares / self.frames - mean * mean, VARIANCE_FLOOR)
        return mean.astype(np.float32), (1.0 / np.sqrt(variance)).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """WeNet's global_cmvn: mean_stat, var_stat (sums of squares) and frame_num."""
        return {
            "mean_stat": self.sums.tolist(),
            "var_stat": self.squares.tolist(),
            "frame_num": self.frames,
        }

    @classmethod
    def from_json(cls, value: Any) -> "CmvnStats":
        """What `to_json` or WeNet's compute_cmvn_stats.py wrote; raises DataError."""
        try:
            sums = np.array(value["mean_stat"], dtype=np.float64)
            squares = np.array(value["var_stat"], dtype=np.float64)
            frames = int(value["frame_num"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                "CMVN statistics need mean_stat, var_stat and frame_num; "
                f"make them again ({error!r})"
            ) from error
        if sums.ndim != 1 or sums.shape != squares.shape or frames < 0:
            raise DataError("CMVN's mean_stat and var_stat differ in length; make them again")
        return cls(sums, squares, frames)
