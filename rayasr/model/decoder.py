"""The attention decoders: left to right, and (U2++) right to left beside it.

Encoder frames may be those of B utterances for N = B x n rows of units, n hypotheses of each in
turn: their keys and values are computed once an utterance, and its hypotheses attend together.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rayasr.model.alignment import Spans, span_loss
from rayasr.model.attention import Attention, extend_cache
from rayasr.model.dropout import Dropout
from rayasr.model.feed_forward import FeedForward
from rayasr.model.losses import at_least_float32
from rayasr.model.masks import causal_mask, score_bias
from rayasr.model.subsampling import Positions
from rayasr.model_config import DecoderConfig


class DecoderLayer(nn.Module):
    """Self-attention, attention over encoder frames, feed-forward; a norm before each."""

    def __init__(self, config: DecoderConfig, size: int) -> None:
        super().__init__()
        heads, rate = config.attention_heads, config.dropout_rate
        self.self_attn = Attention(heads, size, config.self_attention_dropout_rate)
        self.src_attn = Attention(heads, size, config.src_attention_dropout_rate)
        self.feed_forward = FeedForward(size, config.linear_units, rate, swish=False)
        self.norm1 = nn.LayerNorm(size)
        self.norm2 = nn.LayerNorm(size)
        self.norm3 = nn.LayerNorm(size)
        self.dropout = Dropout(rate)

    def forward(
        self, x: Tensor, bias: Tensor, memory: Tensor, memory_bias: Tensor, spans: Spans | None
    ) -> tuple[Tensor, Tensor]:
        """Units (N, L, D) over encoder frames (B, T, D), and attention's loss outside the spans."""
        y = self.norm1(x)
        k, v = self.self_attn.keys_values(y)
        x = self.dropout.add(x, self.self_attn.query(y, k, v, bias))
        k, v = self.src_attn.keys_values(memory)
        outside = torch.zeros((), device=x.device)
        if spans is not None:
            weights = self.src_attn.weights(self.norm2(x), k, memory_bias)
            outside = span_loss(at_least_float32(weights), spans)
        return self.rest(x, k, v, memory_bias), outside

    def forward_step(
        self, x: Tensor, bias: Tensor, cache: Tensor, memory_cache: Tensor, memory_bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """New units (N, L, D) after those in the cache (N, H, l, 2 d); returns the longer cache."""
        y = self.norm1(x)
        k, v = self.self_attn.keys_values(y)
        k, v, cache = extend_cache(cache, k, v)
        x = x + self.self_attn.query(y, k, v, bias)
        half = memory_cache.size(3) // 2
        x = self.rest(x, memory_cache[..., :half], memory_cache[..., half:], memory_bias)
        return x, cache

    def rest(self, x: Tensor, k: Tensor, v: Tensor, memory_bias: Tensor) -> Tensor:
        queries = self.norm2(x).view(k.size(0), -1, x.size(2))  # (B, n x L, D)
        x = self.dropout.add(x, self.src_attn.query(queries, k, v, memory_bias).view_as(x))
        return self.dropout.add(x, self.feed_forward(self.norm3(x)))


class Decoder(nn.Module):
    """Transformer decoder of one direction: units and encoder frames to logits."""

    def __init__(self, config: DecoderConfig, vocab_size: int, size: int, num_blocks: int) -> None:
        super().__init__()
        positions = Positions(size, config.positional_dropout_rate, added=True)
        self.embed: Any = nn.ModuleList([nn.Embedding(vocab_size, size), positions])
        self.after_norm = nn.LayerNorm(size)
        self.output_layer = nn.Linear(size, vocab_size)
        self.decoders: Any = nn.ModuleList(DecoderLayer(config, size) for _ in range(num_blocks))

    def forward(
        self, units: Tensor, memory: Tensor, memory_bias: Tensor, spans: Spans | None = None
    ) -> tuple[Tensor, Tensor]:
        """Units (N, L), <sos> first, and encoder frames (B, T, D) to logits (N, L, V).

        Padding stands behind the units, where the causal mask hides it. The second result is the
        loss of attention outside the spans, a mean over layers; 0 without spans.
        """
        x = self.embed_units(units, 0)
        bias = score_bias(causal_mask(units.size(1), x.device), x.dtype)
        outside = torch.zeros((), device=x.device)
        for layer in self.decoders:
            x, layer_outside = layer(x, bias, memory, memory_bias, spans)
            outside = outside + layer_outside / len(self.decoders)
        logits: Tensor = self.output_layer(self.after_norm(x))
        return logits, outside

    def forward_step(
        self, units: Tensor, memory: Tensor, memory_bias: Tensor, cache: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits (N, V) after the last of the units (N, L), and the cache for the next call.

        With an empty cache all units are computed, else only the last. The cache holds two tensors
        a layer, keys and values of the units (N, H, ., 2 d) and of the frames (B, H, T, 2 d).
        """
        done = 0
        if len(cache) > 0:
            done = units.size(1) - 1
            units = units[:, done:]
        x = self.embed_units(units, done)
        bias = score_bias(causal_mask(units.size(1), x.device), x.dtype)
        new_cache: list[Tensor] = []
        for i, layer in enumerate(self.decoders):
            if done > 0:
                own, memory_cache = cache[2 * i], cache[2 * i + 1]
            else:
                own = torch.zeros(0, 0, 0, 0)
                k, v = layer.src_attn.keys_values(memory)
                memory_cache = torch.cat([k, v], dim=3)
            x, own = layer.forward_step(x, bias, own, memory_cache, memory_bias)
            new_cache.append(own)
            new_cache.append(memory_cache)
        logits: Tensor = self.output_layer(self.after_norm(x[:, -1]))
        return logits, new_cache

    def embed_units(self, units: Tensor, offset: int) -> Tensor:
        """Unit and position vectors together: (N, L) to (N, L, D)."""
        x: Tensor = self.embed[1](self.embed[0](units), offset)[0]
        return x


class BiDecoder(nn.Module):
    """U2++'s pair: one decoder left to right, one right to left."""

    def __init__(self, config: DecoderConfig, vocab_size: int, size: int) -> None:
        super().__init__()
        self.left_decoder = Decoder(config, vocab_size, size, config.num_blocks)
        self.right_decoder = Decoder(config, vocab_size, size, config.r_num_blocks)
