"""Certificates: what a good export gets, that defects never pass, and what bad input is told."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rayasr.certify.certificate import Certificate, read_certificate
from rayasr.certify.certify import certify
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.export.info import CERTIFICATE_FILE, read_info, write_info
from rayasr.export.torchscript import export_torchscript
from tests.export_defects import (
    EXPORTERS,
    plant_broken_scale,
    plant_swapped_units,
    plant_wrong_cmvn,
    plant_wrong_left_chunks,
)

Certify = Callable[[Path], Certificate]


def test_good_export_passes(export: Path, certified: Certify) -> None:
    found = certified(export)
    assert found.passed, found.failures
    assert found.advice == ""
    assert read_certificate(export) == found
    found.require_passed(export)
    contexts = {"torchscript": {(-1, -1), (16, 4)}, "wenet": {(-1, -1), (16, 4)}, "onnx": {(16, 4)}}
    assert {(row.chunk_size, row.left_chunks) for row in found.rows} == contexts[export.name]
    for row in found.rows:
        assert row.agreeing == row.utterances == 5
        assert row.outcome.errors == row.checkpoint.errors
        assert row.largest_difference is not None
        assert row.largest_difference < 1e-4
    # the references are what the model hears in full context
    assert all(row.outcome.errors == 0 for row in found.rows if row.chunk_size < 0)


@pytest.mark.parametrize("name", EXPORTERS)
def test_wrong_cmvn_is_caught(name: str, model: Path, tmp_path: Path, certified: Certify) -> None:
    assert plant_wrong_cmvn(model, tmp_path / "out", EXPORTERS[name])
    for row in certified(tmp_path / "out").rows:
        assert any("gives other log-probabilities" in fault for fault in row.faults), row


def test_swapped_units_are_caught(model: Path, export: Path, certified: Certify) -> None:
    assert plant_swapped_units(model, export, export_torchscript)
    found = certified(export)
    assert found.faults[0] == "units.txt line 5: '二 4' where the checkpoint has '一'"
    assert all("loses" in row.faults[0] for row in found.rows)


def test_wrong_left_chunks_are_caught(model: Path, full: Path, certified: Certify) -> None:
    assert plant_wrong_left_chunks(model, full, export_torchscript)
    found = certified(full)
    faults = {(row.model, row.chunk_size): row.faults for row in found.rows}
    behaviour = "behaves as in chunk 16, left 1"
    if full.name == "torchscript":
        assert faults["final.zip", 16] == (behaviour,)
        assert faults["final_quant.zip", 16][0] == behaviour
        assert faults["final.zip", -1] == ()
    else:
        wrong = "says left_chunks 1 where export.json says 4"
        files = ("model-streaming.onnx", "model-streaming.int8.onnx", "encoder.onnx")
        assert found.faults == tuple(f"{name} {wrong}" for name in files)
        assert faults["encoder.onnx", 16] == (behaviour,)  # it reads what the file says
    # No tone is long enough to show it in what is heard.
    float32 = [row for row in found.rows if row.precision == "float32"]
    assert all(row.agreeing == row.utterances for row in float32)


def test_broken_scale_is_caught(model: Path, full: Path, certified: Certify) -> None:
    assert plant_broken_scale(model, full, export_torchscript)
    for row in certified(full).rows:
        wrong = [fault for fault in row.faults if "than int8 made anew" in fault]
        assert len(wrong) == (row.precision == "int8"), row


def test_too_many_errors_fail_and_name_the_layers(int8: Path, corpus: Path) -> None:
    found = certify(int8, corpus, max_loss=3.0)
    failed = [row for row in found.rows if row.faults]
    assert {row.model for row in failed} == {"final_quant.zip"}
    (fault,) = failed[0].faults  # nothing else is wrong with it
    assert fault.startswith("loses ")
    assert fault.endswith(" against 0.00 %, 3 allowed")
    assert "--int8-skip " in found.advice
    values = json.loads((int8 / CERTIFICATE_FILE).read_text())
    assert values["verdict"] == "failed"
    with pytest.raises(CheckpointError, match=r"failed its certificate: final_quant\.zip in torch"):
        found.require_passed(int8)


def test_sherpa_is_tried_on_other_features_only_by_force(exports: Path, corpus: Path) -> None:
    found = certify(exports / "full-onnx", corpus)
    assert {row.runtime for row in found.rows} == {"ONNX Runtime"}
    (reason,) = found.refused
    assert "model-streaming.int8.onnx: sherpa-onnx computes other features" in reason
    found = certify(exports / "full-onnx", corpus, max_loss=20.0, force=True)
    models = {row.model for row in found.rows if row.runtime == "sherpa-onnx"}
    assert models == {f"model{k}{p}.onnx" for k in ("", "-streaming") for p in ("", ".int8")}
    assert found.refused == ()
    assert {row.runtime for row in found.rows if row.faults} == {"sherpa-onnx"}
    assert found.advice.startswith("train with features.contract: sherpa")


def test_a_changed_file_voids_the_certificate(wenet: Path, certified: Certify) -> None:
    found = certified(wenet)
    with (wenet / "train.yaml").open("a") as file:
        file.write("# changed\n")
    with pytest.raises(CheckpointError, match=r"not what was certified \(train\.yaml has changed"):
        found.require_passed(wenet)
    (wenet / "train.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"train\.yaml is gone"):
        found.require_passed(wenet)


def test_export_again_removes_the_certificate(wenet: Path, certified: Certify) -> None:
    certified(wenet)
    write_info(wenet, read_info(wenet))
    with pytest.raises(CheckpointError, match=r"has no certificate\.json; `rayasr certify "):
        read_certificate(wenet)


def test_damaged_certificate(tmp_path: Path) -> None:
    (tmp_path / CERTIFICATE_FILE).write_text('{"verdict": "passed"}')
    with pytest.raises(CheckpointError, match=r"is damaged .*; certify again"):
        read_certificate(tmp_path)


def test_checkpoint_that_has_gone(wenet: Path, model: Path, corpus: Path, tmp_path: Path) -> None:
    write_info(wenet, replace(read_info(wenet), source=str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match=r"gone, .*is not there; .* by --model"):
        certify(wenet, corpus)
    assert certify(wenet, corpus, model=model).passed


def test_missing_file(wenet: Path, corpus: Path) -> None:
    (wenet / "global_cmvn").unlink()
    with pytest.raises(CheckpointError, match=r"lacks global_cmvn of its model final\.pt"):
        certify(wenet, corpus)


def test_no_export(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a finished export"):
        certify(tmp_path, corpus)


@pytest.mark.parametrize("package", ["onnxruntime", "sherpa_onnx"])
def test_runtime_that_is_not_installed(
    package: str, exports: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package} is not installed; .*rayasr\[onnx\]"):
        certify(exports / "full-onnx", corpus, force=True)


def test_unknown_kind(wenet: Path, corpus: Path) -> None:
    info = read_info(wenet)
    write_info(wenet, replace(info, models=(replace(info.models[0], kind="tflite"),)))
    with pytest.raises(CheckpointError, match="of the kind 'tflite', which this rayasr cannot try"):
        certify(wenet, corpus)


def test_split_that_is_not_there(wenet: Path, corpus: Path) -> None:
    with pytest.raises(DataError, match="has no split 'evening'; it has test"):
        certify(wenet, corpus, "evening")


def test_recordings_that_cannot_be_read(wenet: Path, corpus: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    first, *others = sorted((broken / "data_aishell" / "wav" / "test").rglob("*.wav"))
    first.write_bytes(b"RIFF")
    found = certify(wenet, broken)
    assert found.utterances == 5
    assert all(row.utterances == 4 and row.outcome.errors > 0 for row in found.rows)
    for path in others:
        path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match="no recording of the split 'test' is usable"):
        certify(wenet, broken)


def test_read_only_folder(wenet: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(DataError, match=r"wenet cannot keep a certificate: .*; copy it"):
        certify(wenet, corpus)
