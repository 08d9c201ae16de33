"""The loop without Ray: interrupted and resumed bit for bit, limits, refusals, warnings."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rayasr.checkpoint import Checkpoint, list_checkpoints
from rayasr.errors import CheckpointError, ConfigError, DataError, TrainingError
from rayasr.logs import MetricsLog, read_metrics
from rayasr.train import milestones
from rayasr.train import step as step_module
from rayasr.train.loop import FitOptions, FitResult, fit
from rayasr.train.reporter import Reporter
from rayasr.train.world import World
from tests.factories import make_store, make_tone_corpus, tiny_training_recipe
from tests.training import fit_here

EVERY_STEP = ("loss", "loss_ctc", "loss_att", "lr", "grad_norm", "padding", "audio_hours")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    corpus = make_tone_corpus(folder / "corpus", train=40, dev=4, test=2)
    make_store(folder / "store", corpus, tiny_training_recipe())
    return folder / "store"


def train(store: Path, run: Path, *, stop_before: int | None = None, **changes) -> FitResult:
    """Fit a tiny recipe; stop at the step whose number is asked for."""
    return fit_here(tiny_training_recipe(**changes), store, run, stop_before=stop_before)


def newest(run: Path) -> Checkpoint:
    return list_checkpoints(run)[-1]


def assert_same_end(a: Path, b: Path) -> None:
    """Weights, moments and logged figures of two runs are equal, bit for bit."""
    for read in (Checkpoint.model, Checkpoint.optimizer):
        left, right = read(newest(a)), read(newest(b))
        assert left.keys() == right.keys()
        assert [name for name in left if not torch.equal(left[name], right[name])] == []
    keys = ("step", *EVERY_STEP, "dev_loss")
    logged = [[{key: row.get(key) for key in keys} for row in read_metrics(run)] for run in (a, b)]
    assert logged[0] == logged[1]


def test_an_interrupted_run_ends_as_an_unbroken_one(store: Path, tmp_path: Path):
    settings = {"train__log_every_steps": 2, "train__validate_every_steps": 4}
    whole = train(store, tmp_path / "whole", **settings)
    assert whole.finished
    assert whole.step == whole.total_steps > 6
    first = train(store, tmp_path / "broken", stop_before=3, **settings)
    assert (first.finished, first.reason, first.step) == (False, "stopped", 3)
    second = train(store, tmp_path / "broken", stop_before=2, **settings)
    assert second.step == 5
    assert train(store, tmp_path / "broken", **settings).finished
    assert_same_end(tmp_path / "whole", tmp_path / "broken")
    assert "going on from" in (tmp_path / "broken" / "messages.txt").read_text()


def test_a_full_disk_ends_training_with_a_sentence_and_its_checkpoint_thread(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class FullAtTheEnd(MetricsLog):
        def close(self) -> None:
            super().close()
            raise DataError("cannot write metrics.jsonl")

    monkeypatch.setattr(milestones, "MetricsLog", FullAtTheEnd)
    with pytest.raises(DataError, match=r"cannot write metrics.jsonl"):
        train(store, tmp_path, train__epochs=1)
    assert "checkpoints" not in {thread.name for thread in threading.enumerate()}


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(store: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(store, whole, checkpoint__every_steps=2)
    train(store, broken, checkpoint__every_steps=2, stop_before=5)
    newest(broken).path.joinpath("model.safetensors").write_bytes(b"cut off")
    train(store, broken, checkpoint__every_steps=2)
    assert "passed over" in (broken / "messages.txt").read_text()
    assert_same_end(whole, broken)
    steps = [row["step"] for row in read_metrics(broken) if "loss" in row]
    assert steps == list(range(1, len(steps) + 1))


def test_a_finished_run_has_nothing_to_do(store: Path, tmp_path: Path):
    train(store, tmp_path, train__epochs=1)
    before = newest(tmp_path).path.stat().st_mtime_ns
    assert train(store, tmp_path, train__epochs=1).finished
    assert newest(tmp_path).path.stat().st_mtime_ns == before


def test_another_recipe_is_refused_with_what_differs(store: Path, tmp_path: Path):
    train(store, tmp_path, train__epochs=1)
    with pytest.raises(CheckpointError, match=r"optim\.lr 0\.002 there, 0\.5 here"):
        train(store, tmp_path, train__epochs=1, optim__lr=0.5)
    with pytest.raises(CheckpointError, match=r"train\.epochs 1 there, 2 here"):
        train(store, tmp_path, train__epochs=2)


def test_another_store_is_refused_and_leaves_the_run_as_it_is(store: Path, tmp_path: Path):
    """With as many units as the first, so that its weights would fit."""
    run = tmp_path / "run"
    train(store, run, train__epochs=1)
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    corpus = make_tone_corpus(tmp_path / "corpus", train=40, dev=4, test=2, seed=1)
    make_store(tmp_path / "store", corpus, tiny_training_recipe())
    with pytest.raises(CheckpointError, match="on other data"):
        train(tmp_path / "store", run, train__epochs=1)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_more_epochs_may_follow_where_no_step_depends_on_them(store: Path, tmp_path: Path):
    settings = {"optim__schedule": "warmup", "optim__warmup_steps": 5}
    train(store, tmp_path, train__epochs=1, **settings)
    assert train(store, tmp_path, train__epochs=2, **settings).finished


def test_smaller_micro_batches_go_on_through_the_same_steps(store: Path, tmp_path: Path):
    """What the tutorial says to do when memory runs out."""
    whole, divided = tmp_path / "whole", tmp_path / "divided"
    train(store, whole, batch__frames_per_step=1800)
    auto = {"batch__max_padded_frames": "auto"}
    train(store, divided, batch__frames_per_step=1800, stop_before=3, **auto)
    train(store, divided, batch__frames_per_step=1800, batch__max_padded_frames=300)
    heard = [
        [(row["step"], row["audio_hours"]) for row in read_metrics(run) if "loss" in row]
        for run in (whole, divided)
    ]
    assert heard[0] == heard[1]


def test_the_time_limit_ends_with_a_validated_checkpoint(store: Path, tmp_path: Path):
    options = FitOptions(max_time_s=1e-9)
    reporter = Reporter(note=lambda _: None)
    recipe = tiny_training_recipe()
    world = World.single()
    result = fit(recipe, store, tmp_path, world=world, reporter=reporter, options=options)
    assert (result.finished, result.reason, result.step) == (False, "time", 1)
    assert newest(tmp_path).dev_loss == result.validation["dev_loss"]
    again = fit(recipe, store, tmp_path, world=world, reporter=reporter)
    assert again.finished


def test_dry_run_tells_the_cost_and_keeps_nothing(store: Path, tmp_path: Path):
    messages: list[str] = []
    result = fit(
        tiny_training_recipe(),
        store,
        tmp_path,
        world=World.single(),
        reporter=Reporter(note=messages.append),
        options=FitOptions(dry_run=True),
    )
    assert result.reason == "dry run"
    assert "parameters" in messages[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_needs_no_checkpoint(store: Path, tmp_path: Path):
    """With `--resume never` it stands beside another recipe's, which it may not remove."""
    train(store, tmp_path, train__epochs=1)
    other, options = tiny_training_recipe(optim__lr=0.5), FitOptions(dry_run=True)
    reporter = Reporter(note=lambda _: None)
    result = fit(other, store, tmp_path, world=World.single(), reporter=reporter, options=options)
    assert result.reason == "dry run"


def test_what_several_workers_cannot_do_is_refused(store: Path, tmp_path: Path):
    five = replace(World.single(), size=5)
    with pytest.raises(ConfigError, match=r"batch\.micro_batches to 5"):
        fit(tiny_training_recipe(), store, tmp_path, world=five)
    recipe = tiny_training_recipe()
    encoder = recipe.model.encoder.model_copy(update={"convolution_norm": "batch_norm"})
    model = recipe.model.model_copy(update={"encoder": encoder})
    with pytest.raises(ConfigError, match="layer_norm"):
        fit(
            recipe.model_copy(update={"model": model}),
            store,
            tmp_path,
            world=replace(five, size=2),
        )


@pytest.fixture
def broken_forward(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Make the losses of some updates (counted from 0) not a number."""
    forward = step_module.forward

    def install(updates: set[int]) -> None:
        def wrong(state, batch, config, loaded, extras):
            loss = forward(state, batch, config, loaded, extras)
            return loss * float("nan") if state.position.step in updates else loss

        monkeypatch.setattr(step_module, "forward", wrong)

    return install


def test_a_non_finite_gradient_skips_the_update(store: Path, tmp_path: Path, broken_forward):
    broken_forward({1, 2})
    assert train(store, tmp_path, train__epochs=2).finished
    rows = [row for row in read_metrics(tmp_path) if "loss" in row]
    assert [row["skipped"] for row in rows[:4]] == [0, 1, 1, 0]
    assert "not finite with BAC009" in (tmp_path / "messages.txt").read_text()
    assert newest(tmp_path).optimizer()["updates"].item() == len(rows) - 2
    assert all(torch.isfinite(value).all() for value in newest(tmp_path).model().values())


def test_many_non_finite_gradients_end_the_run(store: Path, tmp_path: Path, broken_forward):
    broken_forward({1, 2, 3})
    with pytest.raises(TrainingError, match=r"3 steps in a row.*BAC009"):
        train(store, tmp_path, train__max_nonfinite_steps=3)


def test_validation_draws_nothing_and_changes_nothing(store: Path, tmp_path: Path):
    train(store, tmp_path / "a")
    train(store, tmp_path / "b", train__validate_every_steps=1)
    left, right = newest(tmp_path / "a").model(), newest(tmp_path / "b").model()
    assert all(torch.equal(left[name], right[name]) for name in left)
    rows = [row for row in read_metrics(tmp_path / "b") if "dev_loss" in row]
    assert {"dev_cer", "dev_cer_chunk16", "dev_loss_chunk16"} <= rows[0].keys()


def test_a_dev_loss_that_is_not_finite_is_not_the_best_so_far(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    losses = iter([float("nan"), 2.0, float("inf")])
    monkeypatch.setattr(
        milestones, "validate", lambda *_: {"dev_loss": next(losses), "dev_empty": 0.0}
    )
    train(store, tmp_path, checkpoint__keep_last=9)
    found = list_checkpoints(tmp_path)
    assert [checkpoint.dev_loss for checkpoint in found] == [None, 2.0, None]
    assert newest(tmp_path).state["position"]["best_dev_loss"] == 2.0


def test_float64_trains_in_float64(store: Path, tmp_path: Path):
    train(store, tmp_path, train__epochs=1, train__precision="fp64")
    weights = newest(tmp_path).model()
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {
        torch.float64
    }
