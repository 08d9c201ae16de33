"""The two 3x3 convolutions of the /4 subsampling as matrix products, for training on the CPU.

They are half of a small model's training step. Here frames are laid out frequency by frequency,
two successive frames in one row, so that a row and the start of the next hold all a kernel needs:
no im2col copy, and a frequency's first-layer frames (recomputed in backward) stay in the cache.
"""

from typing import Any

import torch
from torch import Tensor


def conv_frontend(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """relu(conv(relu(conv(x)))) with 3x3 kernels and strides of 2: (B, T, F) to (B, T', F', C).

    No gradient for x. Weights as in nn.Conv2d: (C, 1, 3, 3) and (C, C, 3, 3).
    """
    out: Tensor = _ConvFrontend.apply(x, weight1, bias1, weight2, bias2)  # type: ignore[no-untyped-call]
    return out


class _ConvFrontend(torch.autograd.Function):
    """Names: M = F1 first-layer frequencies, R = B x (T' + 1) rows of two first-layer frames."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
    ) -> Tensor:
        patches, num_frames = _first_patches(x)  # (M, 2 R, 10)
        kernel1 = torch.cat([weight1.flatten(1), bias1[:, None]], dim=1).t()  # (10, C)
        here, after = _second_kernels(weight2)
        rows = patches.size(1) // 2
        size = weight2.size(0)
        num_bins = (patches.size(0) - 3) // 2 + 1
        out = bias2.repeat(rows, num_bins, 1)  # (R, F', C)
        first = x.new_empty(2 * rows, size)
        for m in range(2 * num_bins + 1):
            torch.mm(patches[m], kernel1, out=first).relu_()
            pairs = first.view(rows, 2 * size)
            for j in range(3):  # this frequency is row j of the kernel for output bin n
                n, odd = divmod(m - j, 2)
                if odd == 0 and 0 <= n < num_bins:
                    out[:, n].addmm_(pairs, here[j])
                    out[:-1, n].addmm_(pairs[1:, :size], after[j])
        out.relu_()
        ctx.save_for_backward(patches, kernel1, weight2, out)
        return out.view(x.size(0), -1, num_bins, size)[:, :num_frames]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        patches, kernel1, weight2, out = ctx.saved_tensors
        here, after = _second_kernels(weight2)
        rows, num_bins, size = out.shape
        # Each utterance's last row only pads the layout: no gradient comes from it.
        full = grad.new_zeros(grad.size(0), grad.size(1) + 1, num_bins, size)
        full[:, :-1] = grad
        grad_out = full.view(rows, num_bins, size).mul_(out > 0).transpose(0, 1).contiguous()
        grad_kernel1 = torch.zeros_like(kernel1)
        grad_here, grad_after = torch.zeros_like(here), torch.zeros_like(after)
        first = grad.new_empty(2 * rows, size)
        grad_pairs = grad.new_empty(rows, 2 * size)
        for m in range(2 * num_bins + 1):
            torch.mm(patches[m], kernel1, out=first).relu_()
            pairs = first.view(rows, 2 * size)
            used = 0
            for j in range(3):
                n, odd = divmod(m - j, 2)
                if odd == 0 and 0 <= n < num_bins:
                    g = grad_out[n]  # (R, C)
                    grad_here[j].addmm_(pairs.t(), g)
                    grad_after[j].addmm_(pairs[1:, :size].t(), g[:-1])
                    grad_pairs.addmm_(g, here[j].t(), beta=float(used > 0))
                    grad_pairs[1:, :size].addmm_(g[:-1], after[j].t())
                    used += 1
            grad_first = grad_pairs.view(2 * rows, size).mul_(first > 0)
            grad_kernel1.addmm_(patches[m].t(), grad_first)
        grad_weight1 = grad_kernel1[:9].t().reshape(size, 1, 3, 3)
        grad_time = torch.cat([grad_here.view(3, 2, size, size), grad_after[:, None]], dim=1)
        # (frequency j, time i, in, out) to nn.Conv2d's (out, in, i, j)
        grad_weight2 = grad_time.permute(3, 2, 1, 0)
        return None, grad_weight1, grad_kernel1[9], grad_weight2, grad_out.sum((0, 1))


def _first_patches(x: Tensor) -> tuple[Tensor, int]:
    """3x3 patches of x and a 1 for the bias, by frequency: (M, 2 R, 10), and T'."""
    num_utterances, length, num_mel_bins = x.shape
    num_frames = ((length - 1) // 2 - 1) // 2
    num_first = 2 * (num_frames + 1)  # per utterance; what is beyond the real ones is zero
    needed = 2 * num_first + 1
    num_freqs = (num_mel_bins - 1) // 2
    padded = x.new_zeros(num_utterances, needed, num_mel_bins)
    padded[:, : min(length, needed)] = x[:, :needed]
    windows = padded.unfold(1, 3, 2).unfold(2, 3, 2)  # (B, 2 (T' + 1), M, 3, 3)
    patches = x.new_ones(num_freqs, num_utterances, num_first, 10)
    kernel_part = patches[..., :9].view(num_freqs, num_utterances, num_first, 3, 3)
    kernel_part.copy_(windows.permute(2, 0, 1, 3, 4))
    return patches.view(num_freqs, -1, 10), num_frames


def _second_kernels(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(C, C, 3, 3) as (3, 2 C, C) for a row's two frames and (3, C, C) for the next one."""
    by_frequency = weight.permute(3, 2, 1, 0)  # (frequency, time, in, out)
    return by_frequency[:, :2].flatten(1, 2).contiguous(), by_frequency[:, 2].contiguous()
