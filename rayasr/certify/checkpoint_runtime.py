"""A model folder as a runtime: the checkpoint that an export is held against, and WeNet's files."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from rayasr.checkpoint import LoadedModel, load_model
from rayasr.config import Mode
from rayasr.data.fbank import Fbank
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.export.info import ExportedModel, ExportInfo


class CheckpointRuntime:
    """Our own decoding of float32 features: by masks, with the attention decoders where asked."""

    name = "rayasr"
    version = version("rayasr")
    front_end = "rayasr"

    def __init__(self, loaded: LoadedModel, mode: Mode, chunk_size: int, left_chunks: int) -> None:
        self.mode = mode
        self._fbank = Fbank(loaded.recipe.features)
        self._recognizer = Recognizer(
            loaded, Decoding.of(loaded, chunk_size=chunk_size, left_chunks=left_chunks)
        )

    def transcribe(self, samples: Tensor) -> str:
        """See Runtime."""
        found = self._recognizer.decode_batch([self._fbank(samples)], [self.mode])
        return self._recognizer.text(found.hypotheses[self.mode][0])

    @torch.no_grad()
    def log_probs(self, samples: Tensor, units: Sequence[int]) -> list[Tensor]:
        """See OpenRuntime."""
        model, features = self._recognizer.model, self._fbank(samples)
        settings = self._recognizer.decoding
        encoder_out, _ = model.encode(
            features[None],
            torch.tensor([len(features)]),
            settings.chunk_size,
            settings.left_chunks,
        )
        left, right = model.forward_attention_decoder(
            torch.tensor([[model.sos_eos_id, *units]]),
            torch.tensor([len(units) + 1]),
            encoder_out,
            0.5 if model.bidirectional else 0.0,
        )
        decoders = [left[0], right[0]] if model.bidirectional else [left[0]]
        return [model.ctc_log_probs(encoder_out)[0], *decoders]


def open_imported(folder: Path, info: ExportInfo, model: ExportedModel) -> CheckpointRuntime:
    """WeNet's files as `rayasr import wenet` takes them in again, with the export's settings.

    Raises CheckpointError, DataError for files that cannot be taken in.
    """
    from rayasr.wenet.importing import import_wenet

    with tempfile.TemporaryDirectory() as out:
        import_wenet(folder, Path(out) / "model", notes=lambda _: None)
        loaded = load_model(Path(out) / "model")
    decoding = loaded.decoding | info.decoding
    context = model.chunk_size, model.left_chunks
    return CheckpointRuntime(replace(loaded, decoding=decoding), info.mode, *context)
