"""Certificates: what a good export gets, and that defects never pass."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rayasr.certify.certificate import Certificate, read_certificate
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
    assert read_certificate(export) == found
    found.require_passed(export)
    for row in found.rows:
        if row.precision == "float32":
            assert row.agreeing == row.utterances == 5
            assert row.outcome.errors == row.checkpoint.errors
            assert row.largest_difference is not None
            assert row.largest_difference < 1e-4


def test_every_file_and_context_is_tried(torchscript: Path, certified: Certify) -> None:
    tried = {(row.model, row.chunk_size, row.left_chunks) for row in certified(torchscript).rows}
    contexts = ((-1, -1), (16, 4))
    assert tried == {(m, *c) for m in ("final.zip", "final_quant.zip") for c in contexts}


@pytest.mark.parametrize("name", EXPORTERS)
def test_wrong_cmvn_is_caught(name: str, model: Path, tmp_path: Path, certified: Certify) -> None:
    plant_wrong_cmvn(model, tmp_path / "out", EXPORTERS[name])
    rows = certified(tmp_path / "out").rows
    assert all(any("other log-probabilities" in fault for fault in row.faults) for row in rows)


def test_swapped_units_are_caught(export: Path, certified: Certify) -> None:
    plant_swapped_units(export)
    assert "units.txt line 5: '二 4' where the checkpoint has '一'" in certified(export).faults


def test_wrong_left_chunks_are_caught(model: Path, torchscript: Path, certified: Certify) -> None:
    plant_wrong_left_chunks(model, torchscript)
    faults = {(row.model, row.chunk_size): row.faults for row in certified(torchscript).rows}
    assert faults["final.zip", 16] == ("behaves as in chunk 16, left 1",)
    assert faults["final_quant.zip", 16] == faults["final.zip", 16]
    assert faults["final.zip", -1] == ()


def test_broken_scale_is_caught(model: Path, torchscript: Path, certified: Certify) -> None:
    plant_broken_scale(model, torchscript, "encoder.encoders.0.feed_forward.w_1")
    found = certified(torchscript)
    faulty = {row.model for row in found.rows if row.faults}
    assert faulty == {"final_quant.zip"}
    assert "gives other log-probabilities than int8 made anew" in found.failures[0]
