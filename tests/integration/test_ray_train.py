"""Training under Ray: workers killed and stopped, resumed bit for bit; errors as sentences."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rayasr.checkpoint import Checkpoint, list_checkpoints
from rayasr.config import dump_recipe
from rayasr.errors import ConfigError
from rayasr.logs import read_metrics
from rayasr.ray_train import run_training
from tests.factories import make_store, make_tone_corpus, tiny_training_recipe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

RECIPE = tiny_training_recipe(
    train__epochs=25, checkpoint__every_steps=5, train__validate_every_epochs=25
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and the recipe."""
    folder = tmp_path_factory.mktemp("place")
    corpus = make_tone_corpus(folder / "corpus", train=60, dev=4, test=2)
    make_store(folder / "store", corpus, RECIPE)
    (folder / "recipe.yaml").write_text(dump_recipe(RECIPE))
    return folder


def start(place: Path, run: Path, workers: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rayasr", "train", str(place / "recipe.yaml")]
    command += ["--store", str(place / "store"), "--out", str(run), "--workers", str(workers)]
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "RAYASR_TEST": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [*command, *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], expected: int = 0) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == expected, output
    assert "Traceback" not in output
    return output


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint of that step or a later one is there."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        found = list_checkpoints(run)
        if found and found[-1].step >= step:
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(process.communicate()[0])


def kill(process: subprocess.Popen[str]) -> None:
    """As a machine that loses power: nobody is told."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def assert_same(a: Path, b: Path) -> None:
    left, right = list_checkpoints(a)[-1], list_checkpoints(b)[-1]
    assert left.step == right.step
    for read in (Checkpoint.model, Checkpoint.optimizer):
        x, y = read(left), read(right)
        assert [name for name in x if not torch.equal(x[name], y[name])] == []
    for run in (a, b):
        steps = [row["step"] for row in read_metrics(run) if "loss" in row]
        assert steps == list(range(1, left.step + 1))
    losses = [[row["loss"] for row in read_metrics(run) if "loss" in row] for run in (a, b)]
    assert losses[0] == losses[1]


def test_three_workers_stopped_and_killed_go_on_bit_for_bit(place: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(place, whole, 3))
    process = start(place, broken, 3)
    wait_for_step(broken, 5, process)
    process.send_signal(signal.SIGTERM)
    output = finish(process, expected=143)
    assert "stopping after a checkpoint" in output
    stopped_at = list_checkpoints(broken)[-1].step
    assert not (broken / "lease.json").exists()
    process = start(place, broken, 3)
    wait_for_step(broken, stopped_at + 10, process)
    kill(process)
    output = finish(start(place, broken, 3))
    assert "going on from" in output
    assert_same(whole, broken)
    assert (broken / "model" / "model.safetensors").exists()


def test_three_workers_interrupted_one_goes_on(place: Path, tmp_path: Path):
    """The same utterances in the same steps, losses within 1e-3."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(place, whole, 0))
    process = start(place, broken, 3)
    wait_for_step(broken, 20, process)
    process.send_signal(signal.SIGINT)
    finish(process, expected=130)
    finish(start(place, broken, 0))
    rows = zip(read_metrics(whole), read_metrics(broken), strict=True)
    for a, b in rows:
        assert a["step"] == b["step"]
        if "loss" in a:
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
            assert (a["padding"], a["audio_hours"]) == (b["padding"], b["audio_hours"])


def test_one_worker_in_this_process_killed_and_stopped(place: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    output = finish(start(place, whole, 0))
    assert "first step after" in output
    process = start(place, broken, 0)
    wait_for_step(broken, 5, process)
    kill(process)
    process = start(place, broken, 0)
    wait_for_step(broken, list_checkpoints(broken)[-1].step + 10, process)
    process.send_signal(signal.SIGTERM)
    finish(process, expected=143)
    finish(start(place, broken, 0))
    assert_same(whole, broken)


def test_ctrl_c_twice_leaves_at_once_and_resumable(place: Path, tmp_path: Path):
    process = start(place, tmp_path, 0)
    wait_for_step(tmp_path, 5, process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    finish(process, expected=130)
    output = finish(start(place, tmp_path, 0))
    assert "going on from" in output


def test_a_worker_that_dies_is_replaced(place: Path, tmp_path: Path):
    """Ray restarts the group, which goes on from the last checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(place, whole, 0))
    process = start(place, broken, 1)
    wait_for_step(broken, 10, process)
    for pid in children_named(process.pid, "RayTrainWorker"):
        os.kill(pid, signal.SIGKILL)
    output = finish(process)
    assert "going on from" in output
    assert_same(whole, broken)


def test_one_worker_of_two_that_dies_is_replaced(place: Path, tmp_path: Path):
    """The other one's error, of its lost peer, is not taken for a bug."""
    process = start(place, tmp_path, 2)
    wait_for_step(tmp_path, 10, process)
    os.kill(children_named(process.pid, "RayTrainWorker")[0], signal.SIGKILL)
    output = finish(process)
    assert "going on from" in output


def children_named(pid: int, name: str) -> list[int]:
    """Processes below `pid` whose title has a word; Ray's workers rename themselves."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes().decode(errors="replace")
            session = (folder / "stat").read_text().rpartition(")")[2].split()[3]
        except OSError:
            continue
        if name in title and session == str(pid):
            found.append(int(folder.name))
    return found


def test_errors_of_workers_are_one_sentence(place: Path, tmp_path: Path):
    process = start(
        place,
        tmp_path,
        2,
        "--set",
        "optim.lr=1e30",
        "--set",
        "optim.schedule=warmup",
        "--set",
        "train.max_nonfinite_steps=2",
    )
    output = finish(process, expected=4)
    assert "rayasr: the gradient was not finite in" in output.splitlines()[-1]


def test_a_bug_in_a_worker_ends_the_run_at_once_with_its_traceback(place: Path, tmp_path: Path):
    """Injected as a recipe that its checks would never let through."""
    program = """
import rayasr.config
from rayasr.cli.main import main

load = rayasr.config.load_recipe

def load_broken(*arguments):
    recipe = load(*arguments)
    optim = recipe.optim.model_copy(update={"betas": None})
    return recipe.model_copy(update={"optim": optim})

rayasr.config.load_recipe = load_broken
main()
"""
    options = ["--store", str(place / "store"), "--out", str(tmp_path), "--workers", "1"]
    outcome = subprocess.run(
        [sys.executable, "-c", program, "train", str(place / "recipe.yaml"), *options],
        capture_output=True,
        text=True,
        timeout=400,
        env={name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"},
    )
    assert outcome.returncode == 1, outcome.stderr
    assert "TypeError" in outcome.stderr
    assert "In the worker:" in outcome.stderr
    assert "build_optimizer" in outcome.stderr
    assert "going on from" not in outcome.stderr


def test_too_many_workers_are_refused_before_ray_starts(place: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"batch\.micro_batches to 5"):
        run_training(RECIPE, place / "store", tmp_path, workers=5)


def test_a_run_in_use_is_refused_and_a_dead_ones_lease_taken_over(place: Path, tmp_path: Path):
    process = start(place, tmp_path, 0)
    wait_for_step(tmp_path, 5, process)
    output = finish(start(place, tmp_path, 0), expected=2)
    assert f"is in use by process {process.pid}" in output
    kill(process)
    assert json.loads((tmp_path / "lease.json").read_text())["pid"] == process.pid
    finish(start(place, tmp_path, 0, "--dry-run"))
