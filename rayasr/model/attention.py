"""Multi-headed attention: plain (self or over encoder frames) and with relative positions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayasr.model.dropout import Dropout, drop


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, dropout_rate: float) -> Tensor:
    """softmax(q kᵀ / sqrt(d) + bias) v: (B, H, Tq, d), (B, H, Tk, d) to (B, Tq, H x d).

    `bias` (added after the scaling) broadcasts to (B, H, Tq, Tk). The one place where the device
    decides: an explicit softmax is faster on the CPU, the fused kernels on a GPU.
    """
    scale = 1.0 / math.sqrt(q.size(3))
    if q.device.type == "cpu":
        scores = torch.matmul(q * scale, k.transpose(2, 3)).add_(bias)
        x = torch.matmul(drop(torch.softmax(scores, dim=3), dropout_rate), v)
    else:
        mask = bias.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, mask, dropout_rate, False, scale=scale)
    return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """WeNet's MultiHeadedAttention: queries from one sequence, keys and values from another."""

    def __init__(self, heads: int, size: int, dropout_rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.dropout = Dropout(dropout_rate)

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor) -> Tensor:  # noqa: ARG002
        """Self-attention (B, T, D) to (B, T, D); positions are not used."""
        k, v = self.keys_values(x)
        return self.query(x, k, v, bias)

    def forward_chunk(
        self,
        x: Tensor,
        positions: Tensor,  # noqa: ARG002  # the same call as RelativeAttention's
        bias: Tensor,
        cache: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Self-attention over cached and new frames; the cache is (B, H, t, 2 d): keys, values."""
        k, v = self.keys_values(x)
        k, v, cache = extend_cache(cache, k, v)
        return self.query(x, k, v, bias), cache

    def weights(self, x: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        """Attention weights (B, H, Tq, Tk) of queries (B, Tq, D), which `query` does not tell."""
        q = split_heads(self.linear_q(x), self.heads)
        scores = torch.matmul(q / math.sqrt(q.size(3)), k.transpose(2, 3)) + bias
        return torch.softmax(scores, dim=3)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) to keys and values, each (B, H, T, d)."""
        k = split_heads(self.linear_k(memory), self.heads)
        return k, split_heads(self.linear_v(memory), self.heads)

    def query(self, x: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """Attend from (B, Tq, D) to given keys and values."""
        q = split_heads(self.linear_q(x), self.heads)
        out: Tensor = self.linear_out(attend(q, k, v, bias, self.dropout.active_rate()))
        return out


class RelativeAttention(nn.Module):
    """WeNet's RelPositionMultiHeadedAttention, which adds p_j of the *key's* position to its score.

    Without rel_shift its score (q + u)·k + (q + v)·p is (q + u)·(k + p) + (v - u)·p: ordinary
    attention to keys k + p with a bias per position.
    """

    def __init__(self, heads: int, size: int, dropout_rate: float) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.dropout = Dropout(dropout_rate)
        self.linear_pos = nn.Linear(size, size, bias=False)
        self.pos_bias_u = nn.Parameter(torch.empty(heads, size // heads))
        self.pos_bias_v = nn.Parameter(torch.empty(heads, size // heads))
        nn.init.xavier_uniform_(self.pos_bias_u)
        nn.init.xavier_uniform_(self.pos_bias_v)

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor) -> Tensor:
        """(B, T, D) and positions (1, T, D) to (B, T, D)."""
        q, k, v = self.project(x)
        return self.attend_relative(q, k, v, positions, bias)

    def forward_chunk(
        self, x: Tensor, positions: Tensor, bias: Tensor, cache: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, with cached keys and values (B, H, t, 2 d) before the new frames.

        `positions` are those of all keys: (1, t + T, D).
        """
        q, k, v = self.project(x)
        k, v, cache = extend_cache(cache, k, v)
        return self.attend_relative(q, k, v, positions, bias), cache

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, T, d)."""
        q = split_heads(self.linear_q(x), self.heads)
        k = split_heads(self.linear_k(x), self.heads)
        return q, k, split_heads(self.linear_v(x), self.heads)

    def attend_relative(
        self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, bias: Tensor
    ) -> Tensor:
        p = split_heads(self.linear_pos(positions), self.heads)  # (1, H, T, d)
        u, v_minus_u = self.pos_bias_u[:, None], (self.pos_bias_v - self.pos_bias_u)[:, None]
        key_bias = (p * v_minus_u).sum(3) / math.sqrt(q.size(3))  # (1, H, T)
        bias = bias + key_bias[:, :, None]
        out: Tensor = self.linear_out(attend(q + u, k + p, v, bias, self.dropout.active_rate()))
        return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, T, H x d) to (B, H, T, d)."""
    return x.view(x.size(0), x.size(1), heads, -1).transpose(1, 2)


def extend_cache(cache: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of cached and new positions, and the cache that holds both.

    The cache is (B, H, t, 2 d), or empty with size 0 in its first dimension.
    """
    if cache.size(0) > 0:
        half = k.size(3)
        k = torch.cat([cache[..., :half], k], dim=2)
        v = torch.cat([cache[..., half:], v], dim=2)
    return k, v, torch.cat([k, v], dim=3)
