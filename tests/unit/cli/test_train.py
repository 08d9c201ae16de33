"""`rayasr train` and `rayasr average`: what they leave for `rayasr run` to do again."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rayasr.cli import train
from rayasr.config import dump_recipe
from rayasr.errors import RayasrError
from rayasr.pipeline import STAGES
from rayasr.train.init_from import InitFrom
from rayasr.train.loop import FitResult
from tests.factories import tiny_training_recipe

app = typer.Typer()
train.register(app)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run with every stage done, and commands that train and average nothing."""

    def trained(*_: Any, **__: Any) -> FitResult:
        return FitResult(True, "finished", 1, 1, 1.0)

    monkeypatch.setattr("rayasr.average.average_checkpoints", lambda run, _best: run)
    monkeypatch.setattr("rayasr.ray_train.run_training", trained)
    (tmp_path / "stages.json").write_text(json.dumps({stage: {} for stage in STAGES}))
    return tmp_path


def done(run: Path) -> list[str]:
    return list(json.loads((run / "stages.json").read_text()))


def test_average_has_the_later_stages_done_again(run: Path) -> None:
    result = CliRunner().invoke(app, ["average", str(run), "--best", "3"])
    assert result.exit_code == 0
    assert done(run) == ["prepare", "train"]


@pytest.mark.parametrize("dry_run", [False, True])
def test_train_has_all_after_the_store_done_again(run: Path, dry_run: bool) -> None:
    recipe = run / "r.yaml"
    recipe.write_text(dump_recipe(tiny_training_recipe()))
    options = ["--dry-run"] if dry_run else []
    command = ["train", str(recipe), "--store", "s", "--out", str(run), *options]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert done(run) == (list(STAGES) if dry_run else ["prepare"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--freeze", "encoder"], "--freeze needs --init-from MODEL"),
        (["--cmvn", "store"], "--cmvn needs --init-from MODEL"),
        (["--init-from", "nowhere"], "nowhere is neither a run nor a model folder"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_anything_else(
    run: Path, options: list[str], message: str
) -> None:
    recipe = run / "r.yaml"
    recipe.write_text(dump_recipe(tiny_training_recipe()))
    command = ["train", str(recipe), "--store", "s", "--out", str(run), *options]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, RayasrError)
    assert message in str(result.exception)
    assert done(run) == list(STAGES)


def test_a_start_goes_to_the_training(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_training_recipe()
    start = InitFrom("model", "0123", ("encoder.embed", "ctc"), "store")
    asked: list[Any] = []

    def prepared(*arguments: Any) -> InitFrom:
        asked.extend(arguments)
        return start

    def trained(*_: Any, **options: Any) -> FitResult:
        asked.append(options["init_from"])
        return FitResult(True, "finished", 1, 1, 1.0)

    monkeypatch.setattr("rayasr.train.init_from.prepare_init", prepared)
    monkeypatch.setattr("rayasr.ray_train.run_training", trained)
    recipe = run / "r.yaml"
    recipe.write_text(dump_recipe(settings))
    command = ["train", str(recipe), "--store", "s", "--out", str(run), "--init-from", "model"]
    command += ["--freeze", "encoder.embed,ctc", "--cmvn", "store"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert asked == [settings, Path("model"), ["encoder.embed", "ctc"], "store", start]
