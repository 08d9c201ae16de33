"""Defects that exports have had, planted: a certificate has to catch each in every format."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from rayasr.checkpoint import load_model, save_model
from rayasr.data.cmvn import CmvnStats
from rayasr.export.info import read_info, write_info
from rayasr.export.onnx import export_onnx
from rayasr.export.torchscript import (
    FLOAT_FILE,
    INT8_FILE,
    export_torchscript,
    int8_kernels,
    quantized,
    script,
)
from rayasr.wenet.exporting import export_wenet

Exporter = Callable[[Path, Path], Any]
"""Writes the export of a model folder (first) into a folder (second)."""
EXPORTERS: dict[str, Exporter] = {
    "torchscript": export_torchscript,
    "onnx": export_onnx,
    "wenet": export_wenet,
}
FULL_EXPORTERS: dict[str, Exporter] = {
    "torchscript": lambda run, out: export_torchscript(run, out, int8=True, force=True),
    "onnx": lambda run, out: export_onnx(run, out, int8=True, force=True),
    "wenet": export_wenet,
}
"""With int8, and for runtimes whose features the model does not know too."""


def plant_wrong_cmvn(model: Path, export: Path, exporter: Exporter) -> bool:
    """Export with another corpus's mean, and say that it is the model's."""
    loaded = load_model(model)
    weights, stats = loaded.model.state_dict(), loaded.cmvn
    weights["encoder.global_cmvn.mean"] += 1.0
    sums, squares = stats.sums + stats.frames, stats.squares + 2 * stats.sums + stats.frames
    shifted = CmvnStats(sums, squares, stats.frames)
    other = export.with_name(f"{export.name}-other")
    save_model(other, weights, loaded.recipe, loaded.tokenizer, shifted, loaded.decoding)
    exporter(other, export)
    write_info(export, replace(read_info(export), source=str(model)))
    return True


def plant_swapped_units(_model: Path, export: Path, _exporter: Exporter) -> bool:
    """Exchange two units in units.txt and tokens.txt."""
    for name in ("units.txt", "tokens.txt"):
        path = export / name
        if path.exists():
            units = [line.rsplit(" ", 1)[0] for line in path.read_text().splitlines()]
            units[4], units[5] = units[5], units[4]
            path.write_text("".join(f"{unit} {i}\n" for i, unit in enumerate(units)))
    return True


def plant_wrong_left_chunks(model: Path, export: Path, _exporter: Exporter) -> bool:
    """Files that make a runtime keep less history than the export says, of models that stream."""
    info = read_info(export)
    if info.format == "onnx":  # where clients read it from the file
        for item in info.models:
            if item.left_chunks > 0:
                content = onnx.load(str(export / item.files[0]))
                for fact in content.metadata_props:
                    if fact.key == "left_chunks":
                        fact.value = "1"
                onnx.save(content, str(export / item.files[0]))
        return True
    if info.format == "torchscript":
        network = load_model(model).model
        (export / FLOAT_FILE).write_bytes(script(Forgetful(network)))
        if (export / INT8_FILE).exists():
            (export / INT8_FILE).write_bytes(script(Forgetful(quantized(network))))
        return True
    return False


def plant_broken_scale(model: Path, export: Path, _exporter: Exporter) -> bool:
    """Int8 in which one layer's scales are a tenth too large."""
    for item in read_info(export).models:
        if item.precision == "int8" and item.kind == "torchscript":
            _break_torchscript(model, export / item.files[0])
        elif item.precision == "int8":
            _break_onnx(export / item.files[0])
    return any(item.precision == "int8" for item in read_info(export).models)


def _break_onnx(path: Path) -> None:
    content = onnx.load(str(path))
    scale = next(item for item in content.graph.initializer if item.name.endswith("_scale"))
    broken = onnx.numpy_helper.to_array(scale) * np.float32(1.1)
    scale.CopyFrom(onnx.numpy_helper.from_array(broken, scale.name))
    onnx.save(content, str(path))


def _break_torchscript(model: Path, path: Path) -> None:
    with int8_kernels():
        network = quantized(load_model(model).model)
        layer = network.get_submodule("encoder.encoders.0.feed_forward.w_1")
        weight, bias = layer._packed_params._weight_bias()
        broken = torch._make_per_channel_quantized_tensor(
            weight.int_repr(),
            weight.q_per_channel_scales() * 1.1,
            weight.q_per_channel_zero_points(),
            weight.q_per_channel_axis(),
        )
        layer._packed_params.set_weight_bias(broken, bias)
        path.write_bytes(script(network))


DEFECTS: dict[str, Callable[[Path, Path, Exporter], bool]] = {
    "wrong CMVN": plant_wrong_cmvn,
    "swapped units": plant_swapped_units,
    "wrong left chunks": plant_wrong_left_chunks,
    "broken int8 scale": plant_broken_scale,
}
"""Each spoils an export of a model by an exporter, or says that it is of no such format."""


class Forgetful(torch.nn.Module):
    """A model that keeps one chunk of history whatever it is asked to keep."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.kept = 16

    @torch.jit.export
    def forward_encoder_chunk(
        self,
        xs: Tensor,
        offset: int,
        required_cache_size: int,
        att_cache: Tensor,
        cnn_cache: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept = self.kept if required_cache_size > self.kept else required_cache_size
        return self.model.forward_encoder_chunk(xs, offset, kept, att_cache, cnn_cache)

    @torch.jit.export
    def ctc_activation(self, xs: Tensor) -> Tensor:
        return self.model.ctc_activation(xs)

    @torch.jit.export
    def forward_attention_decoder(
        self, hyps: Tensor, hyps_lens: Tensor, encoder_out: Tensor, reverse_weight: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        return self.model.forward_attention_decoder(hyps, hyps_lens, encoder_out, reverse_weight)

    @torch.jit.export
    def subsampling_rate(self) -> int:
        return self.model.subsampling_rate()

    @torch.jit.export
    def right_context(self) -> int:
        return self.model.right_context()

    @torch.jit.export
    def sos_symbol(self) -> int:
        return self.model.sos_symbol()

    @torch.jit.export
    def eos_symbol(self) -> int:
        return self.model.eos_symbol()

    @torch.jit.export
    def is_bidirectional_decoder(self) -> bool:
        return self.model.is_bidirectional_decoder()
