"""Exports in the real ONNX Runtime and the real sherpa-onnx; sherpa-onnx's features read out."""

import json
import shutil
import sys
from dataclasses import replace
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
import sherpa_onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from rayasr.checkpoint import LoadedModel, load_model, save_model
from rayasr.config import Mode
from rayasr.data.fbank import Fbank, energy_floor
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.errors import CheckpointError, ConfigError
from rayasr.export.info import ExportInfo, read_info
from rayasr.export.onnx import export_onnx
from rayasr.export.onnx_networks import Trio
from rayasr.export.onnx_runtimes import OnnxRuntime, SherpaRuntime
from rayasr.export.runtime_search import search
from rayasr.feature_config import parse_features
from tests.front_end_probe import read_spelling, write_probes
from tests.tiny_models import UNITS, loud_noise, save_tiny_model
from tests.wenet_models import load_wenet

RATE, MEL = 8000, 40
MODES: tuple[Mode, ...] = ("ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring")
SHERPA = parse_features({"contract": "sherpa", "sample_rate": RATE, "num_mel_bins": MEL})
CHUNK = 67  # fbank frames of a chunk of 16, of which the next one has the last 3 again


class Exported(NamedTuple):
    folder: Path
    info: ExportInfo
    loaded: LoadedModel


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    model = save_tiny_model(folder, {"contract": "sherpa"})
    export_onnx(model, folder / "out", int8=True, force=True, notes=lambda _: None)
    return Exported(folder / "out", read_info(folder / "out"), load_model(model))


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    return write_probes(tmp_path_factory.mktemp("probe"), MEL)


def whole_features(probes: tuple[Path, Path, Path], samples: Tensor) -> NDArray[np.float64]:
    """sherpa-onnx's features of a recording, at once."""
    recognizer = sherpa_onnx.OfflineRecognizer.from_wenet_ctc(
        model=str(probes[0]), tokens=str(probes[2]), sample_rate=RATE, feature_dim=MEL
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE, samples.numpy())
    recognizer.decode_stream(stream)
    return read_spelling(stream.result.text, MEL)


def chunk_features(probes: tuple[Path, Path, Path], samples: Tensor) -> list[NDArray[np.float64]]:
    """sherpa-onnx's features of a stream, by chunk."""
    recognizer = sherpa_onnx.OnlineRecognizer.from_wenet_ctc(
        model=str(probes[1]), tokens=str(probes[2]), sample_rate=RATE, feature_dim=MEL
    )
    stream = recognizer.create_stream()
    stream.accept_waveform(RATE, samples.numpy())
    stream.input_finished()
    while recognizer.is_ready(stream):
        recognizer.decode_stream(stream)
    found = read_spelling(recognizer.get_result(stream), MEL)
    return [found[i : i + CHUNK] for i in range(0, len(found), CHUNK)]


def test_the_contract_is_sherpas_front_end(probes: tuple[Path, Path, Path]) -> None:
    samples = loud_noise(2.0)
    ours = Fbank(SHERPA)(samples).double().numpy()
    chunks = chunk_features(probes, samples)
    for i, chunk in enumerate(chunks):
        np.testing.assert_allclose(chunk, ours[64 * i : 64 * i + CHUNK], atol=2e-3)
    found = whole_features(probes, samples)
    assert found.shape == ours.shape
    np.testing.assert_allclose(found, ours, atol=0.2)  # dithered


def test_wenets_front_end_is_another(probes: tuple[Path, Path, Path]) -> None:
    samples = loud_noise(1.0)
    wenet = Fbank(parse_features({"sample_rate": RATE, "num_mel_bins": MEL}))(samples).numpy()
    found = whole_features(probes, samples)
    assert len(found) == len(wenet) + 2
    assert np.abs(found[: len(wenet)] - wenet).mean() > 0.1


def test_sherpa_dithers_whole_recordings_and_no_streams(probes: tuple[Path, Path, Path]) -> None:
    silence = torch.zeros(10 * RATE)
    first, second = whole_features(probes, silence), whole_features(probes, silence)
    assert np.abs(first - second).max() > 0.5
    np.testing.assert_allclose(np.exp(first).mean(0), energy_floor(SHERPA), rtol=0.25)
    assert {float(chunk.max()) for chunk in chunk_features(probes, silence)} == {-15.9423828125}


def test_sherpa_computes_no_chunk_that_the_audio_does_not_exceed(
    probes: tuple[Path, Path, Path],
) -> None:
    samples = loud_noise(1.31)
    assert len(Fbank(SHERPA)(samples)) == 64 + CHUNK
    assert len(chunk_features(probes, samples)) == 1
    assert len(chunk_features(probes, torch.cat([samples, torch.zeros(80)]))) == 2


def ours(exported: Exported, samples: Tensor, mode: Any, chunks: tuple[int, int]) -> str:
    decoding = Decoding.of(exported.loaded, chunk_size=chunks[0], left_chunks=chunks[1])
    recognizer = Recognizer(exported.loaded, decoding)
    features = Fbank(exported.loaded.recipe.features)(samples)
    found = recognizer.decode_batch([features], [mode]).hypotheses[mode][0]
    return recognizer.text(found)


@pytest.mark.parametrize("mode", MODES)
def test_onnx_runtime_finds_our_texts(exported: Exported, mode: Any) -> None:
    texts = set()
    for model in exported.info.models:
        if model.precision == "int8":
            continue
        runtime = OnnxRuntime(exported.folder, replace(exported.info, mode=mode), model)
        assert (runtime.name, runtime.front_end) == ("ONNX Runtime", "rayasr")
        best = mode
        if mode == "attention_rescoring" and model.kind != "wenet_trio":
            best = "ctc_prefix_beam_search"
        for seed in range(3):
            samples = loud_noise(1.7, seed=seed)
            expected = ours(exported, samples, best, (model.chunk_size, model.left_chunks))
            assert runtime.transcribe(samples) == expected
            texts.add(expected)
    assert len(texts) >= 4


def test_sherpa_finds_our_texts(exported: Exported) -> None:
    whole, streaming = (exported.info.model(n) for n in ("model.onnx", "model-streaming.onnx"))
    for seed in range(3):
        samples = loud_noise(1.7, seed=seed)
        runtime = SherpaRuntime(exported.folder, exported.info, whole)
        assert (runtime.name, runtime.front_end) == ("sherpa-onnx", "sherpa-onnx")
        expected = ours(exported, samples, "ctc_greedy_search", (-1, -1))
        assert len(set(expected)) >= 3
        # Its dither may tip a model of random weights over, here and there.
        found = SequenceMatcher(None, runtime.transcribe(samples), expected, autojunk=False)
        assert found.ratio() > 0.8
        # With the silence that it computes a last whole chunk from: 3 x 64 + 3 frames.
        padded = torch.cat([samples, torch.zeros(195 * 80 - len(samples))])
        expected = ours(exported, padded, "ctc_greedy_search", (16, 4))
        runtime = SherpaRuntime(exported.folder, exported.info, streaming)
        assert runtime.transcribe(samples) == expected


def test_wenets_model_finds_what_wenet_found(shared: Path, tmp_path: Path) -> None:
    """WeNet's own weights in its own three files."""
    source = shared / "parity" / "u2pp_trained"
    loaded = load_wenet(source)
    save_model(
        tmp_path / "model", loaded.model.state_dict(), loaded.recipe, loaded.tokenizer, loaded.cmvn
    )
    export_onnx(tmp_path, tmp_path / "out", left_chunks=-1, notes=lambda _: None)
    network = Trio(tmp_path / "out")
    settings = {"beam_size": 10, "ctc_weight": 0.3, "reverse_weight": 0.5}
    with np.load(source / "fixture.npz") as arrays:
        features = torch.from_numpy(arrays["feats"]).split(arrays["feats_lengths"].tolist())
    expected = json.loads((source / "fixture.json").read_text())["decode"]["c16_lall"]
    for i, item in enumerate(features):
        encoded = network.encode(item)
        decoders = partial(network.decoder_log_probs, frames=encoded.frames)
        for mode in MODES:
            units = search(encoded.log_probs, mode, settings, network.sos_eos_id, decoders)
            assert list(units) == expected[mode][i]["tokens"]


def test_int8_files_load_in_both_runtimes(exported: Exported) -> None:
    for name in ("model.int8.onnx", "model-streaming.int8.onnx"):
        for runtime in (OnnxRuntime, SherpaRuntime):
            found = runtime(exported.folder, exported.info, exported.info.model(name))
            assert found.transcribe(loud_noise(1.7))


def test_units_are_those_of_the_export(exported: Exported, tmp_path: Path) -> None:
    """Spaces are a unit, which sherpa-onnx also writes at the ends."""
    folder = shutil.copytree(exported.folder, tmp_path / "out")
    units = (folder / "tokens.txt").read_text()
    model = exported.info.model("model-streaming.onnx")
    samples = loud_noise(1.7)
    for runtime in (OnnxRuntime, SherpaRuntime):
        before = runtime(exported.folder, exported.info, model).transcribe(samples)
        first = before[0]
        number = UNITS.index(first)
        (folder / "tokens.txt").write_text(
            units.replace(f"{first} {number}\n", f"▁ {number}\n").replace("▁ 12\n", f"{first} 12\n")
        )
        after = runtime(folder, exported.info, model).transcribe(samples)
        spaced = before.translate({ord(first): " ", ord(" "): first})
        assert after == " ".join(spaced.split())


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.08])
def test_too_little_audio_has_no_text(exported: Exported, seconds: float) -> None:
    samples = loud_noise(1.0)[: round(seconds * RATE)]
    for model in exported.info.models:
        runtimes: list[Any] = [OnnxRuntime(exported.folder, exported.info, model)]
        if model.kind == "wenet_ctc":
            runtimes.append(SherpaRuntime(exported.folder, exported.info, model))
        for runtime in runtimes:
            assert len(runtime.transcribe(samples)) <= 1


def test_a_runtime_that_is_not_installed_names_the_extra(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported.info.models[0]
    for name, runtime in (("onnxruntime", OnnxRuntime), ("sherpa_onnx", SherpaRuntime)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ConfigError, match=r"not installed; run pip install 'rayasr\[onnx\]'"):
            runtime(exported.folder, exported.info, model)


def test_sherpa_is_not_given_what_it_cannot_run(exported: Exported) -> None:
    trio = exported.info.model("encoder.onnx")
    with pytest.raises(ConfigError, match="does not know models like encoder"):
        SherpaRuntime(exported.folder, exported.info, trio)


def test_damaged_files_are_named(exported: Exported, tmp_path: Path) -> None:
    """sherpa-onnx would end the process for want of metadata."""
    model = exported.info.model("model.onnx")
    (tmp_path / "tokens.txt").write_bytes((exported.folder / "tokens.txt").read_bytes())
    content = onnx.load(str(exported.folder / "model.onnx"))
    del content.metadata_props[:]
    onnx.save(content, str(tmp_path / "model.onnx"))
    with pytest.raises(CheckpointError, match="does not say its vocab_size, subsampling_factor"):
        SherpaRuntime(tmp_path, exported.info, model)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    for runtime in (OnnxRuntime, SherpaRuntime):
        with pytest.raises(CheckpointError, match=r"model\.onnx cannot be .*; export it again"):
            runtime(tmp_path, exported.info, model)


def test_files_that_contradict_each_other_are_said(exported: Exported, tmp_path: Path) -> None:
    folder = shutil.copytree(exported.folder, tmp_path / "out")
    model = exported.info.model("model-streaming.onnx")
    path = folder / model.name
    content = onnx.load(str(path))
    size = next(item for item in content.metadata_props if item.key == "output_size")
    for value, message in (("32", "does not fit"), ("many", "does not say its output_size")):
        size.value = value
        onnx.save(content, str(path))
        for runtime in (OnnxRuntime, SherpaRuntime):
            with pytest.raises(CheckpointError, match=message):
                runtime(folder, exported.info, model).transcribe(loud_noise(1.7))
    lines = (folder / "tokens.txt").read_text().splitlines(keepends=True)
    (folder / "tokens.txt").write_text("".join([*lines[:5], "<sos/eos> 5\n"]))
    for runtime in (OnnxRuntime, SherpaRuntime):
        with pytest.raises(CheckpointError, match="14 outputs for 6 units"):
            runtime(folder, exported.info, exported.info.model("model.onnx")).transcribe(
                loud_noise(1.7)
            )


def test_features_of_another_size_are_said(exported: Exported) -> None:
    other = exported.info.features.model_copy(update={"num_mel_bins": 30})
    model = exported.info.model("model.onnx")
    runtime = OnnxRuntime(exported.folder, replace(exported.info, features=other), model)
    with pytest.raises(CheckpointError, match="does not fit its export"):
        runtime.transcribe(loud_noise(1.0))
