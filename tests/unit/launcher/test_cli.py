"""The verb itself: dry run, exit code, unknown backends."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from launcher import local
from launcher.cli import register
from rayasr.errors import ConfigError

JOB = "name: job\ncommand: [score, a, b]\nrun: runs/x\ntime_limit: 1m\n"


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)  # keeps `launch` a verb of its own
    register(app)
    return app


@pytest.fixture
def job_file(tmp_path: Path) -> str:
    (tmp_path / "job.yaml").write_text(JOB)
    return str(tmp_path / "job.yaml")


def test_dry_run_starts_nothing(app: typer.Typer, job_file: str) -> None:
    result = CliRunner().invoke(app, ["launch", job_file, "--dry-run", "--set", "time_limit=2h"])
    assert result.exit_code == 0
    assert "command      rayasr score a b" in result.stdout
    assert "time limit   2h" in result.stdout


def test_exit_code_of_the_command(
    app: typer.Typer, job_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local.LocalBackend, "_run", lambda _self, _plan: 5)
    assert CliRunner().invoke(app, ["launch", job_file]).exit_code == 5


def test_unknown_backend(app: typer.Typer, job_file: str) -> None:
    result = CliRunner().invoke(app, ["launch", job_file, "--on", "moon"])
    assert isinstance(result.exception, ConfigError)
    assert str(result.exception) == "--on moon is unknown; there is: local"
