"""`rayasr export`: what it prints, and an unknown format."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rayasr.cli.export import register
from rayasr.errors import ConfigError
from rayasr.export import torchscript
from rayasr.export.torchscript import ExportReport

REPORT = ExportReport("out", {"final.zip": 2_500_000, "final_quant.zip": 900_000}, 2e-6, {})


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    def fake(run: Path, out: Path, *, int8: bool, store: Path | None) -> ExportReport:
        assert (run, out, int8, store) == (Path("run"), Path("out"), True, Path("store"))
        return REPORT

    monkeypatch.setattr(torchscript, "export_torchscript", fake)
    app = typer.Typer()
    app.callback()(lambda: None)  # keeps `export` a verb of its own
    register(app)
    return app


ARGUMENTS = ["export", "run", "--int8", "--store", "store", "--out", "out"]


def test_files_and_difference(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ARGUMENTS)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "out/final.zip: 2.5 MB",
        "out/final_quant.zip: 0.9 MB",
        "out/units.txt; log-probabilities within 2e-06 of the checkpoint",
    ]


def test_json(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [*ARGUMENTS, "--json"])
    assert json.loads(result.stdout) == REPORT.to_json()


def test_unknown_format(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [*ARGUMENTS, "--format", "onnx"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--format onnx is unknown; there is: torchscript"
