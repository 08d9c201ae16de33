"""Which positions may be seen: padding, chunks of frames, earlier units; the chunk size draw."""

import torch
from torch import Tensor

MASKED = -1e4
"""Added to the score of a hidden position: exp() of it is 0 in every float type, and unlike -inf a
row with nothing visible stays finite."""

MAX_CHUNK_FRAMES = 25
"""Largest random chunk in encoder frames (1 s at a subsampling of 4), as in WeNet."""


def padding_mask(lengths: Tensor, max_length: int) -> Tensor:
    """True for the positions inside each sequence: bool (B, max_length)."""
    return torch.arange(max_length, device=lengths.device)[None, :] < lengths[:, None]


def chunk_mask(
    num_frames: int, chunk_frames: int, left_chunks: int, device: torch.device
) -> Tensor:
    """Which encoder frames each frame may attend to: bool (T, T), True = visible.

    A frame sees its own chunk and `left_chunks` chunks before it; `left_chunks` < 0: all of them.
    """
    chunk = torch.div(
        torch.arange(num_frames, device=device), chunk_frames, rounding_mode="floor"
    )  # (T,)
    behind = chunk[:, None] - chunk[None, :]  # (T, T), counted in chunks
    visible = behind >= 0
    if left_chunks >= 0:
        visible = visible & (behind <= left_chunks)
    return visible


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Each position sees itself and what is before it: bool (L, L)."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def draw_chunk(
    num_frames: int, dynamic_left_chunks: bool, longest: int = MAX_CHUNK_FRAMES
) -> tuple[int, int]:
    """A random (chunk size, left chunks) for one training batch, as WeNet draws it.

    Half of the batches train at full context, the rest on chunks of 1..25 frames. Drawn on the CPU
    (torch's global generator, seeded by the caller), so nothing waits for a GPU.
    """
    chunk_frames = int(torch.randint(1, max(num_frames, 2), (1,)).item())
    left_chunks = -1
    if chunk_frames > num_frames // 2:
        return num_frames, left_chunks
    chunk_frames = chunk_frames % longest + 1
    if dynamic_left_chunks:
        most = (num_frames - 1) // chunk_frames
        left_chunks = int(torch.randint(0, max(most, 1), (1,)).item())
    return chunk_frames, left_chunks


def score_bias(visible: Tensor, dtype: torch.dtype, hidden: float = MASKED) -> Tensor:
    """A visibility mask as a term to add to attention scores: 0 or `hidden`, same shape."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
        visible.logical_not(), hidden
    )
