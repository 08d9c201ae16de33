"""From fbank frames to encoder frames: CMVN, strided convolutions, sinusoidal positions."""

import math
from typing import Final

import torch
from torch import Tensor, nn

from rayasr.model.dropout import Dropout
from rayasr.model_config import CONVOLUTIONS

TABLE_FRAMES = 5000
"""Rows of the precomputed position table; positions beyond it are computed when they come."""


class GlobalCmvn(nn.Module):
    """(features - mean) x istd, per mel bin."""

    def __init__(self, mean: Tensor, istd: Tensor) -> None:
        super().__init__()
        self.mean: Tensor
        self.istd: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("istd", istd)

    def forward(self, features: Tensor) -> Tensor:
        return (features - self.mean) * self.istd


def sinusoids(start: int, length: int, size: int) -> Tensor:
    """Position vectors of `length` positions from `start`, sines and cosines interleaved (L, D)."""
    positions = torch.arange(start, start + length, dtype=torch.float32)[:, None]
    rates = torch.exp(torch.arange(0, size, 2, dtype=torch.float32) * -(math.log(10000.0) / size))
    angles = positions * rates
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)[:, :size]


class Positions(nn.Module):
    """Scales vectors by sqrt(D) and gives (or adds) their sinusoidal position vectors."""

    def __init__(self, size: int, dropout_rate: float, added: bool) -> None:
        super().__init__()
        self.size = size
        self.scale = math.sqrt(size)
        self.added = added
        self.dropout = Dropout(dropout_rate)
        self.table: Tensor
        self.register_buffer("table", sinusoids(0, TABLE_FRAMES, size), persistent=False)

    def forward(self, x: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        """(B, T, D) at positions from `offset`: (the scaled input, positions (1, T, D))."""
        positions = self.lookup(offset, x.size(1))
        x = x * self.scale
        if self.added:
            x = x + positions
            return self.dropout(x), positions
        return self.dropout(x), self.dropout(positions)

    def lookup(self, offset: int, length: int) -> Tensor:
        """Position vectors (1, length, D)."""
        if offset + length <= self.table.size(0):
            return self.table[offset : offset + length][None]
        return sinusoids(offset, length, self.size).to(self.table)[None]


class Subsampling(nn.Module):
    """Strided convolutions over time and mel bins, a linear layer, positions.

    WeNet's conv2d (/4), conv2d6 and conv2d8; they call the linear layer `out.0` or `linear`.
    """

    named_out: Final[bool]

    def __init__(
        self, rate: int, num_mel_bins: int, channels: int, size: int, positions: Positions
    ) -> None:
        super().__init__()
        self.kernels = [kernel for kernel, _ in CONVOLUTIONS[rate]]
        self.strides = [stride for _, stride in CONVOLUTIONS[rate]]
        self.rate = rate
        layers: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(zip(self.kernels, self.strides)):
            layers.append(nn.Conv2d(channels if i else 1, channels, kernel, stride))
            layers.append(nn.ReLU())
        self.conv = nn.Sequential(*layers)
        linear = nn.Linear(channels * self.output_length(num_mel_bins), size)
        self.named_out = rate == 4
        if self.named_out:
            self.out = nn.Sequential(linear)
        else:
            self.linear = linear
        self.pos_enc = positions

    def forward(self, x: Tensor, offset: int) -> tuple[Tensor, Tensor]:
        """(B, T, F) at encoder frame `offset` to frames (B, T', D) and their positions."""
        x = self.conv(x[:, None])  # (B, C, T', F')
        x = x.transpose(1, 2).flatten(2)
        x = self.out(x) if self.named_out else self.linear(x)
        frames, positions = self.pos_enc(x, offset)
        return frames, positions

    def output_length(self, length: int) -> int:
        """Encoder frames of so many fbank frames (or mel bins); 0 for too few."""
        for kernel, stride in zip(self.kernels, self.strides):
            length = max(0, (length - kernel) // stride + 1)
        return length

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """The same for a tensor of lengths."""
        for kernel, stride in zip(self.kernels, self.strides):
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths.clamp(min=0)

    def right_context(self) -> int:
        """Frames after the first that one encoder frame needs."""
        context = 0
        step = 1
        for kernel, stride in zip(self.kernels, self.strides):
            context += (kernel - 1) * step
            step *= stride
        return context
