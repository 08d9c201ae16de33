"""`rayasr certify`: what it prints, and how it ends."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rayasr.certify import certify as certifying
from rayasr.certify.certificate import write_certificate
from rayasr.cli.certify import register
from rayasr.errors import CheckpointError
from tests.sample_certificate import CERTIFICATE, ROW

PASSED = replace(CERTIFICATE, rows=(replace(ROW, faults=()),), faults=(), refused=(), advice="")


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # keeps `certify` a verb of its own
    register(app)
    return app


def test_options_and_columns(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(export: Path, corpus: Path, split: str, **options: Any) -> Any:
        assert (export, corpus, split) == (Path("out"), Path("data"), "dev")
        assert options == {"max_loss": 0.5, "model": Path("run"), "force": True}
        return PASSED

    monkeypatch.setattr(certifying, "certify", fake)
    arguments = ["--corpus", "data", "--split", "dev", "--max-loss", "0.5", "--model", "run"]
    result = CliRunner().invoke(app, ["certify", "out", *arguments, "--force"])
    assert result.exit_code == 0
    titles, checkpoint, row, *_ = result.stdout.splitlines()
    assert titles.split()[:3] == ["model", "runtime", "features"]
    assert checkpoint.startswith("checkpoint       rayasr            rayasr    chunk 16, left all")
    assert row.endswith("30 of 32  3.4  0.0123  passed")


def test_the_certificate_that_is_there(app: typer.Typer, tmp_path: Path) -> None:
    write_certificate(tmp_path, PASSED)
    result = CliRunner().invoke(app, ["certify", str(tmp_path), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(PASSED.to_json()))


def test_a_failure_is_shown_and_ends_the_command(app: typer.Typer, tmp_path: Path) -> None:
    write_certificate(tmp_path, CERTIFICATE)
    result = CliRunner().invoke(app, ["certify", str(tmp_path)])
    assert "FAILED: units.txt line 5 is wrong" in result.stdout
    assert isinstance(result.exception, CheckpointError)
    assert str(result.exception) == (
        f"{tmp_path} failed its certificate: units.txt line 5 is wrong and 1 more; export again"
    )
