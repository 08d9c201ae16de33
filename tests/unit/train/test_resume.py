"""Where a run goes on from: what is refused, and what may be removed on the way."""

from pathlib import Path

import pytest
import torch

from rayasr.checkpoint import Checkpoint, checkpoint_folders, list_checkpoints, save_checkpoint
from rayasr.config import CorpusConfig, Recipe, with_corpora
from rayasr.errors import CheckpointError
from rayasr.train.resume import prepare_resume
from tests.factories import tiny_training_recipe

RECIPE = tiny_training_recipe()
OTHER = tiny_training_recipe(optim__lr=0.5)

INPUTS = "0123456789abcdef"


def save(run: Path, step: int, recipe: Recipe = RECIPE, inputs: str = INPUTS) -> Checkpoint:
    state = {"step": step, "recipe": recipe.model_dump(mode="json"), "training_digest": inputs}
    return save_checkpoint(run, step, {"w": torch.full((2,), float(step))}, {}, state)


def make_run(run: Path, recipe: Recipe = RECIPE) -> Path:
    """A run of three checkpoints, with what else training leaves."""
    for step in (2, 4, 6):
        save(run, step, recipe)
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    (run / "tensorboard").mkdir()
    return run


def resume(run: Path, how: str | Path, recipe: Recipe = RECIPE, *, dry_run: bool = False) -> None:
    prepare_resume(recipe, INPUTS, run, str(how), lambda _: None, dry_run=dry_run)


def steps(run: Path) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(run)]


def names(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def test_never_starts_over(tmp_path: Path):
    resume(make_run(tmp_path), "never")
    assert list(tmp_path.iterdir()) == []


def test_a_path_in_the_run_goes_back_to_it(tmp_path: Path):
    run = make_run(tmp_path)
    resume(run, run / "checkpoints" / "step-00000004")
    assert steps(run) == [2, 4]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_path_elsewhere_replaces_the_runs_checkpoints(tmp_path: Path, prefix: str):
    place = save(tmp_path / "other", 4).path
    named = place.rename(place.with_name("good"))
    run = make_run(tmp_path / "run")
    resume(run, f"{prefix}{named}")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
    assert list_checkpoints(run)[0].model()["w"][0] == 4.0
    resume(tmp_path / "new", f"{prefix}{named}")
    assert steps(tmp_path / "new") == [4]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path):
    run = make_run(tmp_path / "run")
    for place in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(CheckpointError, match="is not a checkpoint"):
            resume(run, place)
    assert steps(run) == [2, 4, 6]


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_checkpoint_that_does_not_fit_costs_nothing(tmp_path: Path, prefix: str):
    run = make_run(tmp_path / "run")
    before = names(run)
    place = save(tmp_path / "other", 4, OTHER).path
    with pytest.raises(CheckpointError, match=r"other/checkpoints/step-00000004 was trained with"):
        resume(run, f"{prefix}{place}")
    (place / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="is damaged"):
        resume(run, f"{prefix}{place}", OTHER)
    assert names(run) == before


def test_a_dry_run_changes_nothing(tmp_path: Path):
    run = make_run(tmp_path / "run")
    place = save(tmp_path / "other", 4).path
    before = names(run)
    for how in ("auto", "never", place, f"file://{place}", run / "checkpoints" / "step-00000002"):
        resume(run, how, dry_run=True)
        assert names(run) == before
    for how in ("auto", place):
        with pytest.raises(CheckpointError, match="was trained with another recipe"):
            resume(run, how, OTHER, dry_run=True)


def test_a_dry_run_leaves_a_new_run_empty(tmp_path: Path):
    place = save(tmp_path / "other", 4).path
    for how in ("auto", "never", place, f"file://{place}"):
        resume(tmp_path / "run", how, dry_run=True)
    assert names(tmp_path / "run") == []


def test_a_dry_run_fetches_nothing(tmp_path: Path):
    save(tmp_path / "mirror", 2)
    mirrored = tiny_training_recipe(checkpoint__mirror=f"file://{tmp_path}/mirror")
    resume(tmp_path / "run", "auto", mirrored, dry_run=True)
    assert checkpoint_folders(tmp_path / "run") == []
    resume(tmp_path / "run", "auto", mirrored)
    assert steps(tmp_path / "run") == [2]


def test_other_data_is_refused_with_both_remedies(tmp_path: Path):
    run = make_run(tmp_path / "run")
    save(run, 8, inputs="another")
    place = save(tmp_path / "other", 4, inputs="another").path
    for how in ("auto", place):
        with pytest.raises(CheckpointError, match="on other data") as refused:
            resume(run, how)
        assert "`rayasr run --from train`" in str(refused.value)
        assert "`rayasr train --resume never`" in str(refused.value)
    assert steps(run) == [2, 4, 6, 8]
    resume(run, "never")
    assert steps(run) == []


def test_a_checkpoint_from_before_the_digest_may_go_on(tmp_path: Path):
    state = {"step": 2, "recipe": RECIPE.model_dump(mode="json")}
    save_checkpoint(tmp_path, 2, {"w": torch.ones(2)}, {}, state)
    resume(tmp_path, "auto")


def test_the_recipe_may_name_its_corpora_or_not(tmp_path: Path):
    """`rayasr run --corpus` names them, `rayasr train` need not."""
    named = with_corpora(RECIPE, [tmp_path])
    weighted = RECIPE.model_copy(update={"corpora": (CorpusConfig(path="a", weight=2.0),)})
    for trained, now in ((named, RECIPE), (RECIPE, named)):
        run = make_run(tmp_path / trained.digest(), trained)
        resume(run, "auto", now)
        with pytest.raises(CheckpointError, match=r"corpora\.weight \[\] there, \[2.0\] here"):
            resume(run, "auto", weighted)


def test_the_bounds_may_change_where_they_do_not_make_the_step(tmp_path: Path):
    smaller = {"max_padded_frames": 300, "max_utterances": 3, "max_padded_units": 50}
    for frames_per_step, refused in ((1800, False), (None, True)):
        before, after = (
            tiny_training_recipe(batch__frames_per_step=frames_per_step, **changes)
            for changes in ({}, {f"batch__{key}": value for key, value in smaller.items()})
        )
        run = make_run(tmp_path / str(frames_per_step), before)
        if refused:
            with pytest.raises(CheckpointError, match=r"max_padded_frames 450 there, 300 here"):
                resume(run, "auto", after)
        else:
            resume(run, "auto", after)
