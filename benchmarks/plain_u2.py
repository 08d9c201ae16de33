"""A plain U2/U2++ conformer that does WeNet's operations one by one in WeNet's order.

The reference of bench_train_step.py: torch's own layers and dropout, two score matmuls with masks,
a causal depthwise Conv1d between transposes, dense label smoothing. Its parameters carry the same
names as rayasr's, so one state dict fits both.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rayasr.model.losses import add_sos_eos, reverse_units
from rayasr.model.masks import draw_chunk
from rayasr.model.subsampling import sinusoids
from rayasr.model_config import DecoderConfig, EncoderConfig, ModelConfig


class FeedForward(nn.Module):
    def __init__(self, size: int, hidden: int, rate: float, activation: nn.Module) -> None:
        super().__init__()
        self.w_1 = nn.Linear(size, hidden)
        self.activation = activation
        self.dropout = nn.Dropout(rate)
        self.w_2 = nn.Linear(hidden, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(self.dropout(self.activation(self.w_1(x))))


class Attention(nn.Module):
    def __init__(self, heads: int, size: int, rate: float, relative: bool) -> None:
        super().__init__()
        self.heads = heads
        self.linear_q = nn.Linear(size, size)
        self.linear_k = nn.Linear(size, size)
        self.linear_v = nn.Linear(size, size)
        self.linear_out = nn.Linear(size, size)
        self.dropout = nn.Dropout(rate)
        if relative:
            self.linear_pos = nn.Linear(size, size, bias=False)
            self.pos_bias_u = nn.Parameter(torch.zeros(heads, size // heads))
            self.pos_bias_v = nn.Parameter(torch.zeros(heads, size // heads))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), -1, self.heads, x.size(2) // self.heads)

    def forward(
        self, query: Tensor, memory: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        q = self.split(self.linear_q(query))
        k = self.split(self.linear_k(memory)).transpose(1, 2)
        v = self.split(self.linear_v(memory)).transpose(1, 2)
        if positions is None:
            scores = torch.matmul(q.transpose(1, 2), k.transpose(-2, -1))
        else:
            p = self.split(self.linear_pos(positions)).transpose(1, 2)
            q_u = (q + self.pos_bias_u).transpose(1, 2)
            q_v = (q + self.pos_bias_v).transpose(1, 2)
            scores = torch.matmul(q_u, k.transpose(-2, -1))
            scores = scores + torch.matmul(q_v, p.transpose(-2, -1))
        scores = scores / math.sqrt(q.size(3))
        hidden = mask.unsqueeze(1).eq(0)
        scores = scores.masked_fill(hidden, -float("inf"))
        weights = torch.softmax(scores, dim=-1).masked_fill(hidden, 0.0)
        x = torch.matmul(self.dropout(weights), v)
        return self.linear_out(x.transpose(1, 2).contiguous().view(query.shape))


class Convolution(nn.Module):
    def __init__(self, size: int, kernel: int) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(size, 2 * size, 1)
        self.depthwise_conv = nn.Conv1d(size, size, kernel, groups=size)
        self.norm = nn.LayerNorm(size)
        self.pointwise_conv2 = nn.Conv1d(size, size, 1)
        self.left = kernel - 1

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x.transpose(1, 2).masked_fill(~mask, 0.0)
        x = F.pad(x, (self.left, 0))
        x = F.glu(self.pointwise_conv1(x), dim=1)
        x = self.depthwise_conv(x).transpose(1, 2)
        x = F.silu(self.norm(x)).transpose(1, 2)
        return self.pointwise_conv2(x).masked_fill(~mask, 0.0).transpose(1, 2)


class EncoderLayer(nn.Module):
    def __init__(self, c: EncoderConfig) -> None:
        super().__init__()
        size = c.output_size
        self.self_attn = Attention(c.attention_heads, size, c.attention_dropout_rate, True)
        self.feed_forward = FeedForward(size, c.linear_units, c.dropout_rate, nn.SiLU())
        self.feed_forward_macaron = FeedForward(size, c.linear_units, c.dropout_rate, nn.SiLU())
        self.conv_module = Convolution(size, c.convolution_kernel)
        self.norm_ff = nn.LayerNorm(size)
        self.norm_mha = nn.LayerNorm(size)
        self.norm_ff_macaron = nn.LayerNorm(size)
        self.norm_conv = nn.LayerNorm(size)
        self.norm_final = nn.LayerNorm(size)
        self.dropout = nn.Dropout(c.dropout_rate)

    def forward(self, x: Tensor, mask: Tensor, positions: Tensor, pad: Tensor) -> Tensor:
        x = x + 0.5 * self.dropout(self.feed_forward_macaron(self.norm_ff_macaron(x)))
        y = self.norm_mha(x)
        x = x + self.dropout(self.self_attn(y, y, mask, positions))
        x = x + self.dropout(self.conv_module(self.norm_conv(x), pad))
        x = x + 0.5 * self.dropout(self.feed_forward(self.norm_ff(x)))
        return self.norm_final(x)


class Encoder(nn.Module):
    def __init__(self, c: EncoderConfig, mel: int) -> None:
        super().__init__()
        size = c.output_size
        channels = c.subsampling_channels or size
        self.global_cmvn = nn.Module()
        self.global_cmvn.register_buffer("mean", torch.zeros(mel))
        self.global_cmvn.register_buffer("istd", torch.ones(mel))
        self.embed = nn.Module()
        self.embed.conv = nn.Sequential(
            nn.Conv2d(1, channels, 3, 2), nn.ReLU(), nn.Conv2d(channels, channels, 3, 2), nn.ReLU()
        )
        self.embed.out = nn.Sequential(nn.Linear(channels * (((mel - 1) // 2 - 1) // 2), size))
        self.after_norm = nn.LayerNorm(size)
        self.encoders = nn.ModuleList(EncoderLayer(c) for _ in range(c.num_blocks))
        self.dropout = nn.Dropout(c.positional_dropout_rate)
        self.register_buffer("pe", sinusoids(0, 5000, size)[None], persistent=False)

    def forward(
        self, x: Tensor, lengths: Tensor, chunk: int, left_chunks: int
    ) -> tuple[Tensor, Tensor]:
        mask = pad_mask(lengths, x.size(1))[:, None]  # (B, 1, T)
        x = (x - self.global_cmvn.mean) * self.global_cmvn.istd
        x = self.embed.conv(x.unsqueeze(1))
        b, c, t, f = x.size()
        x = self.embed.out(x.transpose(1, 2).contiguous().view(b, t, c * f))
        mask = mask[:, :, 2::2][:, :, 2::2]
        x = self.dropout(x * math.sqrt(x.size(2)))
        positions = self.dropout(self.pe[:, :t])
        chunk_mask = mask & subsequent_chunks(t, chunk if chunk > 0 else t, left_chunks)[None]
        for layer in self.encoders:
            x = layer(x, chunk_mask, positions, mask)
        return self.after_norm(x), mask


class DecoderLayer(nn.Module):
    def __init__(self, c: DecoderConfig, size: int) -> None:
        super().__init__()
        self.self_attn = Attention(c.attention_heads, size, c.self_attention_dropout_rate, False)
        self.src_attn = Attention(c.attention_heads, size, c.src_attention_dropout_rate, False)
        self.feed_forward = FeedForward(size, c.linear_units, c.dropout_rate, nn.ReLU())
        self.norm1 = nn.LayerNorm(size)
        self.norm2 = nn.LayerNorm(size)
        self.norm3 = nn.LayerNorm(size)
        self.dropout = nn.Dropout(c.dropout_rate)

    def forward(self, x: Tensor, mask: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, mask))
        x = x + self.dropout(self.src_attn(self.norm2(x), memory, memory_mask))
        return x + self.dropout(self.feed_forward(self.norm3(x)))


class Decoder(nn.Module):
    def __init__(self, c: DecoderConfig, vocab_size: int, size: int, blocks: int) -> None:
        super().__init__()
        self.embed = nn.ModuleList([nn.Embedding(vocab_size, size)])
        self.dropout = nn.Dropout(c.positional_dropout_rate)
        self.after_norm = nn.LayerNorm(size)
        self.output_layer = nn.Linear(size, vocab_size)
        self.decoders = nn.ModuleList(DecoderLayer(c, size) for _ in range(blocks))
        self.register_buffer("pe", sinusoids(0, 5000, size)[None], persistent=False)

    def forward(
        self, memory: Tensor, memory_mask: Tensor, units: Tensor, lengths: Tensor
    ) -> Tensor:
        n = units.size(1)
        mask = pad_mask(lengths, n)[:, None] & torch.ones(n, n, dtype=torch.bool).tril()
        x = self.embed[0](units)
        x = self.dropout(x * math.sqrt(x.size(2)) + self.pe[:, :n])
        for layer in self.decoders:
            x = layer(x, mask, memory, memory_mask)
        return self.output_layer(self.after_norm(x))


class PlainU2(nn.Module):
    """Losses of a batch in WeNet's way: divided by the number of utterances."""

    def __init__(self, config: ModelConfig, mel: int, vocab_size: int, sos_eos_id: int) -> None:
        super().__init__()
        size, decoder = config.encoder.output_size, config.decoder
        self.config = config
        self.sos_eos_id = sos_eos_id
        self.encoder = Encoder(config.encoder, mel)
        self.decoder = nn.Module()
        self.decoder.left_decoder = Decoder(decoder, vocab_size, size, decoder.num_blocks)
        self.decoder.right_decoder = Decoder(decoder, vocab_size, size, decoder.r_num_blocks)
        self.ctc = nn.Module()
        self.ctc.ctc_lo = nn.Linear(size, vocab_size)

    def forward(
        self, features: Tensor, lengths: Tensor, units: Tensor, unit_lengths: Tensor, chunk: int = 0
    ) -> Tensor:
        if chunk == 0 and self.training and self.config.encoder.dynamic_chunk:
            chunk, _ = draw_chunk(((features.size(1) - 1) // 2 - 1) // 2, False)
        x, mask = self.encoder(features, lengths, chunk, -1)
        log_probs = self.ctc.ctc_lo(x).transpose(0, 1).log_softmax(2)
        ctc = F.ctc_loss(
            log_probs,
            units,
            mask.squeeze(1).sum(1),
            unit_lengths,
            reduction="sum",
            zero_infinity=True,
        )
        left = self.attention_loss(self.decoder.left_decoder, x, mask, units, unit_lengths)
        units = reverse_units(units, unit_lengths, -1)
        right = self.attention_loss(self.decoder.right_decoder, x, mask, units, unit_lengths)
        weight = self.config.reverse_weight
        attention = (1 - weight) * left + weight * right
        total = self.config.ctc_weight * ctc + (1 - self.config.ctc_weight) * attention
        return total / features.size(0)

    def attention_loss(
        self, decoder: nn.Module, x: Tensor, mask: Tensor, units: Tensor, unit_lengths: Tensor
    ) -> Tensor:
        inputs, targets = add_sos_eos(units, unit_lengths, self.sos_eos_id)
        logits = decoder(x, mask, inputs, unit_lengths + 1)
        size, smoothing = logits.size(2), self.config.label_smoothing
        logits, flat = logits.view(-1, size), targets.view(-1)
        dense = torch.full_like(logits, smoothing / (size - 1))
        ignored = flat == -1
        dense.scatter_(1, flat.masked_fill(ignored, 0)[:, None], 1.0 - smoothing)
        divergence = F.kl_div(logits.log_softmax(1), dense, reduction="none")
        (logits.argmax(1) == flat).sum()  # WeNet counts the accuracy in every step
        return divergence.masked_fill(ignored[:, None], 0.0).sum()


def pad_mask(lengths: Tensor, size: int) -> Tensor:
    return torch.arange(size)[None] < lengths[:, None]


def subsequent_chunks(size: int, chunk: int, left_chunks: int) -> Tensor:
    """WeNet's subsequent_chunk_mask: bool (T, T)."""
    index = torch.arange(size)
    ends = (torch.div(index, chunk, rounding_mode="trunc") + 1) * chunk
    mask = index[None] < ends[:, None]
    if left_chunks >= 0:
        starts = (torch.div(index, chunk, rounding_mode="trunc") - left_chunks) * chunk
        mask = mask & (index[None] >= starts[:, None])
    return mask
