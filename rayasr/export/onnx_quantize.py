"""int8 weights for ONNX files: ONNX Runtime's dynamic quantisation, by the model's own layers.

Weights get a scale for each output channel, and 7 of the 8 bits: x86 machines before VNNI add pairs
of products in 16 bits, where full weights overflow and cost ten times the error (measured:
docs/decisions/0007). Convolutions stay float32, since ONNX Runtime's int8 ones are slower.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rayasr import storage
from rayasr.errors import ConfigError

FLOAT_LAYERS = ("encoder.embed", "ctc")
"""The first layer and the last stay as they are: a third to a half of the error, little weight."""
_SUFFIX = "_quant"  # what the quantiser adds to the name of a multiplication


def quantize(
    source: Path, target: Path, weights: Mapping[str, Tensor], skip: Sequence[str]
) -> None:
    """Write `source` with int8 weights in its linear layers, but for those that `skip` begins.

    `weights` are the checkpoint's, by name, to know the layers by. Raises ConfigError where `skip`
    names no layer, DataError where the file cannot be written.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    layers = name_layers(model, weights)
    for prefix in skip:
        if not any(_is_in(layer, prefix) for layer in layers):
            raise ConfigError(
                f"--int8-skip {prefix}: no linear layer's name begins so; they are "
                f"{', '.join(layers[:3])} … {layers[-1]}"
            )
    kept = [
        layer for layer in layers if any(_is_in(layer, part) for part in (*FLOAT_LAYERS, *skip))
    ]
    try:
        with _quiet():
            quantize_dynamic(
                model,
                str(target),
                op_types_to_quantize=["MatMul"],
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=kept,
            )
    except OSError as error:
        raise storage.output_error(target, error) from error


def quantized_layers(path: Path) -> list[str]:
    """The layers of a file that `quantize` wrote whose weights are int8, in the graph's order."""
    import onnx

    nodes = onnx.load(str(path)).graph.node
    return [n.name.removesuffix(_SUFFIX) for n in nodes if n.op_type == "MatMulInteger"]


def name_layers(model: Any, weights: Mapping[str, Tensor]) -> list[str]:
    """Name each multiplication by a weight after its layer, and return the names.

    The exporter keeps neither the names nor the shapes of weights: they are known by their values.
    """
    from onnx import numpy_helper

    known = {
        _values(weight.detach().flatten(1).numpy()): name.removesuffix(".weight")
        for name, weight in weights.items()
        if weight.dim() >= 2
    }
    constants = {item.name: item for item in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in constants:
            layer = known.get(_values(numpy_helper.to_array(constants[node.input[1]]).T))
            if layer is not None:
                node.name = layer
                layers.append(layer)
    return layers


def _is_in(layer: str, prefix: str) -> bool:
    """Whether a layer is `prefix` or inside the module of that name."""
    return f"{layer}.".startswith(f"{prefix.rstrip('.')}.")


def _values(weight: Any) -> bytes:
    return bytes(np.ascontiguousarray(weight).tobytes())


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises a preprocessing that changes nothing here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
