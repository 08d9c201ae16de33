"""From networks to ONNX files: example inputs, names, metadata and the opset of each runtime."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayasr.checkpoint import LoadedModel
from rayasr.errors import ConfigError
from rayasr.export.onnx_models import (
    ChunkEncoder,
    CtcHead,
    FullCtc,
    GrowingEncoder,
    RescoringDecoder,
    StreamingCtc,
)
from rayasr.model.u2 import U2Model
from rayasr.model_config import fewest_frames

ENCODER_FILE, CTC_FILE, DECODER_FILE = "encoder.onnx", "ctc.onnx", "decoder.onnx"
SHERPA_OPSET = 17
"""The first with a layer norm of its own (4 % faster); every sherpa-onnx of today reads it."""
WENET_OPSET = 14
"""WeNet's runtime is built with ONNX Runtime 1.9, which reads opset 15 at most."""
NEEDS_EXTRA = "run pip install 'rayasr[onnx]'"


@dataclass(frozen=True, slots=True)
class Graph:
    """One file to be: a network and how it is called."""

    network: nn.Module
    inputs: dict[str, Tensor]
    """Examples, in the order of `forward`'s arguments."""
    outputs: tuple[str, ...]
    free: dict[str, tuple[int, ...]]
    """Dimensions of inputs and outputs that vary from call to call."""
    opset: int
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What shapes and metadata are made of."""

    layers: int
    heads: int
    size: int
    kernel: int
    """Of the causal convolution; 1 where nothing of it is cached."""
    mel: int
    vocab: int
    rate: int
    right_context: int

    @classmethod
    def of(cls, loaded: LoadedModel) -> "Sizes":
        """The sizes of a model."""
        encoder = loaded.recipe.model.encoder
        convolves = encoder.kind == "conformer" and encoder.causal_convolution
        return cls(
            encoder.num_blocks,
            encoder.attention_heads,
            encoder.output_size,
            encoder.convolution_kernel if convolves else 1,
            loaded.recipe.features.num_mel_bins,
            loaded.tokenizer.vocab_size,
            encoder.subsampling,
            loaded.model.right_context(),
        )

    def caches(self, history: int) -> tuple[Tensor, Tensor]:
        """Zeros in the shapes of both caches, for so many cached encoder frames."""
        att = torch.zeros(self.layers, self.heads, history, self.size // self.heads * 2)
        return att, torch.zeros(self.layers, 1, self.size, self.kernel - 1)

    def window(self, chunk_size: int) -> int:
        """fbank frames from which a chunk of so many encoder frames is made."""
        return (chunk_size - 1) * self.rate + self.right_context + 1


def full_graph(model: U2Model, sizes: Sizes) -> Graph:
    """sherpa-onnx's model for whole utterances."""
    fewest = fewest_frames(1, sizes.rate)
    return Graph(
        FullCtc(model, fewest),
        {"x": torch.randn(2, 331, sizes.mel), "x_lens": torch.tensor([331, 250])},
        ("log_probs", "log_probs_lens"),
        {"x": (0, 1), "x_lens": (0,), "log_probs": (0, 1), "log_probs_lens": (0,)},
        SHERPA_OPSET,
        _sherpa_metadata("non-streaming", sizes),
    )


def streaming_graph(model: U2Model, sizes: Sizes, chunk_size: int, left_chunks: int) -> Graph:
    """sherpa-onnx's streaming model; the graph itself takes any chunk size and history."""
    history = chunk_size * left_chunks
    att_cache, cnn_cache = sizes.caches(history)
    return Graph(
        StreamingCtc(model, sizes.kernel > 1),
        {
            "x": torch.randn(1, sizes.window(chunk_size), sizes.mel),
            "offset": torch.tensor([history]),
            "required_cache_size": torch.tensor([history]),
            "attn_cache": att_cache,
            "conv_cache": cnn_cache,
            "attn_mask": torch.ones(1, 1, history + chunk_size, dtype=torch.bool),
        },
        ("log_probs", "next_att_cache", "next_conv_cache"),
        {
            "x": (1,),
            "attn_cache": (2,),
            "attn_mask": (2,),
            "log_probs": (1,),
            "next_att_cache": (2,),
        },
        SHERPA_OPSET,
        {
            **_sherpa_metadata("streaming", sizes),
            "chunk_size": chunk_size,
            "left_chunks": left_chunks,
            "head": sizes.heads,
            "num_blocks": sizes.layers,
            "output_size": sizes.size,
            "cnn_module_kernel": sizes.kernel,
            "right_context": sizes.right_context,
        },
    )


def trio_graphs(
    model: U2Model, sizes: Sizes, chunk_size: int, left_chunks: int, metadata: dict[str, Any]
) -> dict[str, Graph]:
    """WeNet's encoder, CTC layer and decoder, by file; `chunk_size` -1: full context only."""
    hyps = torch.full((3, 20), model.sos_symbol())
    lengths = torch.tensor([20, 17, 12])
    return {
        ENCODER_FILE: _encoder_graph(model, sizes, chunk_size, left_chunks, metadata),
        CTC_FILE: Graph(
            CtcHead(model),
            {"hidden": torch.randn(1, 16, sizes.size)},
            ("probs",),
            {"hidden": (1,), "probs": (1,)},
            WENET_OPSET,
            metadata,
        ),
        DECODER_FILE: Graph(
            RescoringDecoder(model),
            {"hyps": hyps, "hyps_lens": lengths, "encoder_out": torch.randn(1, 200, sizes.size)},
            ("score", "r_score"),
            {
                "hyps": (0, 1),
                "hyps_lens": (0,),
                "encoder_out": (1,),
                "score": (0, 1),
                "r_score": (0, 1),
            },
            WENET_OPSET,
            metadata,
        ),
    }


def trio_metadata(
    loaded: LoadedModel, sizes: Sizes, chunk_size: int, left_chunks: int
) -> dict[str, Any]:
    """What WeNet's export writes into each of the three files."""
    encoder, decoder = loaded.recipe.model.encoder, loaded.recipe.model.decoder
    return {
        "batch": 1,
        "chunk_size": chunk_size,
        "left_chunks": left_chunks,
        "beam": loaded.decoding["beam_size"],
        "reverse_weight": loaded.decoding["reverse_weight"],
        "output_size": sizes.size,
        "num_blocks": sizes.layers,
        "cnn_module_kernel": sizes.kernel,
        "head": sizes.heads,
        "feature_size": sizes.mel,
        "vocab_size": sizes.vocab,
        "decoding_window": sizes.window(chunk_size if chunk_size > 0 else 16),
        "encoder": encoder.kind,
        "decoder": "bitransformer" if decoder.r_num_blocks else "transformer",
        "subsampling_rate": sizes.rate,
        "right_context": sizes.right_context,
        "sos_symbol": loaded.model.sos_symbol(),
        "eos_symbol": loaded.model.eos_symbol(),
        "is_bidirectional_decoder": int(loaded.model.is_bidirectional_decoder()),
    }


def trace(graph: Graph) -> bytes:
    """A graph's ONNX file; raises ConfigError where packages are missing.

    By torch's older exporter: the one behind `dynamo=True` writes opset 18 at least, which WeNet's
    runtime cannot read (docs/decisions/0007).
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(f"ONNX export needs {error.name}; {NEEDS_EXTRA}") from error
    buffer = io.BytesIO()
    export: Any = torch.onnx.export
    with _quiet(), torch.no_grad():
        export(
            graph.network,
            tuple(graph.inputs.values()),
            buffer,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes={
                name: {dimension: f"{name}_{dimension}" for dimension in dimensions}
                for name, dimensions in graph.free.items()
            },
            opset_version=graph.opset,
            dynamo=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {key: str(value) for key, value in graph.metadata.items()})
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _encoder_graph(
    model: U2Model, sizes: Sizes, chunk_size: int, left_chunks: int, metadata: dict[str, Any]
) -> Graph:
    """WeNet's encoder: with a mask where the history has a fixed length, else without."""
    history = max(0, chunk_size * left_chunks)
    att_cache, cnn_cache = sizes.caches(history)
    window = metadata["decoding_window"]
    inputs = {
        "chunk": torch.randn(1, window, sizes.mel),
        "offset": torch.tensor(history),
        "required_cache_size": torch.tensor(history),
        "att_cache": att_cache,
        "cnn_cache": cnn_cache,
        "att_mask": torch.ones(1, 1, history + max(0, chunk_size), dtype=torch.bool),
    }
    free: dict[str, tuple[int, ...]] = {
        "chunk": (1,),
        "att_cache": (2,),
        "output": (1,),
        "r_att_cache": (2,),
    }
    network: nn.Module
    if left_chunks > 0:
        network = ChunkEncoder(model, sizes.kernel > 1)
        free["att_mask"] = (2,)
    else:
        network = GrowingEncoder(model, sizes.kernel > 1, keep=left_chunks < 0)
        del inputs["required_cache_size"], inputs["att_mask"]
    outputs = ("output", "r_att_cache", "r_cnn_cache")
    return Graph(network, inputs, outputs, free, WENET_OPSET, metadata)


def _sherpa_metadata(comment: str, sizes: Sizes) -> dict[str, Any]:
    return {
        "model_type": "wenet_ctc",
        "version": 1,
        "model_author": "rayasr",
        "comment": comment,
        "subsampling_factor": sizes.rate,
        "vocab_size": sizes.vocab,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """torch 2.13 announces the end of this exporter, and of constants that it leaves unfolded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", "Constant folding", UserWarning)
        # Python conditions on sizes: whether there is a cache, which never changes in a graph.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        yield
