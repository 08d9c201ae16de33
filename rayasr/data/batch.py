"""Tensors of one micro-batch, and how utterances are padded into them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE_ID = -1
"""Padding of tokens, which the losses leave out."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch, padded; CMVN is the model's."""

    features: Tensor
    """(B, T, F) float32, raw log-mel, padded with 0."""
    feature_lengths: Tensor
    """(B,) int64."""
    tokens: Tensor
    """(B, L) int64, padded with -1."""
    token_lengths: Tensor
    """(B,) int64."""
    keys: list[str]
    """Of a string: its utterances' keys joined with `+`."""
    seed: int
    """For `torch.manual_seed` before the forward pass: dropout and chunk size."""

    def to(self, device: torch.device | str, non_blocking: bool = True) -> "Batch":
        """The batch on a device; asynchronous from pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(
            change(self.features),
            change(self.feature_lengths),
            change(self.tokens),
            change(self.token_lengths),
            self.keys,
            self.seed,
        )


def pad_features(
    rows: Sequence[Sequence[NDArray[Any]]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Join each row's pieces (frames, F), pad rows with 0: (B, T, F) float32 and lengths (B,)."""
    lengths = np.array([sum(len(piece) for piece in row) for row in rows], np.int64)
    padded = np.zeros((len(rows), int(lengths.max()), rows[0][0].shape[1]), np.float32)
    for target, row in zip(padded, rows, strict=True):
        at = 0
        for piece in row:
            target[at : at + len(piece)] = piece
            at += len(piece)
    return padded, lengths


def collate(
    features: NDArray[np.float32],
    lengths: NDArray[np.int64],
    tokens: Sequence[NDArray[Any]],
    keys: list[str],
    seed: int,
) -> Batch:
    """A Batch of padded features (B, T, F), cut to their longest, and of ragged tokens."""
    token_lengths = np.array([len(row) for row in tokens], np.int64)
    padded = np.full((len(tokens), int(token_lengths.max())), IGNORE_ID, np.int64)
    for target, row in zip(padded, tokens, strict=True):
        target[: len(row)] = row
    longest = int(lengths.max())
    if longest < features.shape[1]:
        features = np.ascontiguousarray(features[:, :longest])
    return Batch(
        torch.from_numpy(features),
        torch.from_numpy(lengths),
        torch.from_numpy(padded),
        torch.from_numpy(token_lengths),
        keys,
        seed,
    )
