"""rayasr/pipeline.py: which stages run, why, and what they are told."""

import json
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rayasr import pipeline, ray_data, storage
from rayasr.checkpoint import list_checkpoints, save_checkpoint
from rayasr.cli.run import _print_result
from rayasr.config import Recipe, with_corpora
from rayasr.data.extraction import ExtractionSettings, make_shard
from rayasr.data.store import Store
from rayasr.errors import CheckpointError, ConfigError
from rayasr.pipeline import RunOptions
from rayasr.train.init_from import InitFrom
from tests.factories import make_aishell_corpus, tiny_training_recipe, write_wav


class Stages:
    """Stands for the stages: the store is made in this process, of the others only their files."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.ran: list[str] = []
        self.fails: set[str] = set()

    def runner(self, stage: str, real: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def run(work: Any) -> bool:
            self.ran.append(f"{stage} anew" if work.anew and stage != "export" else stage)
            if stage in self.fails:
                raise KeyboardInterrupt
            if stage == "prepare":
                return real(work)
            if stage == "train":
                digest = Store.open(self.out / "store").training_digest
                state = {
                    "step": 1,
                    "recipe": work.recipe.model_dump(mode="json"),
                    "training_digest": digest,
                }
                if (start := work.options.init_from) is not None:
                    state["init_from"] = start.to_json() | {"statistics": {}}
                save_checkpoint(self.out, 1, {"w": torch.zeros(1)}, {}, state)
                return True
            result = self.out / pipeline.RESULT_OF_STAGE[stage]
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text("{}")
            return True

        return run

    def names(self) -> list[str]:
        ran, self.ran = self.ran, []
        return ran


@pytest.fixture
def options(tmp_path: Path) -> RunOptions:
    return RunOptions(out=tmp_path / "run", workers=0)


@pytest.fixture
def stages(options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> Stages:
    @contextmanager
    def no_ray() -> Iterator[dict[str, int]]:
        yield {"nodes": 1}

    def extract(pending: Any, settings: bytes, _notes: Any) -> None:
        for spec in pending:
            make_shard(spec, ExtractionSettings(**pickle.loads(settings)))

    monkeypatch.setattr(ray_data, "connect", no_ray)
    monkeypatch.setattr(ray_data, "_extract", extract)
    fakes = Stages(options.out)
    for stage, real in dict(pipeline._RUNNERS).items():
        monkeypatch.setitem(pipeline._RUNNERS, stage, fakes.runner(stage, real))
    return fakes


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_aishell_corpus(tmp_path / "corpus", train=6, dev=2, test=2, rate=8000)


@pytest.fixture
def recipe(corpus: Path) -> Recipe:
    return with_corpora(tiny_training_recipe(), [corpus])


def add_recording(corpus: Path, split: str) -> None:
    speaker = {"train": "S0002", "test": "S0764"}[split]
    wav = corpus / "data_aishell" / "wav" / split / speaker / f"BAC009{speaker}W0999.wav"
    write_wav(wav, 1.0, 8000, seed=9)
    with next(corpus.rglob("*transcript*.txt")).open("a", encoding="utf-8") as file:
        file.write(f"{wav.stem} 一二\n")


def test_all_is_done_once_however_the_corpus_is_called(
    recipe: Recipe,
    options: RunOptions,
    stages: Stages,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipeline.run(recipe, options)
    assert stages.names() == list(pipeline.STAGES)
    monkeypatch.chdir(corpus.parent)
    for path in (corpus, Path("corpus"), corpus.parent / "run" / ".." / "corpus"):
        pipeline.run(with_corpora(recipe, [path]), options)
        assert stages.names() == []
    assert capsys.readouterr().err.count("prepare: skipped, done") == 3


def test_new_training_recordings_are_trained_on_from_the_start(
    recipe: Recipe, options: RunOptions, stages: Stages, corpus: Path
) -> None:
    pipeline.run(recipe, options)
    add_recording(corpus, "train")
    before = (options.out / "stages.json").read_bytes()
    planned = {item.stage: item.reason for item in pipeline.plan_stages(recipe, options)}
    assert planned["train"] == "the training data have changed, starts over"
    assert (options.out / "stages.json").read_bytes() == before
    stages.names()
    pipeline.run(recipe, options)
    assert stages.names() == ["prepare", "train anew", "average", "decode", "export"]
    assert json.loads((options.out / "store" / "store.json").read_text())["utterances"] == 11


def test_new_test_recordings_are_decoded_without_training(
    recipe: Recipe, options: RunOptions, stages: Stages, corpus: Path
) -> None:
    pipeline.run(recipe, options)
    add_recording(corpus, "test")
    stages.names()
    pipeline.run(recipe, options)
    assert stages.names() == ["prepare", "decode", "export"]


def test_a_damaged_store_is_mended_without_training(
    recipe: Recipe, options: RunOptions, stages: Stages
) -> None:
    pipeline.run(recipe, options)
    (options.out / "store" / "index.parquet").unlink()
    stages.names()
    pipeline.run(recipe, options)
    assert stages.names() == ["prepare", "decode", "export"]


def test_from_does_stages_anew(recipe: Recipe, options: RunOptions, stages: Stages) -> None:
    pipeline.run(recipe, options)
    shard = next((options.out / "store" / "shards").iterdir())
    shard.touch()
    old = shard.stat().st_mtime_ns
    stages.names()
    pipeline.run(recipe, replace(options, first="train"))
    assert stages.names() == ["train anew", "average anew", "decode anew", "export"]
    assert shard.stat().st_mtime_ns == old
    pipeline.run(recipe, replace(options, first="prepare"))
    assert stages.names()[:2] == ["prepare anew", "train anew"]
    assert shard.stat().st_mtime_ns != old
    pipeline.run(recipe, options)
    assert stages.names() == []


def test_a_stopped_stage_goes_on(recipe: Recipe, options: RunOptions, stages: Stages) -> None:
    pipeline.run(recipe, options)
    for stage in ("train", "decode"):
        stages.names()
        stages.fails = {stage}
        with pytest.raises(KeyboardInterrupt):
            pipeline.run(recipe, replace(options, first=stage))
        stages.fails = set()
        stages.names()
        planned = pipeline.plan_stages(recipe, options)
        assert next(i for i in planned if i.stage == stage).reason.startswith("stopped before")
        pipeline.run(recipe, options)
        assert stages.names() == list(pipeline.STAGES[pipeline.STAGES.index(stage) :])


@pytest.mark.parametrize(
    "change", [{"optim__lr": 0.1}, {"text__case": "upper"}, {"store__max_seconds": 9.0}]
)
def test_other_settings_are_refused_before_anything_is_replaced(
    recipe: Recipe, options: RunOptions, stages: Stages, change: dict[str, Any]
) -> None:
    pipeline.run(recipe, options)
    stages.names()
    other = tiny_training_recipe(**change).model_copy(update={"corpora": recipe.corpora})
    with pytest.raises(CheckpointError, match=r"--from train"):
        pipeline.run(other, options)
    assert stages.names() == []
    pipeline.run(other, replace(options, first="train"))
    assert "train anew" in stages.names()


def test_a_setting_that_moves_no_step_goes_on(
    recipe: Recipe, options: RunOptions, stages: Stages
) -> None:
    pipeline.run(recipe, options)
    stages.names()
    other = tiny_training_recipe(train__log_every_steps=5)
    pipeline.run(other.model_copy(update={"corpora": recipe.corpora}), options)
    assert stages.names() == ["train", "average", "decode", "export"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last": "foo"}, "unknown stage 'foo'; the stages are prepare, train"),
        ({"first": "foo"}, "unknown stage 'foo'"),
        ({"first": "decode", "last": "train"}, "--from decode comes after --until train"),
        ({"workers": 5}, "5 workers share 4 micro-batch"),
        ({"workers": (1, 6)}, "6 workers share 4 micro-batch"),
        ({"devices": "gpu"}, "--devices 'gpu' is not one of auto, cpu, cuda"),
    ],
)
def test_wrong_options_are_noticed_first(
    recipe: Recipe, options: RunOptions, stages: Stages, changes: dict[str, Any], message: str
) -> None:
    for act in (pipeline.run, pipeline.plan_stages):
        with pytest.raises(ConfigError, match=message):
            act(recipe, replace(options, **changes))
    assert stages.names() == []
    assert not options.out.exists()


def test_what_other_commands_change_is_done_again(
    recipe: Recipe, options: RunOptions, stages: Stages
) -> None:
    pipeline.forget(options.out, "train")  # nothing there
    assert not options.out.exists()
    pipeline.run(recipe, options)
    for stage in ("average", "train"):
        stages.names()
        pipeline.forget(options.out, stage)
        pipeline.run(recipe, options)
        assert stages.names() == list(pipeline.STAGES[pipeline.STAGES.index(stage) :])


def test_until_leaves_an_old_result_unsaid(
    recipe: Recipe, options: RunOptions, stages: Stages
) -> None:
    pipeline.run(recipe, options)
    (options.out / "result.json").write_text('{"old": 1}')
    assert pipeline.run(recipe, options) == {"old": 1}
    assert pipeline.run(recipe, replace(options, last="average")) == {}
    assert stages.names() == list(pipeline.STAGES)


def test_a_run_without_a_split_to_decode_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _print_result({"default_mode": "ctc_greedy_search", "splits": {}}, tmp_path)
    out = capsys.readouterr().out
    assert "nothing was decoded" in out
    assert f"rayasr transcribe {tmp_path}" in out


def test_another_run_in_the_same_folder_is_refused(
    recipe: Recipe, options: RunOptions, stages: Stages
) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    owner = storage._this_process()  # a living one: this process's parent
    parent = os.getppid()
    owner |= {"pid": parent, "process_start": storage._process_start(parent)}
    storage.write_json(options.out / "lease.json", owner | {"heartbeat": 0.0})
    with pytest.raises(ConfigError, match=f"is in use by process {parent}"):
        pipeline.run(recipe, options)
    assert stages.ran == []


def test_a_run_remembers_what_it_started_from(
    recipe: Recipe, options: RunOptions, stages: Stages, corpus: Path
) -> None:
    start = InitFrom("model", "0123456789abcdef", ("encoder",))
    tuned = replace(options, init_from=start)
    pipeline.run(recipe, tuned)
    assert stages.names() == ["prepare", "train", "average", "decode", "export"]
    pipeline.run(recipe, options)
    assert stages.names() == []
    for other in (replace(start, digest="0" * 16), replace(start, freeze=())):
        with pytest.raises(CheckpointError, match="was started from model"):
            pipeline.run(recipe, replace(options, init_from=other))
    pipeline.run(recipe, replace(tuned, init_from=replace(other, cmvn="store"), first="train"))
    assert stages.names() == ["train anew", "average anew", "decode anew", "export"]
    add_recording(corpus, "train")
    pipeline.run(recipe, options)
    assert stages.names() == ["prepare", "train anew", "average", "decode", "export"]
    assert list_checkpoints(options.out)[-1].state["init_from"]["cmvn"] == "store"


def test_every_stage_runs_under_the_lease(
    recipe: Recipe, options: RunOptions, stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(work: pipeline._Work) -> bool:
        assert storage.read_json(options.out / "lease.json")["pid"] == os.getpid()
        return runner(work)

    runner = pipeline._RUNNERS["decode"]
    monkeypatch.setitem(pipeline._RUNNERS, "decode", decode)
    pipeline.run(recipe, options)
    assert "decode" in stages.ran
    assert not (options.out / "lease.json").exists()
