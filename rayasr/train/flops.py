"""Floating-point operations of the model, and what this device can do: the two sides of `mfu`."""

import time

import torch

from rayasr.config import Recipe

_MATMUL = 1024
"""Side of the square matrices the device's own rate is measured with."""


def training_flops(
    recipe: Recipe, vocab_size: int, frames: int, units: int, utterances: int
) -> float:
    """Operations of forward and backward over so many real frames and units.

    Counts multiplications in matrices and convolutions (two operations each); backward costs twice
    the forward pass. Attention scores are counted for utterances of equal length.
    """
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    width, mel = encoder.output_size, recipe.features.num_mel_bins
    channels = encoder.subsampling_channels or width
    out = frames / encoder.subsampling  # encoder frames
    length = out / max(1, utterances)
    # conv2d: a 3x3 kernel over one channel at a quarter of the points, then over all channels.
    front = frames * (mel / 4) * 9 * channels
    front += out * (mel / 4) * channels * channels * 9 + out * (mel / 4) * channels * width
    layer = 4 * width**2 + 2 * length * width + 2 * width * encoder.linear_units
    if encoder.kind == "conformer":
        layer += 2 * width * encoder.linear_units + 3 * width**2
        layer += width * encoder.convolution_kernel
        layer += width**2 if encoder.positions == "relative" else 0
    ctc = width * vocab_size
    steps = units + utterances  # every utterance also predicts its end
    per_unit = 6 * width**2 + 2 * width * decoder.linear_units + 2 * length * width
    blocks = decoder.num_blocks + decoder.r_num_blocks
    attention = blocks * (steps * per_unit + out * 2 * width**2)
    attention += (2 if decoder.r_num_blocks else 1) * steps * width * vocab_size
    forward = front + out * (encoder.num_blocks * layer + ctc) + attention
    return 3 * 2 * float(forward)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a square matmul on this device, the best of a few."""
    size = _MATMUL * (8 if device.type == "cuda" else 1)
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):
        _wait(device)
        started = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * float(size) ** 3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
