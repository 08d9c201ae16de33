"""Which modules are named where int8 costs too much."""

from pathlib import Path

import pytest

from rayasr.certify.checkpoint_runtime import CheckpointRuntime
from rayasr.certify.int8_advice import Lost, advise, modules_of
from rayasr.certify.int8_runtime import Int8Maker
from rayasr.certify.recordings import Recordings
from rayasr.checkpoint import load_model, save_model
from rayasr.config import with_corpora
from rayasr.export.info import read_info
from tests.export_defects import FULL_EXPORTERS

CULPRIT = "encoder.encoders.0.self_attn"


def with_outliers(model: Path, folder: Path) -> Path:
    """The same function, but that one attention's values lie too far apart for int8."""
    loaded = load_model(model)
    weights = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    for channel in (0, 5, 10, 15):
        for kind in ("weight", "bias"):
            weights[f"{CULPRIT}.linear_v.{kind}"][channel] *= 1e5
        weights[f"{CULPRIT}.linear_out.weight"][:, channel] /= 1e5
    return save_model(folder, weights, loaded.recipe, loaded.tokenizer, loaded.cmvn)


def advice(model: Path, export: Path, corpus: Path, allowed: float) -> str:
    """What is said where int8 is wrong in every recording, the checkpoint right."""
    loaded = load_model(model)
    recordings = Recordings(with_corpora(loaded.recipe, [corpus]), "test")
    runtime = CheckpointRuntime(loaded, "ctc_greedy_search", -1, -1)
    lost = [Lost(key, samples, runtime.transcribe(samples), 0, 1) for key, samples in recordings]
    info = read_info(export)
    int8 = next(item for item in info.models if item.precision == "int8")
    return advise(Int8Maker(export, info, loaded), int8, "ctc_greedy_search", lost, allowed)


@pytest.mark.parametrize("name", ["torchscript", "onnx"])
def test_the_harmful_module_is_named(name: str, model: Path, corpus: Path, tmp_path: Path) -> None:
    harmed = with_outliers(model, tmp_path / "model")
    FULL_EXPORTERS[name](harmed, tmp_path / "out")
    said = advice(harmed, tmp_path / "out", corpus, 3.0)
    assert f"--int8-skip {CULPRIT} (" in said


def test_a_file_that_is_wrong_is_told_from_int8(model: Path, exports: Path, corpus: Path) -> None:
    said = advice(model, exports / "full-torchscript", corpus, 100.0)
    assert said == (
        "final_quant.zip: int8 made anew of the checkpoint does not lose this, so the file is not "
        "what the checkpoint gives; export again"
    )


def test_int8_that_nothing_saves(model: Path, exports: Path, corpus: Path) -> None:
    said = advice(model, exports / "full-torchscript", corpus, -1.0)
    assert said == "final_quant.zip: int8 is not for this model; use the float32 one"


def test_modules_are_whole_attentions_or_single_layers() -> None:
    layers = ["a.attn.q", "a.attn.k", "decoder.0.ff.w", "decoder.0.attn.q", "decoder.output"]
    assert modules_of(layers) == ["a.attn", "decoder.0.ff", "decoder.0.attn", "decoder.output"]
