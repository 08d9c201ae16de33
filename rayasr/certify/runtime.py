"""What an exported model is tried in: runtimes that clients have, which share none of our search.

A runtime is opened for one model of an export, with the chunk size and the history that the model
fixes; a model that leaves both open is opened once for each context that it is tried in.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from rayasr.config import Mode
from rayasr.errors import CheckpointError
from rayasr.export.front_end import mismatch
from rayasr.export.info import ExportedModel, ExportInfo

SHERPA_KINDS = ("wenet_ctc", "wenet_ctc_streaming")
"""Of the models that sherpa-onnx runs; ONNX Runtime runs all ONNX files."""


class Runtime(Protocol):
    """One model in one runtime, ready to transcribe; it computes on one thread."""

    @property
    def name(self) -> str:
        """Such as `torch.jit`, `ONNX Runtime`, `sherpa-onnx`."""

    @property
    def version(self) -> str:
        """Of the runtime."""

    @property
    def front_end(self) -> str:
        """Who computes the features: `rayasr` or `sherpa-onnx`."""

    @property
    def mode(self) -> Mode:
        """How it searches."""

    def transcribe(self, samples: Tensor) -> str:
        """The text of float32 samples (N,) in [-1, 1] at the model's rate, '' for too few.

        Units become text by the export's own units.txt or tokens.txt.
        """


@runtime_checkable
class OpenRuntime(Runtime, Protocol):
    """A runtime that also shows what it searches in, so that more than texts can be compared."""

    def log_probs(self, samples: Tensor, units: Sequence[int]) -> list[Tensor]:
        """Log-probabilities of CTC (T', V), computed as `transcribe` does, chunk by chunk.

        Where the model has decoders, also theirs of every step of `units` and of `<sos/eos>` behind
        them: left to right (L + 1, V), and right to left over the reversed units (L + 1, V).
        """


def open_runtimes(
    folder: Path, info: ExportInfo, model: ExportedModel, *, force: bool = False
) -> list[Runtime]:
    """The runtimes that run a model of an export, but for refused ones, unless by `force`.

    Raises CheckpointError for what cannot be opened, ConfigError for a runtime that is missing.
    """
    if model.kind == "torchscript":
        from rayasr.certify.torchscript_runtime import TorchScriptRuntime

        return [TorchScriptRuntime(folder, info, model)]
    if model.kind == "wenet_checkpoint":
        from rayasr.certify.checkpoint_runtime import open_imported

        return [open_imported(folder, info, model)]
    if model.kind in SHERPA_KINDS or model.kind == "wenet_trio":
        from rayasr.export.onnx_runtimes import OnnxRuntime, SherpaRuntime

        opened: list[Runtime] = [OnnxRuntime(folder, info, model)]
        if model.kind in SHERPA_KINDS and (force or not refused_runtimes(info)):
            opened.append(SherpaRuntime(folder, info, model))
        return opened
    raise CheckpointError(
        f"{folder / model.files[0]} is of the kind '{model.kind}', which this rayasr cannot try; "
        "certify it with the rayasr that exported it"
    )


def refused_runtimes(info: ExportInfo) -> tuple[str, ...]:
    """Runtimes that would run the export on features that its model was not trained on."""
    reason = mismatch(info.features, "sherpa")
    models = [model.name for model in info.models if model.kind in SHERPA_KINDS]
    return (f"{', '.join(models)}: {reason}",) if models and reason else ()
