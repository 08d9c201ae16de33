"""Checkpoints are whole or not there; model folders stand alone."""

import json
from pathlib import Path

import pytest
import torch

from rayasr import storage
from rayasr.average import average_checkpoints, average_weights, best_checkpoints
from rayasr.checkpoint import (
    Checkpoint,
    checkpoint_folders,
    choose_device,
    default_decoding,
    latest_checkpoint,
    list_checkpoints,
    load_model,
    load_weights,
    open_checkpoint,
    save_checkpoint,
    save_decoding,
    save_model,
)
from rayasr.config import dump_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.model.u2 import build_model
from rayasr.tokenizer import Tokenizer
from rayasr.train.checkpoint_writer import CheckpointWriter, fetch_from_mirror
from tests.factories import tiny_training_recipe

UNITS = ("<blank>", "<unk>", "<sos/eos>", "零", "一")


def save(run: Path, step: int, dev_loss: float | None = None, value: float = 0.0) -> Checkpoint:
    validation = None if dev_loss is None else {"dev_loss": dev_loss}
    weights = {"w": torch.full((2, 3), value), "count": torch.tensor(step)}
    state = {"step": step, "validation": validation}
    return save_checkpoint(run, step, weights, {"exp_avg.w": torch.ones(2, 3)}, state)


def ignore(_message: str) -> None:
    pass


def test_round_trip(tmp_path: Path):
    save(tmp_path, 7, dev_loss=1.5, value=0.25)
    found = open_checkpoint(tmp_path / "checkpoints" / "step-00000007")
    assert (found.step, found.dev_loss) == (7, 1.5)
    assert torch.equal(found.model()["w"], torch.full((2, 3), 0.25))
    assert found.optimizer().keys() == {"exp_avg.w"}
    assert [path.name for path in found.path.parent.iterdir()] == ["step-00000007"]


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    save(tmp_path, 7, value=1.0)
    save(tmp_path, 7, value=2.0)
    assert list_checkpoints(tmp_path)[0].model()["w"][0, 0] == 2.0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000007"]


def test_saving_a_step_again_never_loses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(tmp_path, 7, value=1.0)
    rename = Path.replace

    def fail(path: Path, target: Path) -> Path:
        if path.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DataError, match="step-00000007"):
        save(tmp_path, 7, value=2.0)
    assert list_checkpoints(tmp_path)[0].model()["w"][0, 0] == 1.0
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000007"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damage_is_found(tmp_path: Path, name: str):
    path = save(tmp_path, 3).path
    content = bytearray((path / name).read_bytes())
    content[-1] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="wrong hash"):
        open_checkpoint(path)
    (path / name).write_bytes(content[:-3])
    with pytest.raises(CheckpointError, match="is damaged"):
        open_checkpoint(path, verify=False)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"model.safetensors": 3}'])
def test_a_damaged_manifest_is_one_sentence(tmp_path: Path, manifest: str):
    path = save(tmp_path, 3).path
    (path / "manifest.json").write_text(manifest)
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


def test_without_a_manifest_it_is_no_checkpoint(tmp_path: Path):
    save(tmp_path, 3)
    path = save(tmp_path, 5).path
    (path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        open_checkpoint(path)
    said: list[str] = []
    latest = latest_checkpoint(tmp_path, said.append)
    assert latest is not None
    assert latest.step == 3
    assert "step-00000005" in said[0]


def test_a_read_only_folder_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DataError, match="choose another output folder"):
        save(tmp_path, 1)


def test_a_full_disk_is_one_sentence(tmp_path: Path):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    partial = tmp_path / "checkpoints" / ".step-00000001.partial"
    partial.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rayasr.checkpoint.save_file", lambda _t, _p: full.write_bytes(b"x" * 9999))
        with pytest.raises(DataError, match="no space left"):
            save(tmp_path, 1)
    assert list_checkpoints(tmp_path) == []
    assert not partial.exists()


def test_the_writer_keeps_the_last_and_the_best(tmp_path: Path):
    writer = CheckpointWriter(tmp_path, keep_last=2, keep_best=2, mirror=None, notes=ignore)
    for step, loss in enumerate((5.0, 1.0, 4.0, 2.0, 3.0, None, 6.0), start=1):
        validation = None if loss is None else {"dev_loss": loss}
        writer.submit(step, {"w": torch.ones(1)}, {}, {"step": step, "validation": validation})
    writer.close()
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 4, 6, 7]


def test_the_writers_errors_surface(tmp_path: Path):
    (tmp_path / "checkpoints").write_text("in the way")
    writer = CheckpointWriter(tmp_path, keep_last=1, keep_best=0, mirror=None, notes=ignore)
    writer.submit(1, {"w": torch.ones(1)}, {}, {"step": 1})
    with pytest.raises(DataError, match="checkpoints"):
        writer.close()


def test_a_mirror_gets_what_is_kept_and_gives_it_back(tmp_path: Path):
    mirror = f"file://{tmp_path}/mirror"
    run = tmp_path / "run"
    writer = CheckpointWriter(run, keep_last=1, keep_best=0, mirror=mirror, notes=ignore)
    for step in (1, 2):
        writer.submit(step, {"w": torch.ones(1)}, {}, {"step": step})
    writer.close()
    names = [path.name for path in (tmp_path / "mirror" / "checkpoints").iterdir()]
    assert names == ["step-00000002"]
    fetched = fetch_from_mirror(mirror, tmp_path / "new", ignore)
    assert fetched is not None
    assert fetched.step == 2
    assert fetch_from_mirror(f"file://{tmp_path}/nothing", tmp_path / "new", ignore) is None


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A mirror with one checkpoint, of step 2."""
    return save(tmp_path / "mirror", 2, value=2.0).path.parents[1]


def test_an_interrupted_fetch_is_begun_again(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, copied = tmp_path / "run", 0
    copy = storage.copy_file

    def cut_off(source: str, target: Path) -> None:
        nonlocal copied
        copied += 1
        if copied == 2:
            raise KeyboardInterrupt
        copy(source, target)

    monkeypatch.setattr(storage, "copy_file", cut_off)
    with pytest.raises(KeyboardInterrupt):
        fetch_from_mirror(f"file://{mirror}", run, ignore)
    assert checkpoint_folders(run) == []  # so that the next start fetches again
    fetched = fetch_from_mirror(f"file://{mirror}", run, ignore)
    assert fetched is not None
    assert open_checkpoint(fetched.path).model()["w"][0, 0] == 2.0
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_damaged_copy_is_said_by_where_it_came_from(mirror: Path, tmp_path: Path):
    place = mirror / "checkpoints" / "step-00000002"
    (place / "state.json").write_text('{"step": 9}')
    with pytest.raises(CheckpointError, match=r"mirror/.*step-00000002/state\.json is"):
        fetch_from_mirror(f"file://{mirror}", tmp_path / "run", ignore)
    assert list((tmp_path / "run").iterdir()) == []


def make_run(folder: Path) -> Path:
    """A run of three validated checkpoints of a tiny model, without training it."""
    recipe = tiny_training_recipe()
    folder.mkdir()
    Tokenizer(UNITS).save(folder)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    cmvn = CmvnStats.zeros(20).add(torch.randn(50, 20).numpy())
    (folder / "cmvn.json").write_text(json.dumps(cmvn.to_json()))
    for step, loss in ((10, 2.0), (20, 1.0), (30, 3.0)):
        torch.manual_seed(step)
        model = build_model(recipe.model, num_mel_bins=20, vocab_size=5, sos_eos_id=2)
        state = {"step": step, "validation": {"dev_loss": loss}, "num_parameters": 1}
        save_checkpoint(folder, step, model.state_dict(), {}, state)
    return folder


def test_the_best_are_averaged_into_a_model_folder(tmp_path: Path):
    run = make_run(tmp_path / "run")
    assert [checkpoint.step for checkpoint in best_checkpoints(run, 2)] == [20, 10]
    said: list[str] = []
    folder = average_checkpoints(run, 2, said.append)
    assert said == [
        "model of 2 checkpoint(s): step 20 (dev loss 1.0000), step 10 (dev loss 2.0000)"
    ]
    loaded = load_model(run)
    assert loaded.path == folder
    a, b = (checkpoint.model() for checkpoint in best_checkpoints(run, 2))
    name = "ctc.ctc_lo.weight"
    assert torch.allclose(loaded.model.state_dict()[name], (a[name] + b[name]) / 2)
    assert not loaded.model.training
    assert loaded.decoding["default_mode"] == "ctc_greedy_search"
    assert "step 20" in (folder / "README.md").read_text()
    average_checkpoints(run, 9, said.append)
    assert "3 checkpoint(s) (9 asked for)" in said[-1]


def test_without_a_validation_the_newest_are_averaged(tmp_path: Path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert [checkpoint.step for checkpoint in best_checkpoints(tmp_path, 2)] == [3, 2]


def test_a_loss_that_is_not_finite_is_never_the_best(tmp_path: Path):
    for step, loss in ((1, 2.0), (2, float("nan")), (3, 1.0), (4, float("inf"))):
        save(tmp_path, step, dev_loss=loss)
    assert [checkpoint.step for checkpoint in best_checkpoints(tmp_path, 4)] == [3, 1]


def test_averages_are_exact_means(tmp_path: Path):
    averaged = average_weights([save(tmp_path, step, value=float(step)) for step in (1, 2, 6)])
    assert torch.equal(averaged["w"], torch.full((2, 3), 3.0))
    assert averaged["count"].item() == 1


def test_an_empty_run_cannot_be_averaged(tmp_path: Path):
    with pytest.raises(CheckpointError, match="train it first"):
        average_checkpoints(tmp_path)


def test_a_model_folder_stands_alone_and_keeps_its_decoding(tmp_path: Path):
    run = make_run(tmp_path / "run")
    moved = average_checkpoints(run, 1, ignore).rename(tmp_path / "elsewhere")
    save_decoding(moved, default_decoding(tiny_training_recipe()) | {"ctc_weight": 0.1})
    assert load_model(moved).decoding["ctc_weight"] == 0.1


def test_what_is_no_model_is_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match="neither a run nor a model folder"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="rayasr average"):
        load_model(make_run(tmp_path / "run"))


def test_a_damaged_model_is_said(tmp_path: Path):
    folder = average_checkpoints(make_run(tmp_path / "run"), 1, ignore)
    (folder / "model.safetensors").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_model(folder)


def test_weights_that_do_not_fit_are_named():
    recipe = tiny_training_recipe()
    model = build_model(recipe.model, num_mel_bins=20, vocab_size=5, sos_eos_id=2)
    weights = dict(model.state_dict())
    weights["extra"] = weights.pop("ctc.ctc_lo.bias")
    with pytest.raises(CheckpointError, match=r"lacks ctc\.ctc_lo\.bias"):
        load_weights(model, weights, "here")
    wrong = dict(model.state_dict()) | {"ctc.ctc_lo.bias": torch.zeros(7)}
    with pytest.raises(CheckpointError, match=r"other shapes: ctc\.ctc_lo\.bias"):
        load_weights(model, wrong, "here")


def test_half_written_models_do_not_count(tmp_path: Path):
    run = make_run(tmp_path / "run")
    folder = average_checkpoints(run, 1, ignore)
    loaded = load_model(run)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load_model(folder)
    weights = loaded.model.state_dict()
    save_model(folder, weights, loaded.recipe, loaded.tokenizer, loaded.cmvn)
    assert load_model(folder).tokenizer == loaded.tokenizer


def test_devices_are_chosen_here_or_for_a_cluster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (choose_device("auto"), choose_device("auto", gpus=2)) == ("cpu", "cuda")
    assert choose_device("cpu", gpus=2) == "cpu"
    for devices, gpus, message in (
        ("cuda", None, "torch sees no GPU here"),
        ("cuda", 0, "Ray sees no GPU"),
        ("gpu", 2, "not one of auto, cpu, cuda"),
    ):
        with pytest.raises(ConfigError, match=message):
            choose_device(devices, gpus)
