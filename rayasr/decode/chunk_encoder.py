"""An encoder run chunk by chunk over features that come in pieces, equal to the chunk mask."""

from typing import Any

import torch
from torch import Tensor

WARM_UP_FRAMES = 4
"""Encoder frames that are heard again after a restart: without any, speech at the very beginning of
a sequence is missed; with many, models that know utterances without a pause before them err."""


class ChunkEncoder:
    """Chunks of encoder frames with cached keys, values and convolution inputs.

    `model` has the interface of WeNet's runtime, as U2Model and its export do. `left_chunks` < 0:
    each chunk sees all before it.
    """

    def __init__(self, model: Any, chunk_size: int, left_chunks: int) -> None:
        self._model = model
        self._rate: int = model.subsampling_rate()
        self._context: int = model.right_context()
        self._step = chunk_size * self._rate
        self._cache_size = -1 if left_chunks < 0 else chunk_size * left_chunks
        self._features: Tensor | None = None  # (T, F) from the next chunk on
        self._past: Tensor | None = None  # (T, F) before it, what is heard again
        self.restart()

    @property
    def lookahead(self) -> int:
        """How many fbank frames after its own a chunk needs."""
        return self._context + 1 - self._rate

    def restart(self) -> None:
        """Begin a new sequence, as short as those of training, with the last frames heard again."""
        self._offset = 0
        self._att_cache = self._cnn_cache = torch.zeros(0, 0, 0, 0)
        if self._past is not None and self._features is not None:
            self._forward(torch.cat([self._past, self._features[: self.lookahead]]))

    def push(self, features: Tensor) -> None:
        """Take in the next fbank frames (T, F)."""
        self._features = _after(self._features, features)

    def chunk(self) -> Tensor | None:
        """The next chunk's encoder frames (T', D), if all that it needs is there."""
        size = self._step + self.lookahead
        features = self._features
        if features is None or len(features) < size:
            return None
        self._features = features[self._step :]
        past = _after(self._past, features[: self._step])
        self._past = past[-WARM_UP_FRAMES * self._rate :]
        return self._forward(features[:size])

    def rest(self) -> Tensor | None:
        """At the end: the frames (T', D) of a last chunk that is not full; None if it is empty."""
        if self._features is None or len(self._features) <= self._context:
            return None
        return self._forward(self._features)

    @torch.no_grad()
    def _forward(self, window: Tensor) -> Tensor:
        out, self._att_cache, self._cnn_cache = self._model.forward_encoder_chunk(
            window[None], self._offset, self._cache_size, self._att_cache, self._cnn_cache
        )
        self._offset += out.size(1)
        frames: Tensor = out[0]
        return frames


def _after(first: Tensor | None, then: Tensor) -> Tensor:
    return then if first is None else torch.cat([first, then])
