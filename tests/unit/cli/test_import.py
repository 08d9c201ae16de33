"""`rayasr import wenet`: a folder, or a train.yaml alone."""

from pathlib import Path

import typer
from typer.testing import CliRunner

from rayasr.checkpoint import load_model
from rayasr.cli.import_ import import_app
from rayasr.config import load_recipe
from rayasr.errors import CheckpointError
from tests.wenet_models import write_wenet

app = typer.Typer()
app.add_typer(import_app, name="import")


def test_a_folder_becomes_a_model(tmp_path: Path) -> None:
    source, out = write_wenet(tmp_path / "wenet"), tmp_path / "model"
    result = CliRunner().invoke(app, ["import", "wenet", str(source), "--out", str(out)])
    assert result.exit_code == 0
    assert f"rayasr transcribe {out}" in result.stdout
    assert load_model(out).recipe.name == "tiny"


def test_a_yaml_becomes_a_recipe(tmp_path: Path) -> None:
    source, out = write_wenet(tmp_path / "wenet"), tmp_path / "recipe.yaml"
    for path in (source, source / "train.yaml"):
        out.unlink(missing_ok=True)
        command = ["import", "wenet", str(path), "--recipe-only", "--out", str(out)]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0
        assert load_recipe(out).features.sample_rate == 8000


def test_what_is_missing_is_an_error_of_ours(tmp_path: Path) -> None:
    command = ["import", "wenet", str(tmp_path), "--out", str(tmp_path / "model")]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, CheckpointError)


def test_help_has_an_example_of_each() -> None:
    shown = CliRunner().invoke(app, ["import", "wenet", "--help"]).stdout
    assert "--recipe-only --out" in " ".join(shown.split())
