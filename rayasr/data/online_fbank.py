"""Fbank of audio that is still coming in, equal to that of the whole recording."""

import torch
from torch import Tensor

from rayasr.data.fbank import Fbank, num_frames
from rayasr.feature_config import FeatureConfig


class OnlineFbank:
    """Frames as soon as their windows are complete; only the samples of the next window are kept.

    With `snip_edges: false` the recording is continued by its mirror image at both ends, which is
    no more than a longer signal: what is left is `snip_edges: true` for both.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self._whole = Fbank(config)
        self._fbank = Fbank(config.model_copy(update={"snip_edges": True}))
        self._length, self._shift = config.window_samples
        nothing = torch.zeros(0)
        self._beginning: Tensor | None = nothing  # all of it, while it is shorter than two windows
        self._tail = nothing  # the last samples, for their mirror image
        self._kept, self._next = nothing, 0  # what is kept, and where in it the next window begins
        self._mirrored = 0
        if not config.snip_edges:
            begin = self._shift // 2 - self._length // 2
            self._next, self._mirrored = max(0, begin), max(0, -begin)
        self._num_samples = self._num_frames = 0

    def accept(self, samples: Tensor) -> Tensor:
        """The frames (T, F) that float32 samples (N,) complete."""
        self._num_samples += len(samples)
        self._tail = torch.cat([self._tail, samples])[-self._length :]
        if self._beginning is None:
            return self._frames(samples)
        self._beginning = torch.cat([self._beginning, samples])
        if len(self._beginning) < 2 * self._length:
            return self._frames(samples[:0])
        first, self._beginning = self._beginning, None
        mirrored = first[: self._mirrored].flip(0)
        return self._frames(torch.cat([mirrored, first]))

    def finish(self) -> Tensor:
        """The frames (T, F) that the recording's end completes."""
        if self._beginning is not None:  # too short for its two ends to be apart
            return self._whole(self._beginning)
        missing = num_frames(self._num_samples, self.config) - self._num_frames
        end = self._next + (missing - 1) * self._shift + self._length
        more = end - len(self._kept) if missing > 0 else 0
        return self._frames(self._tail.flip(0)[:more])

    def _frames(self, samples: Tensor) -> Tensor:
        signal = torch.cat([self._kept, samples])
        frames = self._fbank(signal[self._next :])
        self._num_frames += len(frames)
        begin = self._next + len(frames) * self._shift
        self._kept = signal[begin:]
        self._next = max(0, begin - len(signal))
        return frames
