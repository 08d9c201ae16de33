"""The encoder: subsampling, then conformer or transformer layers, whole or chunk by chunk."""

from typing import Any

import torch
from torch import Tensor, nn

from rayasr.model.attention import Attention, RelativeAttention
from rayasr.model.convolution import ConvolutionModule
from rayasr.model.dropout import Dropout
from rayasr.model.feed_forward import FeedForward
from rayasr.model.masks import chunk_mask, padding_mask, score_bias
from rayasr.model.subsampling import GlobalCmvn, Positions, Subsampling
from rayasr.model_config import EncoderConfig


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each after a norm and around a residual."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.output_size
        self.self_attn = Attention(config.attention_heads, size, config.attention_dropout_rate)
        self.feed_forward = FeedForward(size, config.linear_units, config.dropout_rate, swish=False)
        self.norm1 = nn.LayerNorm(size)
        self.norm2 = nn.LayerNorm(size)
        self.dropout = Dropout(config.dropout_rate)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        bias: Tensor,
        pad_mask: Tensor,  # noqa: ARG002  # the same call as ConformerLayer's
    ) -> Tensor:
        """(B, T, D) to (B, T, D); see `Encoder` for the other arguments."""
        x = self.dropout.add(x, self.self_attn(self.norm1(x), positions, bias))
        return self.dropout.add(x, self.feed_forward(self.norm2(x)))

    def forward_chunk(
        self,
        x: Tensor,
        positions: Tensor,
        bias: Tensor,
        att_cache: Tensor,
        cnn_cache: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk after cached keys and values; there is no convolution to cache for."""
        y, att_cache = self.self_attn.forward_chunk(self.norm1(x), positions, bias, att_cache)
        x = x + y
        x = x + self.feed_forward(self.norm2(x))
        return x, att_cache, torch.zeros(0, 0, 0)


class ConformerLayer(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size, hidden, rate = config.output_size, config.linear_units, config.dropout_rate
        attention = RelativeAttention if config.positions == "relative" else Attention
        self.self_attn = attention(config.attention_heads, size, config.attention_dropout_rate)
        self.feed_forward = FeedForward(size, hidden, rate, swish=True)
        self.feed_forward_macaron = FeedForward(size, hidden, rate, swish=True)
        self.conv_module = ConvolutionModule(
            size,
            config.convolution_kernel,
            config.causal_convolution,
            config.convolution_norm == "batch_norm",
            config.mask_convolution,
        )
        self.norm_ff = nn.LayerNorm(size)
        self.norm_mha = nn.LayerNorm(size)
        self.norm_ff_macaron = nn.LayerNorm(size)
        self.norm_conv = nn.LayerNorm(size)
        self.norm_final = nn.LayerNorm(size)
        self.dropout = Dropout(rate)

    def forward(self, x: Tensor, positions: Tensor, bias: Tensor, pad_mask: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D); see `Encoder` for the other arguments."""
        x = self.dropout.add(x, self.feed_forward_macaron(self.norm_ff_macaron(x)), 0.5)
        x = self.dropout.add(x, self.self_attn(self.norm_mha(x), positions, bias))
        x = self.dropout.add(x, self.conv_module(self.norm_conv(x), pad_mask))
        x = self.dropout.add(x, self.feed_forward(self.norm_ff(x)), 0.5)
        out: Tensor = self.norm_final(x)
        return out

    def forward_chunk(
        self, x: Tensor, positions: Tensor, bias: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk after cached keys and values and cached frames of the convolution."""
        x = x + 0.5 * self.feed_forward_macaron(self.norm_ff_macaron(x))
        y, att_cache = self.self_attn.forward_chunk(self.norm_mha(x), positions, bias, att_cache)
        x = x + y
        y, cnn_cache = self.conv_module.forward_chunk(self.norm_conv(x), cnn_cache)
        x = x + y
        x = x + 0.5 * self.feed_forward(self.norm_ff(x))
        return self.norm_final(x), att_cache, cnn_cache


class Encoder(nn.Module):
    """fbank frames (B, T, F) to encoder frames (B, T', D).

    Layers get `bias` (added to attention scores; hides padding and frames outside the chunk) and
    `pad_mask` (B, T', 1), 1 for real frames.
    """

    def __init__(self, config: EncoderConfig, num_mel_bins: int, cmvn: GlobalCmvn) -> None:
        super().__init__()
        size = config.output_size
        relative = config.kind == "conformer" and config.positions == "relative"
        self.global_cmvn = cmvn
        self.embed = Subsampling(
            config.subsampling,
            num_mel_bins,
            config.subsampling_channels or size,
            size,
            Positions(size, config.positional_dropout_rate, added=not relative),
        )
        self.after_norm = nn.LayerNorm(size)
        layer = ConformerLayer if config.kind == "conformer" else TransformerLayer
        self.encoders: Any = nn.ModuleList(layer(config) for _ in range(config.num_blocks))

    def forward(
        self, features: Tensor, lengths: Tensor, chunk_frames: int, left_chunks: int
    ) -> tuple[Tensor, Tensor]:
        """Encoder frames (B, T', D), after the last norm, and their lengths (B,).

        `chunk_frames` <= 0: full context. Rows beyond a length hold nothing of meaning.
        """
        x, positions = self.embed(self.global_cmvn(features), 0)
        lengths = self.embed.output_lengths(lengths)
        inside = padding_mask(lengths, x.size(1))  # (B, T')
        visible = inside[:, None]  # (B, 1, T')
        if chunk_frames > 0 and chunk_frames < x.size(1):
            visible = visible & chunk_mask(x.size(1), chunk_frames, left_chunks, x.device)[None]
        bias = score_bias(visible[:, None], x.dtype)  # (B, 1, 1 or T', T')
        pad_mask = inside[:, :, None].to(x.dtype)
        for layer in self.encoders:
            x = layer(x, positions, bias, pad_mask)
        return self.after_norm(x), lengths

    def forward_chunk(
        self,
        features: Tensor,
        offset: int,
        required_cache_size: int,
        att_cache: Tensor,
        cnn_cache: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk (1, T, F) after `offset` encoder frames, as WeNet's runtime calls it.

        Caches are (layers, H, t, 2 d) and (layers, 1, D, kernel - 1), empty at first. Keeps the
        last `required_cache_size` keys (< 0: all, 0: none). Returns frames and both caches.
        """
        x, positions = self.embed(self.global_cmvn(features), offset)
        cached = att_cache.size(2) if att_cache.size(0) > 0 else 0
        num_keys = cached + x.size(1)
        if required_cache_size < 0:
            first = 0
        elif required_cache_size == 0:
            first = num_keys
        else:
            first = max(num_keys - required_cache_size, 0)
        positions = self.embed.pos_enc.lookup(offset - cached, num_keys)
        bias = torch.zeros(1, 1, 1, num_keys, dtype=x.dtype, device=x.device)
        att_caches: list[Tensor] = []
        cnn_caches: list[Tensor] = []
        for i, layer in enumerate(self.encoders):
            x, new_att, new_cnn = layer.forward_chunk(
                x,
                positions,
                bias,
                att_cache[i : i + 1] if att_cache.size(0) > 0 else att_cache,
                cnn_cache[i] if cnn_cache.size(0) > 0 else cnn_cache,
            )
            att_caches.append(new_att[:, :, first:])
            cnn_caches.append(new_cnn[None])
        return self.after_norm(x), torch.cat(att_caches, dim=0), torch.cat(cnn_caches, dim=0)
