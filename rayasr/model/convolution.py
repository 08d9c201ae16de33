"""The conformer's convolution module, causal (for streaming) or not."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvolutionModule(nn.Module):
    """Pointwise convolution with a gate, depthwise convolution over time, norm, swish, pointwise.

    `pad_mask` (B, T, 1) is True for real frames. A causal convolution never lets a frame see the
    padding behind it, so nothing is masked there. WeNet's non-causal one masks its input but not
    the gate's output, so GLU(bias) leaks in from the padding: `mask_padding` closes that.
    """

    def __init__(
        self, size: int, kernel: int, causal: bool, batch_norm: bool, mask_padding: bool
    ) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(size, 2 * size, 1)
        self.depthwise_conv = nn.Conv1d(size, size, kernel, groups=size)
        self.norm: Any = nn.BatchNorm1d(size) if batch_norm else nn.LayerNorm(size)
        self.pointwise_conv2 = nn.Conv1d(size, size, 1)
        self.left = kernel - 1 if causal else 0
        self.side = 0 if causal else (kernel - 1) // 2
        self.batch_norm = batch_norm
        self.mask_input = batch_norm or not causal
        self.mask_gate = mask_padding and not causal

    def forward(self, x: Tensor, pad_mask: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        if self.mask_input:
            x = x * pad_mask
        # Zeros before the pointwise layer, as in WeNet: the depthwise one then sees GLU(bias).
        x = self.gate(F.pad(x, (0, 0, self.left, 0)))
        if self.mask_gate:
            x = x * pad_mask
        return self.convolve(x)

    def forward_chunk(self, x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        """A chunk after cached input frames; the cache is (B, D, kernel - 1), empty at first."""
        if self.left == 0:
            return self.convolve(self.gate(x)), torch.zeros(0, 0, 0)
        if cache.size(2) == 0:
            x = F.pad(x, (0, 0, self.left, 0))
        else:
            x = torch.cat([cache.transpose(1, 2), x], dim=1)
        return self.convolve(self.gate(x)), x[:, -self.left :].transpose(1, 2)

    def gate(self, x: Tensor) -> Tensor:
        return F.glu(F.linear(x, self.pointwise_conv1.weight[:, :, 0], self.pointwise_conv1.bias))

    def convolve(self, x: Tensor) -> Tensor:
        x = F.conv1d(
            x.transpose(1, 2),
            self.depthwise_conv.weight,
            self.depthwise_conv.bias,
            padding=self.side,
            groups=x.size(2),
        )  # (B, D, T)
        x = self.norm(x).transpose(1, 2) if self.batch_norm else self.norm(x.transpose(1, 2))
        return F.linear(F.silu(x), self.pointwise_conv2.weight[:, :, 0], self.pointwise_conv2.bias)
