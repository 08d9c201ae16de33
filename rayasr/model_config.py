"""Settings of the network and its loss, which are WeNet's; the recipe's section `model`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rayasr.settings import Section

CONVOLUTIONS = {
    4: ((3, 2), (3, 2)),
    6: ((3, 2), (5, 3)),
    8: ((3, 2), (3, 2), (3, 2)),
}
"""Kernel and stride of the subsampling's convolutions, the same along time and mel bins."""


def fewest_frames(encoder_frames: int, subsampling: int) -> int:
    """Fewest fbank frames (or mel bins) from which so many encoder frames are made."""
    if encoder_frames < 1:
        return 0
    frames = encoder_frames
    for kernel, stride in reversed(CONVOLUTIONS[subsampling]):
        frames = (frames - 1) * stride + kernel
    return frames


class EncoderConfig(Section):
    kind: Literal["conformer", "transformer"] = "conformer"
    """Encoder layers."""
    output_size: int = Field(256, ge=4)
    """Width of the encoder and the decoder."""
    attention_heads: int = Field(4, ge=1)
    """Heads of each attention."""
    linear_units: int = Field(2048, ge=1)
    """Width of the feed-forward layers."""
    num_blocks: int = Field(12, ge=1)
    """Encoder layers."""
    dropout_rate: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout after each part of a layer and inside the feed-forward."""
    positional_dropout_rate: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout after subsampling."""
    attention_dropout_rate: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of attention weights."""
    subsampling: Literal[4, 6, 8] = 4
    """How many frames become one encoder frame (conv2d, conv2d6, conv2d8)."""
    subsampling_channels: int | None = Field(None, ge=1)
    """Channels of the subsampling convolutions; unset: output_size, as in WeNet."""
    positions: Literal["relative", "absolute"] = "relative"
    """A conformer's positions: inside attention (WeNet's rel_pos and rel_selfattn) or added to its
    input (abs_pos and selfattn); a transformer's are always absolute."""
    convolution_kernel: int = Field(15, ge=1)
    """Kernel of the conformer's depthwise convolution."""
    causal_convolution: bool = True
    """Convolution sees no future frames; needed for streaming."""
    convolution_norm: Literal["layer_norm", "batch_norm"] = "layer_norm"
    """Norm inside the convolution module; `batch_norm` trains with one worker only."""
    mask_convolution: bool = True
    """Zero padded frames before a non-causal convolution, so that batch size changes nothing; false
    reproduces WeNet."""
    dynamic_chunk: bool = True
    """Train on random chunk sizes, so that one model serves streaming and full context."""
    dynamic_left_chunks: bool = False
    """Also draw the number of left chunks."""

    @property
    def can_stream(self) -> bool:
        """Whether it is trained on chunks, and no layer sees a frame after its chunk."""
        return self.dynamic_chunk and (self.kind == "transformer" or self.causal_convolution)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.output_size % self.attention_heads:
            raise ValueError("encoder.output_size must be a multiple of encoder.attention_heads")
        if not self.causal_convolution and self.convolution_kernel % 2 == 0:
            raise ValueError("a non-causal convolution needs an odd encoder.convolution_kernel")
        return self


class DecoderConfig(Section):
    attention_heads: int = Field(4, ge=1)
    """Heads of each attention."""
    linear_units: int = Field(2048, ge=1)
    """Width of the feed-forward layers."""
    num_blocks: int = Field(3, ge=1)
    """Layers of the left-to-right decoder."""
    r_num_blocks: int = Field(3, ge=0)
    """Layers of the right-to-left decoder (U2++); 0: none (U2)."""
    dropout_rate: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout after each part of a layer and inside the feed-forward."""
    positional_dropout_rate: float = Field(0.1, ge=0.0, lt=1.0)
    """Dropout after the embedding."""
    self_attention_dropout_rate: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of self-attention weights."""
    src_attention_dropout_rate: float = Field(0.0, ge=0.0, lt=1.0)
    """Dropout of the weights of the attention over encoder frames."""


class ModelConfig(Section):
    encoder: EncoderConfig = EncoderConfig()
    """The encoder."""
    decoder: DecoderConfig = DecoderConfig()
    """The attention decoder or decoders."""
    ctc_weight: float = Field(0.3, ge=0.0, le=1.0)
    """Share of CTC in the loss; the rest is attention."""
    reverse_weight: float = Field(0.3, ge=0.0, le=1.0)
    """Share of the right-to-left decoder in the attention loss."""
    label_smoothing: float = Field(0.1, ge=0.0, lt=1.0)
    """Label smoothing of the attention loss."""
    init: Literal["wenet", "unit_variance"] = "wenet"
    """How the layers before the positions start. WeNet multiplies their output by
    sqrt(output_size), so that positions are hardly heard at first; `unit_variance` divides their
    weights by it and learns in half the time from little speech."""
    alignment_weight: float = Field(0.0, ge=0.0)
    """Weight of a loss that keeps the decoders' attention on the frames where CTC hears each unit;
    for corpora of a few hours, from which decoders do not learn to align by themselves."""
    length_normalized_loss: bool = False
    """Divide the attention loss by units instead of utterances."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.encoder.output_size % self.decoder.attention_heads:
            raise ValueError("encoder.output_size must be a multiple of decoder.attention_heads")
        return self
