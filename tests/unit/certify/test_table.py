"""What a person sees of a certificate."""

from dataclasses import replace

from rayasr.certify.table import remarks, table
from tests.sample_certificate import CERTIFICATE, ROW


def test_cells() -> None:
    titles, lines = table(CERTIFICATE)
    named = [dict(zip(titles, cells, strict=True)) for cells in lines]
    assert named[0]["context"] == "chunk 16, left all"
    assert named[0]["search"] == "rescoring *"
    assert named[0]["CER %"] == "1.00"
    assert named[1] == {
        "model": "final_quant.zip",
        "runtime": "torch.jit 2.13.0",
        "features": "rayasr",
        "context": "chunk 16, left 4",
        "search": "greedy",
        "CER %": "2.50",
        "errors": "5",
        "checkpoint": "1.00",
        "agree": "30 of 32",
        "MB": "3.4",
        "RTF": "0.0123",
        "verdict": "failed",
    }


def test_remarks_end_with_what_is_wrong_and_what_to_do() -> None:
    assert remarks(CERTIFICATE)[2:] == [
        "not tried: sherpa-onnx on model.onnx: other features",
        "FAILED: units.txt line 5 is wrong",
        "FAILED: final_quant.zip in torch.jit (chunk 16, left 4) loses 1.50 points",
        "export again",
    ]


def test_an_export_in_which_nothing_was_tried_does_not_pass() -> None:
    assert not replace(CERTIFICATE, rows=(), faults=()).passed
    assert replace(CERTIFICATE, rows=(replace(ROW, faults=()),), faults=()).passed
