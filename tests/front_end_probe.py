"""A model that spells the features it is given, so that a runtime's front end can be read.

sherpa-onnx shows nothing of its features. This "model" turns each number into six units of base 16
with blanks between them, which sherpa-onnx then prints as text: exact to 2^-16.
"""

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

DIGITS = "abcdefghijklmnop"
OFFSET, SCALE, PLACES = 40.0, 65536.0, 6  # what is spelled: (x + OFFSET) x SCALE


def write_probes(folder: Path, mel: int) -> tuple[Path, Path, Path]:
    """A model for whole utterances, one for chunks of 16, and tokens.txt."""
    nodes, constants = _spelling()
    whole, streaming = folder / "whole.onnx", folder / "streaming.onnx"
    length = [
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "axis"], ["log_probs_lens"]),
    ]
    x, log_probs = _value("x", ["N", "T", mel]), _value("log_probs", ["N", "L", 17])
    _save(
        whole,
        [*nodes, *length],
        [*constants, _constant("axis", np.array([1]))],
        [x, _value("x_lens", ["N"], TensorProto.INT64)],
        [log_probs, _value("log_probs_lens", ["N"], TensorProto.INT64)],
        {},
    )
    keep = [
        helper.make_node("Identity", ["attn_cache"], ["next_att_cache"]),
        helper.make_node("Identity", ["conv_cache"], ["next_conv_cache"]),
    ]
    att, conv = [1, 1, "S", 4], [1, 1, 2, 1]
    sizes = {"head": 1, "num_blocks": 1, "output_size": 2, "cnn_module_kernel": 2}
    _save(
        streaming,
        [*nodes, *keep],
        constants,
        [
            x,
            _value("offset", [1], TensorProto.INT64),
            _value("required_cache_size", [1], TensorProto.INT64),
            _value("attn_cache", att),
            _value("conv_cache", conv),
            _value("attn_mask", [1, 1, "M"], TensorProto.BOOL),
        ],
        [log_probs, _value("next_att_cache", att), _value("next_conv_cache", conv)],
        sizes | {"right_context": 6},
    )
    tokens = folder / "tokens.txt"
    tokens.write_text("".join(f"{c} {i}\n" for i, c in enumerate(["<blank>", *DIGITS])))
    return whole, streaming, tokens


def read_spelling(text: str, mel: int) -> NDArray[np.float64]:
    """The features (frames, mel) that a probe's text spells."""
    digits = np.array([DIGITS.index(letter) for letter in text]).reshape(-1, PLACES)
    whole = (digits * 16 ** np.arange(PLACES)).sum(1)
    return (whole / SCALE - OFFSET).reshape(-1, mel)


def _spelling() -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """From x to log_probs (1, L, 17), one-hot."""
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "flat"], ["numbers"]),
        node("Add", ["numbers", "offset_"], ["positive"]),
        node("Mul", ["positive", "scale"], ["scaled"]),
        node("Round", ["scaled"], ["rounded"]),
        node("Cast", ["rounded"], ["whole"], to=TensorProto.INT64),
        node("Div", ["whole", "powers"], ["shifted"]),
        node("Mod", ["shifted", "base"], ["digits"]),
        node("Add", ["digits", "one"], ["units"]),
        node("Unsqueeze", ["units", "last"], ["column"]),
        node("Sub", ["column", "column"], ["blank"]),
        node("Concat", ["column", "blank"], ["pairs"], axis=2),
        node("Reshape", ["pairs", "row"], ["ids"]),
        node("OneHot", ["ids", "depth", "values"], ["log_probs"], axis=-1),
    ]
    constants = [
        _constant("flat", np.array([-1, 1])),
        _constant("offset_", np.float32(OFFSET)),
        _constant("scale", np.float32(SCALE)),
        _constant("powers", 16 ** np.arange(PLACES)[None]),
        _constant("base", np.int64(16)),
        _constant("one", np.int64(1)),
        _constant("last", np.array([2])),
        _constant("row", np.array([1, -1])),
        _constant("depth", np.int64(17)),
        _constant("values", np.array([0.0, 1.0], np.float32)),
    ]
    return nodes, constants


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    metadata: dict[str, int],
) -> None:
    graph = helper.make_graph(nodes, "probe", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    facts = {"model_type": "wenet_ctc", "vocab_size": 17, "subsampling_factor": 4} | metadata
    helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _constant(name: str, value: object) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value), name)


def _value(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
