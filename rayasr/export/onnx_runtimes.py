"""An ONNX export in the runtimes that people use it with: ONNX Runtime and sherpa-onnx.

`OnnxRuntime` gets rayasr's features and its files are called as their own runtimes would call them,
so what differs from the checkpoint is the network. `SherpaRuntime` gets audio and does everything
itself. Both spell by the units that lie in the export.
"""

import importlib.metadata
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayasr.config import Mode
from rayasr.data.fbank import Fbank, num_frames
from rayasr.errors import CheckpointError, ConfigError, first_line
from rayasr.export.info import ExportedModel, ExportInfo
from rayasr.export.onnx_networks import (
    Encoded,
    Trio,
    import_extra,
    open_network,
    read_metadata,
)
from rayasr.export.runtime_search import nearest_mode, search
from rayasr.tokenizer import Tokenizer

TOKENS_FILE = "tokens.txt"
"""units.txt under the name that sherpa-onnx uses."""
_NEEDED = {
    "wenet_ctc": ("vocab_size", "subsampling_factor"),
    "wenet_ctc_streaming": (
        "head",
        "num_blocks",
        "output_size",
        "cnn_module_kernel",
        "right_context",
        "subsampling_factor",
        "vocab_size",
    ),
}
"""Metadata without which sherpa-onnx ends the process."""


class OnnxRuntime:
    """ONNX Runtime on rayasr's features; CTC search is ours, rescoring WeNet's runtime's."""

    name = "ONNX Runtime"
    front_end = "rayasr"

    def __init__(self, folder: Path, info: ExportInfo, model: ExportedModel) -> None:
        """Raises ConfigError without the package, CheckpointError for a file it cannot load."""
        self.version: str = import_extra("onnxruntime").__version__
        self.network = open_network(folder, model)
        self._tokenizer = _tokenizer(folder, model)
        self._fbank = Fbank(info.features)
        self._settings = info.decoding
        self.mode = nearest_mode(info.mode, has_decoders=model.kind == "wenet_trio")

    def transcribe(self, samples: Tensor) -> str:
        """What float32 samples (N,) in [-1, 1] at the model's rate say."""
        encoded = self.network.encode(self._fbank(samples))
        _check_units(self._tokenizer, encoded.log_probs.size(1))
        return self._tokenizer.decode(self._search(encoded))

    def log_probs(self, samples: Tensor, units: Sequence[int]) -> list[Tensor]:
        """Of CTC (T', V), and by each decoder there is of every step of `units` (L + 1, V)."""
        encoded = self.network.encode(self._fbank(samples))
        if not isinstance(self.network, Trio) or encoded.frames is None:
            return [encoded.log_probs]
        rows = self.network.decoder_log_probs([units], encoded.frames)
        return [encoded.log_probs, *(row[0] for row in rows)]

    def _search(self, encoded: Encoded) -> tuple[int, ...]:
        """Units, in the model's default mode, or the best that a file without decoders can do."""
        network, frames = self.network, encoded.frames
        if not isinstance(network, Trio) or frames is None:
            return search(encoded.log_probs, self.mode, self._settings, 0, None)
        decoders = partial(network.decoder_log_probs, frames=frames)
        return search(encoded.log_probs, self.mode, self._settings, network.sos_eos_id, decoders)


class SherpaRuntime:
    """sherpa-onnx from audio: its own features, greedy search and spelling."""

    name = "sherpa-onnx"
    front_end = "sherpa-onnx"
    mode: Mode = "ctc_greedy_search"

    def __init__(self, folder: Path, info: ExportInfo, model: ExportedModel) -> None:
        """Raises ConfigError without the package, or for a model that is not sherpa-onnx's;
        CheckpointError for a file it cannot load."""
        sherpa: Any = import_extra("sherpa_onnx")
        self.version = importlib.metadata.version("sherpa-onnx")
        path = folder / model.files[0]
        facts = _sherpa_facts(path, model)
        self._features = info.features
        self._tokenizer = _tokenizer(folder, model)
        _check_units(self._tokenizer, facts["vocab_size"])
        settings: dict[str, Any] = {
            "model": str(path),
            "tokens": str(folder / TOKENS_FILE),
            "sample_rate": info.features.sample_rate,
            "feature_dim": info.features.num_mel_bins,
            "num_threads": torch.get_num_threads(),
        }
        tail = 0
        make = sherpa.OfflineRecognizer.from_wenet_ctc
        if model.kind == "wenet_ctc_streaming":
            make = sherpa.OnlineRecognizer.from_wenet_ctc
            settings |= {"chunk_size": model.chunk_size, "num_left_chunks": model.left_chunks}
            shift = info.features.window_samples[1]
            tail = model.chunk_size * facts["subsampling_factor"] * shift
        self._tail = np.zeros(tail, np.float32)
        try:
            self._recognizer: Any = make(**settings)
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"sherpa-onnx cannot load {path} ({first_line(error)}); export it again"
            ) from error

    def transcribe(self, samples: Tensor) -> str:
        """What float32 samples (N,) in [-1, 1] at the model's rate say.

        A stream gets a chunk of silence at its end: sherpa-onnx computes whole chunks only, and
        would leave out the last words.
        """
        if num_frames(len(samples), self._features) < 1:
            return ""
        try:
            return self._tokenizer.tidy(self._text(samples))
        except RuntimeError as error:
            raise CheckpointError(
                f"an exported model does not fit what it says ({first_line(error)}); export again"
            ) from error

    def _text(self, samples: Tensor) -> str:
        stream = self._recognizer.create_stream()
        stream.accept_waveform(self._features.sample_rate, samples.numpy())
        if not len(self._tail):
            self._recognizer.decode_stream(stream)
            return str(stream.result.text)
        stream.accept_waveform(self._features.sample_rate, self._tail)
        stream.input_finished()
        while self._recognizer.is_ready(stream):
            self._recognizer.decode_stream(stream)
        return str(self._recognizer.get_result(stream))


def _sherpa_facts(path: Path, model: ExportedModel) -> dict[str, int]:
    """The numbers that sherpa-onnx reads in a file; raises ConfigError, CheckpointError."""
    if model.kind not in _NEEDED:
        raise ConfigError(f"sherpa-onnx does not know models like {model.name} ({model.kind})")
    facts = read_metadata(path)
    needed = _NEEDED[model.kind]
    missing = [name for name in needed if not facts.get(name, "").isdecimal()]
    if missing:
        raise CheckpointError(
            f"{path} does not say its {', '.join(missing)}, which sherpa-onnx needs; export again"
        )
    return {name: int(facts[name]) for name in needed}


def _check_units(tokenizer: Tokenizer, outputs: int) -> None:
    if tokenizer.vocab_size != outputs:
        raise CheckpointError(
            f"a model has {outputs} outputs for {tokenizer.vocab_size} units; export it again"
        )


def _tokenizer(folder: Path, model: ExportedModel) -> Tokenizer:
    """The units that a model's own runtime reads: units.txt for WeNet's, else tokens.txt."""
    if model.kind == "wenet_trio":
        return Tokenizer.load(folder)
    return Tokenizer.load(folder, TOKENS_FILE)
