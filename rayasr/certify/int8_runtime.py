"""Int8 made anew, in the runtime of a format: what an int8 file should be, and could be instead."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rayasr.certify.runtime import OpenRuntime
from rayasr.certify.torchscript_runtime import TorchScriptRuntime
from rayasr.checkpoint import LoadedModel
from rayasr.export.info import ExportedModel, ExportInfo
from rayasr.export.torchscript import quantized
from rayasr.tokenizer import BPE_FILE


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
        return self._open_onnx(model, skip)

    def _open_onnx(self, model: ExportedModel, skip: Sequence[str]) -> OpenRuntime:
        """One of the float32 file beside it, which has its own row in a certificate."""
        from rayasr.export.onnx_quantize import quantize
        from rayasr.export.onnx_runtimes import TOKENS_FILE, OnnxRuntime

        source = next(
            item
            for item in self.info.models
            if (item.kind, item.precision) == (model.kind, "float32")
        )
        with tempfile.TemporaryDirectory() as made:
            weights = dict(self.loaded.model.named_parameters())
            target = Path(made) / model.files[0]
            quantize(self.folder / source.files[0], target, weights, skip)
            for name in (TOKENS_FILE, BPE_FILE):
                if (self.folder / name).exists():
                    shutil.copy(self.folder / name, made)
            return OnnxRuntime(Path(made), self.info, model)
