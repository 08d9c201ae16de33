"""Int8 made anew, in the runtime of a format: what an int8 file should be, and could be instead."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayasr.certify.runtime import OpenRuntime
from rayasr.certify.torchscript_runtime import TorchScriptRuntime
from rayasr.checkpoint import LoadedModel
from rayasr.errors import CheckpointError
from rayasr.export.info import ExportedModel, ExportInfo
from rayasr.export.torchscript import quantized


@dataclass(frozen=True)
class Int8Maker:
    """Makes int8 models of one checkpoint as its export in `folder` has them."""

    folder: Path
    info: ExportInfo
    loaded: LoadedModel

    def open(self, model: ExportedModel, skip: Sequence[str]) -> OpenRuntime:
        """An int8 model with the modules of `skip` in float32, in its runtime and context."""
        if model.kind == "torchscript":
            module = quantized(self.loaded.model, skip)
            return TorchScriptRuntime(self.folder, self.info, model, module)
        raise CheckpointError(f"{model.name}: nothing makes int8 of the kind '{model.kind}'")
