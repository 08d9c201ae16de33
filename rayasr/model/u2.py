"""The U2 / U2++ model: losses for training, and all calls that decoding and WeNet's runtime make.

Parameter names and numbers are WeNet's, so that checkpoints go both ways. Everything here scripts
with torch.jit: no config object is used after construction.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn

from rayasr.model.alignment import Spans, alignment_spans
from rayasr.model.decoder import BiDecoder, Decoder
from rayasr.model.encoder import Encoder
from rayasr.model.losses import (
    IGNORE_ID,
    Losses,
    add_sos_eos,
    at_least_float32,
    attention_loss,
    ctc_loss,
    reverse_units,
)
from rayasr.model.masks import draw_chunk, padding_mask, score_bias
from rayasr.model.subsampling import GlobalCmvn
from rayasr.model_config import ModelConfig


class Ctc(nn.Module):
    """The CTC output layer, under WeNet's name `ctc.ctc_lo`."""

    def __init__(self, size: int, vocab_size: int) -> None:
        super().__init__()
        self.ctc_lo = nn.Linear(size, vocab_size)

    def forward(self, encoder_out: Tensor) -> Tensor:
        """Logits (B, T', V)."""
        logits: Tensor = self.ctc_lo(encoder_out)
        return logits


class U2Model(nn.Module):
    """Encoder, CTC layer and one decoder (U2) or two (U2++).

    Shapes: features (B, T, F) raw log-mel fbank, encoder frames (B, T', D), units (B, L).
    """

    bidirectional: Final[bool]  # lets torch.jit compile only the branch that applies

    def __init__(
        self,
        config: ModelConfig,
        num_mel_bins: int,
        vocab_size: int,
        sos_eos_id: int,
        cmvn: GlobalCmvn,
    ) -> None:
        super().__init__()
        size = config.encoder.output_size
        self.encoder = Encoder(config.encoder, num_mel_bins, cmvn)
        self.bidirectional = config.decoder.r_num_blocks > 0
        if self.bidirectional:
            self.decoder: Any = BiDecoder(config.decoder, vocab_size, size)
        else:
            self.decoder = Decoder(config.decoder, vocab_size, size, config.decoder.num_blocks)
        self.ctc = Ctc(size, vocab_size)
        self.vocab_size = vocab_size
        self.sos_eos_id = sos_eos_id
        self.ignore_id = IGNORE_ID
        self.reverse_weight = config.reverse_weight if self.bidirectional else 0.0
        self.label_smoothing = config.label_smoothing
        self.alignment_weight = config.alignment_weight
        self.dynamic_chunk = config.encoder.dynamic_chunk
        self.dynamic_left_chunks = config.encoder.dynamic_left_chunks
        self.statistics_kept = False

    def keep_statistics(self) -> bool:
        """Leave running statistics of batch norms as they are from now on; False without any."""
        self.statistics_kept = any(isinstance(m, nn.BatchNorm1d) for m in self.modules())
        self.train(self.training)
        return self.statistics_kept

    def train(self, mode: bool = True) -> "U2Model":
        """Training mode or not; batch norms stay out of it once `keep_statistics` was called."""
        super().train(mode)
        if self.statistics_kept:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d):
                    module.eval()
        return self

    def forward(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        tokens: Tensor,
        token_lengths: Tensor,
        chunk_size: int = 0,
        left_chunks: int = -1,
    ) -> Losses:
        """Summed losses of a batch; tokens (B, L) are padded with -1.

        `chunk_size` > 0: chunks of so many encoder frames; < 0: full context; 0: drawn at random
        while a dynamic-chunk model trains, else full context.
        """
        if chunk_size == 0 and self.training and self.dynamic_chunk:
            num_frames = self.encoder.embed.output_length(features.size(1))
            chunk_size, left_chunks = draw_chunk(num_frames, self.dynamic_left_chunks)
        encoder_out, lengths = self.encoder(features, feature_lengths, chunk_size, left_chunks)
        return self.losses(encoder_out, lengths, tokens, token_lengths)

    def losses(
        self, encoder_out: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> Losses:
        """Summed losses from encoder frames, so that a validation can search the same frames."""
        ctc = ctc_loss(at_least_float32(self.ctc(encoder_out)), lengths, tokens, token_lengths)
        memory_bias = self.memory_bias(padding_mask(lengths, encoder_out.size(1)), encoder_out)
        inputs, targets = add_sos_eos(tokens, token_lengths, self.sos_eos_id)
        left_spans, right_spans = self.spans(encoder_out, lengths, tokens, token_lengths)
        logits, outside = self.left_logits(inputs, encoder_out, memory_bias, left_spans)
        logits = at_least_float32(logits)
        left = attention_loss(logits, targets, self.label_smoothing)
        right = torch.zeros_like(left)
        if self.reverse_weight > 0.0:
            reversed_tokens = reverse_units(tokens, token_lengths, self.ignore_id)
            inputs, targets = add_sos_eos(reversed_tokens, token_lengths, self.sos_eos_id)
            logits, right_outside = self.right_logits(inputs, encoder_out, memory_bias, right_spans)
            logits = at_least_float32(logits)
            outside = outside + right_outside
            right = attention_loss(logits, targets, self.label_smoothing)
        attention = (1.0 - self.reverse_weight) * left + self.reverse_weight * right
        return Losses(ctc, attention, outside)

    def spans(
        self, encoder_out: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> tuple[Spans | None, Spans | None]:
        """Where the decoders should look, while a model with an alignment_weight trains."""
        left: Spans | None = None
        right: Spans | None = None
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return left, right
        if self.training and self.alignment_weight > 0.0:
            log_probs = self.ctc_log_probs(encoder_out.detach())
            left, right = alignment_spans(log_probs, lengths, tokens, token_lengths)
        return left, right

    @torch.jit.export
    def encode(
        self,
        features: Tensor,
        feature_lengths: Tensor,
        chunk_size: int = -1,
        left_chunks: int = -1,
    ) -> tuple[Tensor, Tensor]:
        """Encoder frames (B, T', D) and their lengths (B,); `chunk_size` <= 0: full context."""
        encoder_out, lengths = self.encoder(features, feature_lengths, chunk_size, left_chunks)
        return encoder_out, lengths

    @torch.jit.export
    def ctc_log_probs(self, encoder_out: Tensor) -> Tensor:
        """Log-probabilities of the units at each frame: (B, T', V)."""
        log_probs: Tensor = at_least_float32(self.ctc(encoder_out)).log_softmax(-1)
        return log_probs

    @torch.jit.export
    def decoder_log_probs(
        self,
        hyps: Tensor,
        hyps_lengths: Tensor,
        encoder_out: Tensor,
        encoder_mask: Tensor,
        reverse_weight: float,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities (N, L, V) of what follows each unit, left to right and right to left.

        `hyps` (N, L) start with <sos>, padded with <eos>; `hyps_lengths` (N,) count <sos>. Encoder
        frames (B, T', D) with mask bool (B, 1, T'): N / B hypotheses of each utterance in turn. The
        reversed hypotheses are made here; without a right decoder, or with reverse_weight 0, the
        second result is zeros (N, 1, 1).
        """
        bias = self.memory_bias(encoder_mask[:, 0], encoder_out)
        logits, _ = self.left_logits(hyps, encoder_out, bias, None)
        left = at_least_float32(logits).log_softmax(2)
        right = torch.zeros(hyps.size(0), 1, 1, device=hyps.device)
        if self.bidirectional and reverse_weight > 0.0:
            reversed_units = reverse_units(hyps[:, 1:], hyps_lengths - 1, self.sos_eos_id)
            hyps = torch.cat([hyps[:, :1], reversed_units], dim=1)
            logits, _ = self.right_logits(hyps, encoder_out, bias, None)
            right = at_least_float32(logits).log_softmax(2)
        return left, right

    @torch.jit.export
    def decoder_step(
        self,
        tokens: Tensor,
        encoder_out: Tensor,
        encoder_mask: Tensor,
        cache: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities (N, V) of the unit after tokens (N, L), and the cache to go on from.

        Encoder frames as in `decoder_log_probs`. Without a cache all tokens are computed, with one
        only the last. In the cache every first tensor of two has a row for each of the N, so that
        a beam is reordered by index_select, every second one a row for each utterance.
        """
        given: list[Tensor] = []
        if cache is not None:
            given = cache
        bias = self.memory_bias(encoder_mask[:, 0], encoder_out)
        if self.bidirectional:
            logits, new_cache = self.decoder.left_decoder.forward_step(
                tokens, encoder_out, bias, given
            )
        else:
            logits, new_cache = self.decoder.forward_step(tokens, encoder_out, bias, given)
        return at_least_float32(logits).log_softmax(1), new_cache

    def left_logits(
        self, units: Tensor, encoder_out: Tensor, bias: Tensor, spans: Spans | None
    ) -> tuple[Tensor, Tensor]:
        if self.bidirectional:
            logits, outside = self.decoder.left_decoder(units, encoder_out, bias, spans)
        else:
            logits, outside = self.decoder(units, encoder_out, bias, spans)
        return logits, outside

    def right_logits(
        self, units: Tensor, encoder_out: Tensor, bias: Tensor, spans: Spans | None
    ) -> tuple[Tensor, Tensor]:
        if self.bidirectional:
            logits, outside = self.decoder.right_decoder(units, encoder_out, bias, spans)
        else:
            raise RuntimeError("this model has no right-to-left decoder")
        return logits, outside

    def memory_bias(self, visible: Tensor, encoder_out: Tensor) -> Tensor:
        """Hides padded encoder frames from the decoder: bool (B, T') to (B, 1, 1, T')."""
        return score_bias(visible[:, None, None], encoder_out.dtype)

    # The rest is WeNet's C++ runtime interface.

    @torch.jit.export
    def forward_encoder_chunk(
        self,
        xs: Tensor,
        offset: int,
        required_cache_size: int,
        att_cache: Tensor = torch.zeros(0, 0, 0, 0),  # noqa: B008
        cnn_cache: Tensor = torch.zeros(0, 0, 0, 0),  # noqa: B008
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One chunk of fbank frames (1, T, F); see Encoder.forward_chunk."""
        return self.encoder.forward_chunk(xs, offset, required_cache_size, att_cache, cnn_cache)

    @torch.jit.export
    def ctc_activation(self, xs: Tensor) -> Tensor:
        """`ctc_log_probs` under the runtime's name."""
        return self.ctc_log_probs(xs)

    @torch.jit.export
    def forward_attention_decoder(
        self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor, reverse_weight: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """`decoder_log_probs` of N hypotheses over the frames (1, T', D) of one utterance."""
        mask = torch.ones(1, 1, encoder_out.size(1), dtype=torch.bool, device=encoder_out.device)
        return self.decoder_log_probs(hyps, hyps_lens, encoder_out, mask, reverse_weight)

    @torch.jit.export
    def subsampling_rate(self) -> int:
        return self.encoder.embed.rate

    @torch.jit.export
    def right_context(self) -> int:
        return self.encoder.embed.right_context()

    @torch.jit.export
    def sos_symbol(self) -> int:
        return self.sos_eos_id

    @torch.jit.export
    def eos_symbol(self) -> int:
        return self.sos_eos_id

    @torch.jit.export
    def is_bidirectional_decoder(self) -> bool:
        return self.bidirectional


def build_model(
    config: ModelConfig,
    *,
    num_mel_bins: int,
    vocab_size: int,
    sos_eos_id: int,
    cmvn: tuple[Tensor, Tensor] | None = None,
) -> U2Model:
    """A freshly initialised model; weights come from torch's global generator, as in WeNet.

    `cmvn` is (mean, istd), each float32 (num_mel_bins,); None leaves features as they are.
    """
    mean, istd = cmvn or (torch.zeros(num_mel_bins), torch.ones(num_mel_bins))
    model = U2Model(config, num_mel_bins, vocab_size, sos_eos_id, GlobalCmvn(mean, istd))
    if config.init == "unit_variance":
        scale_inputs(model, config.encoder.output_size**-0.5)
    return model


@torch.no_grad()
def scale_inputs(model: U2Model, factor: float) -> None:
    """Multiply what is scaled by sqrt(D) and then added to positions: subsampled frames, units."""
    embed = model.encoder.embed
    subsampled: Any = embed.out[0] if embed.named_out else embed.linear
    embeddings = [m for m in model.decoder.modules() if isinstance(m, nn.Embedding)]
    for scaled in (subsampled.weight, subsampled.bias, *(m.weight for m in embeddings)):
        scaled.mul_(factor)
