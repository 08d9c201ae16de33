"""The networks of an ONNX export, with the inputs and outputs that its runtimes know.

sherpa-onnx's WeNet models turn whole utterances (`FullCtc`) or chunks (`StreamingCtc`) into CTC
log-probabilities. WeNet's runtime has the encoder (`ChunkEncoder` or, where history has no fixed
length, `GrowingEncoder`), `CtcHead` and `RescoringDecoder` in a file each.

Both runtimes start streaming with a cache of zeros, hidden by a mask, and count encoder frames from
its length on. A graph that took this count for a position would hear an utterance
chunk_size x left_chunks frames later than the model was trained to; ours subtract it.
"""

import math
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from rayasr.data.fbank import energy_floor
from rayasr.feature_config import FeatureConfig
from rayasr.model.masks import MASKED
from rayasr.model.subsampling import Positions
from rayasr.model.u2 import U2Model


def prepare(model: U2Model, features: FeatureConfig) -> U2Model:
    """A copy to trace: without tables that limit the length, and with the floor of its features.

    Runtimes that compute features themselves know no `noise_floor`; features from rayasr already
    lie above it.
    """
    copy: Any = deepcopy(model).eval()
    if features.noise_floor:
        floor = energy_floor(features).log()
        copy.encoder.global_cmvn = FlooredCmvn(copy.encoder.global_cmvn, floor)
    for module in list(copy.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Positions):
                setattr(module, name, ComputedPositions(child))
    prepared: U2Model = copy
    return prepared


class FlooredCmvn(nn.Module):
    """CMVN of features (B, T, F) that are at least `floor` (F,)."""

    def __init__(self, cmvn: nn.Module, floor: Tensor) -> None:
        super().__init__()
        self.cmvn = cmvn
        self.floor: Tensor
        self.register_buffer("floor", floor)

    def forward(self, features: Tensor) -> Tensor:
        normalised: Tensor = self.cmvn(torch.maximum(features, self.floor))
        return normalised


class ComputedPositions(nn.Module):
    """`Positions` without a table: any length, and offsets that are known at run time only."""

    def __init__(self, positions: Positions) -> None:
        super().__init__()
        self.size = positions.size
        self.scale = positions.scale
        self.added = positions.added
        exponents = torch.arange(0, self.size, 2, dtype=torch.float32)
        self.rates: Tensor
        self.register_buffer("rates", torch.exp(exponents * -(math.log(10000.0) / self.size)))

    def forward(self, x: Tensor, offset: Tensor | int) -> tuple[Tensor, Tensor]:
        """(B, T, D) at positions from `offset`: (the scaled input, positions (1, T, D))."""
        positions = self.lookup(offset, x.size(1))
        x = x * self.scale
        return (x + positions if self.added else x), positions

    def lookup(self, offset: Tensor | int, length: int) -> Tensor:
        """Position vectors (1, length, D); before the utterance (where a mask hides them) its first
        one."""
        positions = (torch.arange(length) + offset).clamp(min=0).to(torch.float32)
        angles = positions[:, None] * self.rates
        table = torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)
        return table[None, :, : self.size]


class FullCtc(nn.Module):
    """Utterances (N, T, F) of x_lens (N,) frames to log-probabilities (N, T', V) and lengths (N,).

    Where no utterance has frames enough for one encoder frame (7 at a subsampling of 4), T' is 1
    and the lengths are 0: a runtime that does not look first would end with an error.
    """

    def __init__(self, model: U2Model, fewest_frames: int) -> None:
        super().__init__()
        self.model = model
        self.fewest_frames = fewest_frames

    def forward(self, x: Tensor, x_lens: Tensor) -> tuple[Tensor, Tensor]:
        missing: Any = (self.fewest_frames - torch._shape_as_tensor(x)[1]).clamp(min=0)
        x = torch.cat([x, x.new_zeros(x.size(0), missing, x.size(2))], dim=1)
        encoder_out, lengths = self.model.encoder(x, x_lens, -1, -1)
        return self.model.ctc_log_probs(encoder_out), lengths


class ChunkEncoder(nn.Module):
    """WeNet's encoder.onnx for a fixed number of left chunks."""

    def __init__(self, model: U2Model, convolves: bool) -> None:
        super().__init__()
        self.chunk = EncoderChunk(model, convolves)

    def forward(
        self,
        chunk: Tensor,
        offset: Tensor,
        required_cache_size: Tensor,
        att_cache: Tensor,
        cnn_cache: Tensor,
        att_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keeps the last `required_cache_size` keys; `offset` counts from that number on."""
        start = offset - required_cache_size
        out, att, cnn = self.chunk(chunk, start, att_mask, att_cache, cnn_cache)
        first: Any = torch._shape_as_tensor(att)[2] - required_cache_size.reshape(())
        return out, att[:, :, first:], cnn


class GrowingEncoder(nn.Module):
    """WeNet's encoder.onnx with all of the history, or none: then its runtime gives no mask."""

    def __init__(self, model: U2Model, convolves: bool, keep: bool) -> None:
        super().__init__()
        self.chunk = EncoderChunk(model, convolves)
        self.keep = keep

    def forward(
        self, chunk: Tensor, offset: Tensor, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`offset` counts the encoder frames before this chunk."""
        out, att, cnn = self.chunk(chunk, offset, None, att_cache, cnn_cache)
        return out, att if self.keep else att[:, :, :0], cnn


class StreamingCtc(nn.Module):
    """sherpa-onnx's streaming model: `ChunkEncoder` to log-probabilities (1, T', V)."""

    def __init__(self, model: U2Model, convolves: bool) -> None:
        super().__init__()
        self.encoder = ChunkEncoder(model, convolves)
        self.head = CtcHead(model)

    def forward(
        self,
        x: Tensor,
        offset: Tensor,
        required_cache_size: Tensor,
        attn_cache: Tensor,
        conv_cache: Tensor,
        attn_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        out, att, cnn = self.encoder(
            x, offset, required_cache_size, attn_cache, conv_cache, attn_mask
        )
        return self.head(out), att, cnn


class CtcHead(nn.Module):
    """WeNet's ctc.onnx: encoder frames (1, T', D) to log-probabilities (1, T', V)."""

    def __init__(self, model: U2Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        return self.model.ctc_log_probs(hidden)


class RescoringDecoder(nn.Module):
    """WeNet's decoder.onnx: log-probabilities (N, L, V) by both decoders, if there are two."""

    def __init__(self, model: U2Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `U2Model.forward_attention_decoder`; the runtime weights the two itself.

        What lies behind a length does not count. (One decoder would not need the lengths, and an
        input that no graph needs is left out of its file: WeNet's runtime gives three.)
        """
        inside = torch.arange(hyps.size(1))[None] < hyps_lens[:, None]
        hyps = hyps.masked_fill(~inside, self.model.sos_eos_id)
        return self.model.forward_attention_decoder(hyps, hyps_lens, encoder_out, 1.0)


class EncoderChunk(nn.Module):
    """Encoder frames of one chunk after cached keys and values: what all chunk models share."""

    def __init__(self, model: U2Model, convolves: bool) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.convolves = convolves  # there is a causal convolution, whose last frames are cached

    def forward(
        self, x: Tensor, start: Tensor, mask: Tensor | None, att_cache: Tensor, cnn_cache: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(1, T, F), whose first encoder frame is number `start` of the utterance, to (1, T', D).

        Caches are WeNet's: (layers, H, t, 2 d) and (layers, 1, D, kernel - 1). `mask` (1, 1, t + T'
        or more) hides keys; None: all are seen. Also returns all t + T' keys and values, and the
        convolution's cache.
        """
        encoder = self.encoder
        x, _ = encoder.embed(encoder.global_cmvn(x), start)
        num_keys = att_cache.size(2) + x.size(1)
        pos_enc: Any = encoder.embed.pos_enc  # ComputedPositions
        positions = pos_enc.lookup(start - att_cache.size(2), num_keys)
        bias = torch.zeros(1, 1, 1, 1)
        if mask is not None:  # longer than the keys where the last chunk is a short one
            bias = (1.0 - mask[:, None, :, :num_keys].to(x.dtype)) * MASKED
        att_caches, cnn_caches = [], []
        for i, layer in enumerate(encoder.encoders):
            x, att, cnn = layer.forward_chunk(
                x, positions, bias, att_cache[i : i + 1], cnn_cache[i]
            )
            att_caches.append(att)
            cnn_caches.append(cnn[None])
        new_cnn = torch.cat(cnn_caches) if self.convolves else cnn_cache + 0.0
        return encoder.after_norm(x), torch.cat(att_caches), new_cnn
