"""ONNX files give what the checkpoint gives, called as their runtimes call them."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest
import torch
from torch import Tensor

from rayasr.checkpoint import LoadedModel, load_model
from rayasr.data.fbank import Fbank, energy_floor
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.export import onnx as onnx_export
from rayasr.export.info import ExportedModel, ExportReport, read_info, write_info
from rayasr.export.onnx import export_onnx, plan_models
from rayasr.export.onnx_models import ComputedPositions
from rayasr.export.onnx_networks import Chunks, Trio, WholeUtterances, open_network, read_metadata
from rayasr.export.onnx_quantize import quantize, quantized_layers
from rayasr.model.subsampling import TABLE_FRAMES, Positions
from tests.tiny_models import MEL, UNITS, save_tiny_model, wandering_fbank

MODELS: dict[str, dict[str, Any]] = {
    "u2pp_conformer": {"encoder__num_blocks": 2},
    "u2_transformer": {"encoder__kind": "transformer", "decoder__r_num_blocks": 0},
    "absolute_8_batch_norm": {
        "encoder__subsampling": 8,
        "encoder__positions": "absolute",
        "encoder__convolution_norm": "batch_norm",
    },
    "not_causal": {
        "encoder__causal_convolution": False,
        "encoder__convolution_kernel": 5,
        "encoder__dynamic_chunk": False,
    },
}
SHERPA = {"contract": "sherpa"}


class Exported(NamedTuple):
    folder: Path
    report: ExportReport
    loaded: LoadedModel


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    model = save_tiny_model(folder, **MODELS[request.param])
    report = export_onnx(model, folder / "out", force=True, notes=lambda _: None)
    return Exported(folder / "out", report, load_model(model))


@pytest.fixture(scope="module")
def for_sherpa(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """An export with int8 files of a model with sherpa-onnx's front end."""
    folder = tmp_path_factory.mktemp("sherpa")
    model = save_tiny_model(folder, SHERPA, encoder__output_size=64, encoder__linear_units=256)
    report = export_onnx(model, folder / "out", int8=True, notes=lambda _: None)
    return Exported(folder / "out", report, load_model(model))


def log_probs(
    loaded: LoadedModel, features: Tensor, chunk_size: int = -1, left_chunks: int = -1
) -> Tensor:
    """(T', V) by the checkpoint, in one pass with masks."""
    with torch.no_grad():
        lengths = torch.tensor([len(features)])
        encoder_out, _ = loaded.model.encode(features[None], lengths, chunk_size, left_chunks)
        return loaded.model.ctc_log_probs(encoder_out)[0]


def streams(loaded: LoadedModel) -> bool:
    return loaded.recipe.model.encoder.causal_convolution


def test_every_file_gives_the_checkpoints_numbers(exported: Exported) -> None:
    info = read_info(exported.folder)
    names = {"model.onnx", "encoder.onnx"}
    names |= {"model-streaming.onnx"} if streams(exported.loaded) else set()
    assert {model.name for model in info.models} == names == set(exported.report.max_difference)
    assert max(exported.report.max_difference.values()) < 1e-4
    for model in info.models:
        network = open_network(exported.folder, model)
        for frames in (400, 47):
            features = wandering_fbank(frames, seed=frames)
            expected = log_probs(exported.loaded, features, model.chunk_size, model.left_chunks)
            found = network.encode(features).log_probs
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_too_little_audio_gives_nothing(exported: Exported) -> None:
    fewest = exported.loaded.model.right_context() + 1
    for model in read_info(exported.folder).models:
        network = open_network(exported.folder, model)
        for frames in (0, 1, fewest - 1):
            assert network.encode(torch.zeros(frames, MEL)).log_probs.shape == (0, len(UNITS))
        assert len(network.encode(torch.zeros(fewest, MEL)).log_probs) == 1


def test_one_streaming_file_takes_any_chunk_size_and_history(exported: Exported) -> None:
    if not streams(exported.loaded):
        return
    features = wandering_fbank(300)
    for chunk_size, left_chunks in ((16, 4), (4, 2), (8, 0), (3, 7)):
        network = Chunks(exported.folder / "model-streaming.onnx", chunk_size, left_chunks)
        expected = log_probs(exported.loaded, features, chunk_size, left_chunks)
        found = network.encode(features).log_probs
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_metadata_is_what_the_runtimes_read(exported: Exported) -> None:
    encoder = exported.loaded.recipe.model.encoder
    whole = read_metadata(exported.folder / "model.onnx")
    rate = str(encoder.subsampling)
    assert whole["model_type"] == "wenet_ctc"
    assert (whole["subsampling_factor"], whole["vocab_size"]) == (rate, str(len(UNITS)))
    kernel = 1 if encoder.kind == "transformer" or not encoder.causal_convolution else 4
    shape = {
        "head": "2",
        "num_blocks": str(encoder.num_blocks),
        "output_size": "16",
        "cnn_module_kernel": str(kernel),
        "right_context": str({4: 6, 8: 14}[encoder.subsampling]),
    }
    trio = read_metadata(exported.folder / "encoder.onnx")
    chunks = {"chunk_size": "16", "left_chunks": "4"}
    if streams(exported.loaded):
        streaming = read_metadata(exported.folder / "model-streaming.onnx")
        assert (shape | chunks | whole | {"comment": "streaming"}).items() <= streaming.items()
    else:
        chunks = {"chunk_size": "-1", "left_chunks": "-1"}
    decoders = exported.loaded.recipe.model.decoder.r_num_blocks
    sos = str(len(UNITS) - 1)
    expected = shape | chunks | {"subsampling_rate": rate, "sos_symbol": sos, "eos_symbol": sos}
    expected |= {"is_bidirectional_decoder": "1" if decoders else "0"}
    assert expected.items() <= trio.items()
    assert trio == read_metadata(exported.folder / "decoder.onnx")


def test_inputs_are_those_that_the_runtimes_give(exported: Exported) -> None:
    names = {
        name: [item.name for item in onnx.load(exported.folder / name).graph.input]
        for name in (path.name for path in exported.folder.iterdir())
        if name.endswith(".onnx")
    }
    cache = ["chunk", "offset", "att_cache", "cnn_cache"]
    if streams(exported.loaded):
        cache = ["chunk", "offset", "required_cache_size", "att_cache", "cnn_cache", "att_mask"]
        assert names.pop("model-streaming.onnx") == [
            "x",
            "offset",
            "required_cache_size",
            "attn_cache",
            "conv_cache",
            "attn_mask",
        ]
    assert names == {
        "model.onnx": ["x", "x_lens"],
        "encoder.onnx": cache,
        "ctc.onnx": ["hidden"],
        "decoder.onnx": ["hyps", "hyps_lens", "encoder_out"],
    }


def test_wenets_files_are_old_enough_for_its_runtime(exported: Exported) -> None:
    for name in ("encoder.onnx", "ctc.onnx", "decoder.onnx"):
        model = onnx.load(exported.folder / name)
        assert model.opset_import[0].version <= 15
        assert model.ir_version <= 8


def test_layers_can_be_left_out_of_int8(for_sherpa: Exported, tmp_path: Path) -> None:
    source, target = for_sherpa.folder / "model.onnx", tmp_path / "int8.onnx"
    weights = dict(for_sherpa.loaded.model.named_parameters())
    skip = ("encoder.encoders.0.conv_module", "encoder.encoders.0.self_attn.linear_pos")
    quantize(source, target, weights, skip)
    layers = quantized_layers(target)
    assert len(layers) == 8
    assert not any(layer.startswith(skip) for layer in layers)
    with pytest.raises(ConfigError, match=r"--int8-skip encoder\.enc: no linear layer's name"):
        quantize(source, target, weights, ["encoder.enc"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"int8_skip": ["ctc"]}, "--int8-skip needs --int8"),
        ({"chunk_size": 0}, "chunk size 0 with 4 left chunks is no way to stream"),
        ({"left_chunks": -2}, "-2 left chunks is no way to stream"),
    ],
)
def test_nonsense_is_a_config_error(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    model = save_tiny_model(tmp_path, SHERPA)
    with pytest.raises(ConfigError, match=message):
        export_onnx(model, tmp_path / "out", notes=lambda _: None, **options)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model(tmp_path, SHERPA)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"no space left while writing .*out"):
        export_onnx(model, tmp_path / "out", notes=lambda _: None)
    assert not list((tmp_path / "out").iterdir())


def test_an_output_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out"):
        export_onnx(save_tiny_model(tmp_path, SHERPA), tmp_path / "out", notes=lambda _: None)


@pytest.mark.parametrize("left_chunks", [-1, 0])
def test_wenets_encoder_without_a_fixed_history(tmp_path: Path, left_chunks: int) -> None:
    model = save_tiny_model(tmp_path)
    export_onnx(
        model, tmp_path / "out", chunk_size=4, left_chunks=left_chunks, notes=lambda _: None
    )
    features = wandering_fbank(150)
    expected = log_probs(load_model(model), features, 4, left_chunks)
    found = Trio(tmp_path / "out").encode(features).log_probs
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_long_audio_goes_beyond_the_position_table(for_sherpa: Exported) -> None:
    features = wandering_fbank(4 * (TABLE_FRAMES + 60))
    features = torch.maximum(features, energy_floor(for_sherpa.loaded.recipe.features).log())
    whole = WholeUtterances(for_sherpa.folder / "model.onnx").encode(features).log_probs
    expected = log_probs(for_sherpa.loaded, features)
    assert len(whole) > TABLE_FRAMES
    torch.testing.assert_close(whole, expected, atol=1e-3, rtol=0)
    chunks = Chunks(for_sherpa.folder / "model-streaming.onnx", 256, 1).encode(features).log_probs
    expected = log_probs(for_sherpa.loaded, features, 256, 1)
    torch.testing.assert_close(chunks, expected, atol=1e-3, rtol=0)


def test_computed_positions_are_the_tables() -> None:
    table = Positions(10, 0.0, added=True).eval()
    computed = ComputedPositions(table)
    for offset, length in ((0, 7), (4990, 30), (123456, 3)):
        expected = table.lookup(offset, length)
        torch.testing.assert_close(computed.lookup(torch.tensor(offset), length), expected)
    hidden = computed.lookup(torch.tensor(-2), 4)
    torch.testing.assert_close(hidden, table.lookup(0, 2)[:, [0, 0, 0, 1]])


def test_int8_files_are_smaller_and_near(for_sherpa: Exported) -> None:
    folder, report, _ = for_sherpa
    for name in ("model", "model-streaming"):
        assert report.sizes[f"{name}.int8.onnx"] < 0.6 * report.sizes[f"{name}.onnx"]
        assert 1e-4 < report.max_difference[f"{name}.int8.onnx"] < 1.0
        layers = quantized_layers(folder / f"{name}.int8.onnx")
        assert len(layers) == 11  # two feed-forwards, attention with positions, convolution
        assert "encoder.encoders.0.conv_module.pointwise_conv1" in layers
        assert not any(layer.startswith(("encoder.embed", "ctc")) for layer in layers)
        facts = read_metadata(folder / f"{name}.onnx")
        assert facts.items() <= read_metadata(folder / f"{name}.int8.onnx").items()


def test_a_floor_of_the_features_is_inside_the_files(for_sherpa: Exported) -> None:
    features = for_sherpa.loaded.recipe.features
    silence = torch.full((50, MEL), -15.94)  # what sherpa-onnx makes of zeros
    ours = Fbank(features)(torch.zeros(4000))
    for model in read_info(for_sherpa.folder).models:
        network = open_network(for_sherpa.folder, model)
        found, expected = network.encode(silence), network.encode(ours)
        torch.testing.assert_close(found.log_probs, expected.log_probs)


def plan(model: Path, **options: Any) -> tuple[list[str], list[str]]:
    """Names of the models that would be written, and what is said."""
    notes: list[str] = []
    settings = {"chunk_size": 16, "left_chunks": 4, "int8": False, "force": False} | options
    models = plan_models(load_model(model), notes=notes.append, **settings)
    return [item.name for item in models], notes


def test_a_model_that_cannot_stream_is_exported_for_full_context(tmp_path: Path) -> None:
    names, notes = plan(save_tiny_model(tmp_path, SHERPA, encoder__dynamic_chunk=False))
    assert names == ["model.onnx"]
    assert notes[0].startswith("this model cannot stream")


def test_sherpa_cannot_stream_with_all_history(tmp_path: Path) -> None:
    names, notes = plan(save_tiny_model(tmp_path), left_chunks=-1, force=True)
    assert names == ["model.onnx", "encoder.onnx"]
    assert notes == ["no model-streaming.onnx: sherpa-onnx needs a number of left chunks"]


def test_a_front_end_decides_what_is_written(tmp_path: Path) -> None:
    for_wenet = save_tiny_model(tmp_path / "wenet")
    names, notes = plan(for_wenet)
    assert names == ["encoder.onnx"]
    assert "train with features.contract: sherpa, or give --force" in notes[0]
    with pytest.raises(ConfigError, match="sherpa-onnx computes other features from audio"):
        plan(for_wenet, int8=True)
    names, notes = plan(save_tiny_model(tmp_path / "sherpa", SHERPA))
    assert names == ["model.onnx", "model-streaming.onnx"]
    assert "train with features.contract: wenet, or give --force" in notes[0]
    own = save_tiny_model(tmp_path / "own", {"window": "hamming"})
    with pytest.raises(ConfigError, match=r"trained on \(no runtime's\)"):
        plan(own)
    everything = ["model.onnx", "model-streaming.onnx", "encoder.onnx"]
    assert plan(own, force=True) == (everything, [])


def test_an_export_replaces_an_earlier_one(for_sherpa: Exported, tmp_path: Path) -> None:
    out = shutil.copytree(for_sherpa.folder, tmp_path / "out")
    (out / "mine.txt").write_text("kept")
    export_onnx(for_sherpa.loaded.path, out, chunk_size=-1, notes=lambda _: None)
    assert sorted(path.name for path in out.iterdir()) == [
        "export.json", "mine.txt", "model.onnx", "tokens.txt", "units.txt",
    ]  # fmt: skip
    assert (out / "tokens.txt").read_bytes() == (out / "units.txt").read_bytes()


def test_another_formats_export_is_not_overwritten(for_sherpa: Exported, tmp_path: Path) -> None:
    other = ExportedModel("final.zip", ("final.zip",), "torchscript")
    info = replace(read_info(for_sherpa.folder), format="torchscript", models=(other,))
    write_info(tmp_path, info)
    with pytest.raises(ConfigError, match="holds a torchscript export; give another --out"):
        export_onnx(for_sherpa.loaded.path, tmp_path, notes=lambda _: None)


def test_a_file_that_differs_is_not_kept(
    for_sherpa: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = shutil.copytree(for_sherpa.folder, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    right = onnx_export.prepare

    def spoil(*arguments: Any) -> Any:
        prepared = right(*arguments)
        with torch.no_grad():
            prepared.ctc.ctc_lo.bias += torch.arange(float(len(UNITS)))
        return prepared

    monkeypatch.setattr(onnx_export, "prepare", spoil)
    with pytest.raises(CheckpointError, match=r"model\.onnx differs .* so it was not kept"):
        export_onnx(for_sherpa.loaded.path, out, notes=lambda _: None)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
