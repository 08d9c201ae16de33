"""Exported ONNX files in ONNX Runtime, called as the runtimes they are made for would call them."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rayasr.errors import CheckpointError, ConfigError, first_line
from rayasr.export.info import ExportedModel
from rayasr.export.onnx_graphs import CTC_FILE, DECODER_FILE, ENCODER_FILE, NEEDS_EXTRA


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a network makes of an utterance."""

    log_probs: Tensor
    """(T', V)"""
    frames: Tensor | None = None
    """(1, T', D) for the decoders; None where there are none."""


class Network(Protocol):
    """The files of one exported model behind one call."""

    def encode(self, features: Tensor) -> Encoded:
        """From all fbank frames (T, F) of an utterance."""


def open_network(folder: Path, model: ExportedModel) -> Network:
    """An exported model's files; raises ConfigError, CheckpointError for one it cannot load."""
    if model.kind == "wenet_ctc":
        return WholeUtterances(folder / model.files[0])
    if model.kind == "wenet_ctc_streaming":
        return Chunks(folder / model.files[0], model.chunk_size, model.left_chunks)
    if model.kind == "wenet_trio":
        return Trio(folder)
    raise ConfigError(f"ONNX Runtime cannot run {model.name} ({model.kind})")


class WholeUtterances:
    """sherpa-onnx's model for full context."""

    def __init__(self, path: Path) -> None:
        self._session = open_session(path)

    def encode(self, features: Tensor) -> Encoded:
        """From all fbank frames (T, F) of an utterance."""
        log_probs, lengths = _run(
            self._session, {"x": features[None].numpy(), "x_lens": np.array([len(features)])}
        )
        return Encoded(torch.from_numpy(log_probs[0, : lengths[0]]))


class Chunks:
    """sherpa-onnx's streaming model."""

    def __init__(self, path: Path, chunk_size: int, left_chunks: int) -> None:
        self._session = open_session(path)
        self._calls = ChunkCalls(self._session, chunk_size, left_chunks)

    def encode(self, features: Tensor) -> Encoded:
        """From all fbank frames (T, F) of an utterance."""
        vocab_size = _fact(self._session, "vocab_size")
        return Encoded(_joined(self._calls.run(features), vocab_size)[0])


class Trio:
    """WeNet's encoder, CTC layer and decoder; chunk size and history are those in the files."""

    def __init__(self, folder: Path) -> None:
        self._encoder = open_session(folder / ENCODER_FILE)
        self._ctc = open_session(folder / CTC_FILE)
        self._decoder = open_session(folder / DECODER_FILE)
        self.sos_eos_id = _fact(self._encoder, "eos_symbol")
        self._bidirectional = bool(_fact(self._encoder, "is_bidirectional_decoder"))
        self._size = _fact(self._encoder, "output_size")
        chunks = _fact(self._encoder, "chunk_size"), _fact(self._encoder, "left_chunks")
        self._calls = ChunkCalls(self._encoder, *chunks)

    def encode(self, features: Tensor) -> Encoded:
        """From all fbank frames (T, F) of an utterance."""
        frames = _joined(self._calls.run(features), self._size)
        (log_probs,) = _run(self._ctc, {"hidden": frames.numpy()})
        return Encoded(torch.from_numpy(log_probs[0]), frames)

    def decoder_log_probs(self, units: Sequence[Sequence[int]], frames: Tensor) -> list[Tensor]:
        """Of N hypotheses over frames (1, T', D): (N, L + 1, V) by each decoder there is."""
        longest = max(len(row) for row in units)
        # As WeNet's runtime: <sos> in front, zeros behind.
        hyps = np.array([[self.sos_eos_id, *row, *[0] * (longest - len(row))] for row in units])
        lengths = np.array([len(row) + 1 for row in units])
        inputs = {"hyps": hyps, "hyps_lens": lengths, "encoder_out": frames.numpy()}
        left, right = map(torch.from_numpy, _run(self._decoder, inputs))
        return [left, right] if self._bidirectional else [left]


class ChunkCalls:
    """Calls a session window by window, with caches and masks as both runtimes make them."""

    def __init__(self, session: Any, chunk_size: int, left_chunks: int) -> None:
        self._session = session
        self._inputs = session.get_inputs()
        self._chunk_size, self._left_chunks = chunk_size, left_chunks
        self._rate = _fact(session, "subsampling_factor", "subsampling_rate")
        self._context = _fact(session, "right_context")
        layers, heads, size, kernel = (
            _fact(session, name)
            for name in ("num_blocks", "head", "output_size", "cnn_module_kernel")
        )
        self._history = max(0, chunk_size * left_chunks) if chunk_size > 0 else 0
        self._att_shape = layers, heads, self._history, size // heads * 2
        self._cnn_shape = layers, 1, size, kernel - 1

    def run(self, features: Tensor) -> Iterator[Any]:
        """The first output of each call, for fbank (T, F) of an utterance."""
        att, cnn = np.zeros(self._att_shape, np.float32), np.zeros(self._cnn_shape, np.float32)
        scalar = self._inputs[1].shape
        offset = self._history
        for window in self._windows(features):
            values = [window[None].numpy(), np.full(scalar, offset), att, cnn]
            if len(self._inputs) > len(values):  # a history of fixed length
                values.insert(2, np.full(scalar, self._history))
                values.append(self._mask(offset))
            names = (item.name for item in self._inputs)
            out, att, cnn = _run(self._session, dict(zip(names, values, strict=True)))
            offset += out.shape[1]
            yield out

    def _windows(self, features: Tensor) -> Iterator[Tensor]:
        """Each chunk's frames, those that it shares with the next one included."""
        step = self._chunk_size * self._rate if self._chunk_size > 0 else max(1, len(features))
        for start in range(0, len(features) - self._context, step):
            yield features[start : start + step + self._context + 1 - self._rate]

    def _mask(self, offset: int) -> Any:
        """Hides the part of the history that has not been yet: bool (1, 1, history + chunk)."""
        mask = np.ones((1, 1, self._history + self._chunk_size), bool)
        mask[..., : max(0, 2 * self._history - offset)] = False
        return mask


def open_session(path: Path) -> Any:
    """A file in ONNX Runtime, on torch's number of threads; raises ConfigError, CheckpointError."""
    runtime = import_extra("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no other class in common
        raise CheckpointError(
            f"{path} cannot be loaded ({first_line(error)}); export it again"
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """What a file says about itself; raises ConfigError, CheckpointError."""
    onnx = import_extra("onnx")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's, and those of the file system
        raise CheckpointError(
            f"{path} cannot be read ({first_line(error)}); export it again"
        ) from error
    return {item.key: item.value for item in model.metadata_props}


def import_extra(name: str) -> Any:
    """A package of the extra `onnx`; raises ConfigError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"{name} is not installed; {NEEDS_EXTRA}") from error


def _run(session: Any, inputs: dict[str, Any]) -> list[Any]:
    """One call; raises CheckpointError for inputs of other shapes than the file's."""
    try:
        outputs: list[Any] = session.run(None, inputs)
    except Exception as error:
        raise CheckpointError(
            f"an exported model does not fit its export.json ({first_line(error)}); export again"
        ) from error
    return outputs


def _fact(session: Any, *names: str) -> int:
    """A number of a file's metadata, under the first of these names; raises CheckpointError."""
    facts = session.get_modelmeta().custom_metadata_map
    try:
        return next(int(facts[name]) for name in names if name in facts)
    except (StopIteration, ValueError) as error:
        raise CheckpointError(
            f"an exported model does not say its {' or '.join(names)}; export it again"
        ) from error


def _joined(outputs: Iterator[Any], width: int) -> Tensor:
    """Outputs (1, T', width) of all calls as one."""
    parts = [torch.from_numpy(out) for out in outputs]
    return torch.cat([torch.zeros(1, 0, width), *parts], dim=1)
