"""Models back to WeNet: every bit of an imported one, a refusal of what it cannot hold."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayasr.checkpoint import load_model, save_model
from rayasr.config import load_recipe, parse_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.export.info import read_info
from rayasr.model.u2 import build_model
from rayasr.wenet.exporting import export_wenet
from rayasr.wenet.importing import import_wenet
from tests.wenet_models import (
    TRAIN_YAML,
    UNITS,
    merged,
    quiet,
    read_recipe,
    read_state,
    tokenizer,
    write_wenet,
)

MODELS: dict[str, dict[str, Any]] = {
    "u2pp_conformer": {},
    "u2_transformer": {
        "encoder": "transformer",
        "encoder_conf": {"cnn_module_kernel": None, "causal": None, "cnn_module_norm": None},
        "decoder": "transformer",
        "decoder_conf": {"r_num_blocks": None},
    },
    "batch_norm": {"encoder_conf": {"causal": False, "cnn_module_norm": "batch_norm"}},
    "subsampling_6": {"encoder_conf": {"input_layer": "conv2d6"}},
    "subsampling_8": {
        "encoder_conf": {"input_layer": "conv2d8"},
        "dataset_conf": {"fbank_conf": {"num_mel_bins": 23}},
    },
    "absolute": {
        "encoder_conf": {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_import_then_export_keeps_every_bit(tmp_path: Path, name: str) -> None:
    source = write_wenet(tmp_path / "wenet", merged(TRAIN_YAML, MODELS[name]))
    model = import_wenet(source, tmp_path / "model", notes=quiet)
    report = export_wenet(model, tmp_path / "out", notes=quiet)
    before, after = read_state(source), read_state(tmp_path / "out")
    assert list(after) == list(before)  # position tables too, in WeNet's order
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert report.max_difference == {"final.pt": 0.0}
    assert set(report.sizes) == {"final.pt", "train.yaml", "units.txt", "global_cmvn"}
    assert read_info(tmp_path / "out").models[0].kind == "wenet_checkpoint"
    again = import_wenet(tmp_path / "out", tmp_path / "again", notes=quiet)
    assert load_recipe(again / "recipe.yaml") == load_recipe(model / "recipe.yaml")
    assert (again / "units.txt").read_bytes() == (model / "units.txt").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "name",
    [
        "u2pp_trained",
        "unified",
        "u2_conformer/causal_layernorm",
        "u2_conformer/batchnorm_noncausal",
    ],
)
def test_fixtures_come_back_as_they_were(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "parity" / name
    model = import_wenet(source, tmp_path / "model", notes=quiet)
    export_wenet(model, tmp_path / "out", notes=quiet)
    before, after = read_state(source), read_state(tmp_path / "out")
    tables = {key for key in after if key.endswith(".pe")}
    assert before.keys() | tables == after.keys()
    for key, value in before.items():
        if key in tables:
            assert float((value - after[key]).abs().max()) <= 1e-6
        else:
            assert torch.equal(value, after[key])
    again = import_wenet(tmp_path / "out", tmp_path / "again", notes=quiet)
    assert load_recipe(again / "recipe.yaml") == load_recipe(model / "recipe.yaml")


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "no space left while"), (errno.EROFS, "is not writable")]
)
def test_a_folder_that_is_full_or_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    source = write_wenet(tmp_path / "wenet")
    model = import_wenet(source, tmp_path / "model", notes=quiet)

    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=message):
        import_wenet(source, tmp_path / "other", notes=quiet)
    with pytest.raises(CheckpointError, match="neither a run nor a model"):
        load_model(tmp_path / "other")
    with pytest.raises(DataError, match=message):
        export_wenet(model, tmp_path / "out", notes=quiet)
    assert not (tmp_path / "out" / "export.json").exists()


def test_a_model_that_wenet_has_not_is_refused(tmp_path: Path) -> None:
    loaded = load_model(import_wenet(write_wenet(tmp_path / "wenet"), tmp_path / "m", notes=quiet))

    def save(section: str, **changes: Any) -> Path:
        recipe = parse_recipe(merged(loaded.recipe.model_dump(), {section: changes}))
        weights = loaded.model.state_dict()
        return save_model(tmp_path / "x", weights, recipe, loaded.tokenizer, loaded.cmvn)

    for section, changes, named in (
        ("features", {"snip_edges": False}, r"features\.snip_edges False \(there: True\)"),
        ("features", {"high_freq": -400.0}, r"features\.high_freq -400\.0 \(there: 0\.0\)"),
    ):
        with pytest.raises(ConfigError, match=f"cannot hold a model with {named}"):
            export_wenet(save(section, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    notes: list[str] = []
    model = save("optim", ema_decay=0.9, schedule="cosine")
    export_wenet(model, tmp_path / "out", notes=notes.append)
    assert notes == [
        "train.yaml cannot hold these settings of training: "
        "optim.schedule cosine, optim.ema_decay 0.9"
    ]


@pytest.mark.parametrize("channels", [16, 8])
def test_subsampling_of_another_width_is_refused(tmp_path: Path, channels: int) -> None:
    """WeNet's is as wide as the encoder, 16 here."""
    values = read_recipe(write_wenet(tmp_path / "wenet")).model_dump()
    values["model"]["encoder"]["subsampling_channels"] = channels
    recipe, units = parse_recipe(values), tokenizer()
    cmvn = CmvnStats.zeros(20).add(np.random.default_rng(0).normal(0, 1, (9, 20)))
    model = build_model(recipe.model, num_mel_bins=20, vocab_size=len(UNITS), sos_eos_id=2)
    folder = save_model(tmp_path / "m", model.state_dict(), recipe, units, cmvn)
    if channels == 16:
        export_wenet(folder, tmp_path / "out", notes=quiet)
        return
    with pytest.raises(ConfigError, match=r"subsampling_channels 8 \(there: 16\)"):
        export_wenet(folder, tmp_path / "out", notes=quiet)
