"""`rayasr export`: what each format is given, what is printed, and options that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rayasr.certify import certify as certifying
from rayasr.cli.export import register
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.export import torchscript
from rayasr.export.info import ExportReport
from tests.sample_certificate import CERTIFICATE

REPORT = ExportReport("out", {"final.zip": 2_500_000}, {"final.zip": 2e-6})
ARGUMENTS = ["export", "run", "--int8", "--store", "store", "--out", "out"]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    def fake(run: Path, out: Path, **options: Any) -> ExportReport:
        assert (run, out) == (Path("run"), Path("out"))
        assert options in ({"int8": True, "store": Path("store")}, {})
        return REPORT

    monkeypatch.setattr(torchscript, "export_torchscript", fake)
    app = typer.Typer()
    app.callback()(lambda: None)  # keeps `export` a verb of its own
    register(app)
    return app


def test_files_and_difference(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ARGUMENTS)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "out/final.zip: 2.5 MB",
        "final.zip: log-probabilities within 2e-06 of the checkpoint",
        "not certified; next: rayasr certify out --corpus DIR",
    ]


def test_json(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [*ARGUMENTS, "--json"])
    assert json.loads(result.stdout) == REPORT.to_json()


def test_certificate_that_fails(
    app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(export: Path, corpus: Path, split: str, **options: Any) -> Any:
        assert (export, corpus, split) == (Path("out"), tmp_path, "test")
        assert options == {"max_loss": 0.3, "force": False}
        return CERTIFICATE

    monkeypatch.setattr(certifying, "certify", fake)
    arguments = ["export", "run", "--out", "out", "--certify", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert "out/final.zip: 2.5 MB" in result.stdout
    assert "FAILED: units.txt line 5 is wrong" in result.stdout
    assert isinstance(result.exception, CheckpointError)
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(result.stdout)["certificate"]["verdict"] == "failed"


def test_corpus_that_is_not_there(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [*ARGUMENTS, "--certify", "nowhere"])
    assert isinstance(result.exception, DataError)
    assert str(result.exception) == "--certify nowhere does not exist; name a corpus folder"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "tflite"], "--format tflite is unknown; there are: torchscript, onnx, wenet"),
        (
            ["--format", "wenet", "--int8"],
            "--int8 is not for --format wenet (but for torchscript and onnx); leave it out",
        ),
        (["--chunk-size", "8"], "--chunk-size is not for --format torchscript (but for onnx); lea"),
        (["--int8-skip", "ctc"], "--int8-skip says what stays out of int8; give --int8 too"),
    ],
)
def test_options_that_do_not_fit(app: typer.Typer, options: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", "run", "--out", "out", *options])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception).startswith(message)
