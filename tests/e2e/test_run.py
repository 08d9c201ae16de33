"""The main job on a corpus that a tiny recipe overfits: recordings in, an exported model out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.factories import make_tone_corpus

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
RECIPE = Path(__file__).parent / "tiny.yaml"


def rayasr(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; fails with what it printed where the exit code is another."""
    result = subprocess.run(
        [sys.executable, "-m", "rayasr", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"},
        timeout=500,
    )
    assert result.returncode == code, f"{arguments}: {result.returncode}\n{result.stderr[-4000:]}"
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tone_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, every stage, through a worker group."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    rayasr("run", RECIPE, "--corpus", corpus, "--out", out)
    return out


def test_a_tiny_recipe_learns_and_leaves_every_file(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    test = result["splits"]["test"]
    assert test[result["default_mode"]]["cer"] == 0.0
    assert set(test["attention_rescoring"]) >= {"errors", "reference_units", "sub", "del", "ins"}
    names = ("metrics.jsonl", "recipe.yaml", "checkpoints", "model/units.txt", "export/final.zip")
    assert all((run / name).exists() for name in names)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_a_second_run_skips_every_stage_and_says_why(run: Path, corpus: Path) -> None:
    elsewhere = os.path.relpath(corpus)  # the same folder under another name
    again = rayasr("run", RECIPE, "--corpus", elsewhere, "--out", run)
    assert again.stdout.count("said") == again.stdout.count("heard") == 3
    assert f"rayasr transcribe {run}" in again.stdout
    for stage in ("prepare", "train", "average", "decode", "export"):
        assert f"{stage}: skipped, done" in again.stderr


def test_transcribe_and_decode_agree_with_the_texts(run: Path, corpus: Path) -> None:
    wavs = sorted(corpus.glob("data_aishell/wav/test/*/*.wav"))[:2]
    transcript = next(corpus.glob("data_aishell/transcript/*.txt")).read_text()
    texts = dict(line.split(maxsplit=1) for line in transcript.splitlines())
    lines = rayasr("transcribe", run, *wavs, "--json").stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == [texts[wav.stem] for wav in wavs]


def test_a_new_test_recording_is_decoded_and_nothing_trained(run: Path, corpus: Path) -> None:
    text = "零一二"
    broken = corpus / "data_aishell/wav/test/S0764/BAC009S0764W0999.wav"
    broken.write_bytes(b"no recording")
    with next(corpus.glob("data_aishell/transcript/*.txt")).open("a", encoding="utf-8") as file:
        file.write(f"{broken.stem} {text}\n")
    before = (run / "model/model.safetensors").stat().st_mtime_ns
    again = rayasr("run", RECIPE, "--corpus", corpus, "--out", run)
    assert "train: skipped, done" in again.stderr
    assert "average: skipped, done" in again.stderr
    assert (run / "model/model.safetensors").stat().st_mtime_ns == before
    result = json.loads((run / "result.json").read_text())
    assert result["splits"]["test"][result["default_mode"]]["del"] == len(text)


def test_training_starts_over_only_where_it_is_asked_for(run: Path, corpus: Path) -> None:
    command = ("run", RECIPE, "--corpus", corpus, "--out", run, "--workers", "0")
    changes = ("--set", "optim.lr=0.004", "--set", "train.epochs=2")
    steps = len((run / "metrics.jsonl").read_text().splitlines())
    refused = rayasr(*command, *changes, code=5)
    assert "optim.lr 0.005 there, 0.004 here" in refused.stderr
    assert "--from train" in refused.stderr
    rayasr(*command, *changes, "--from", "train", "--until", "average")
    assert 0 < len((run / "metrics.jsonl").read_text().splitlines()) < steps
    assert not (run / "stages.json").read_text().count("decode")


def test_a_missing_corpus_is_one_sentence(tmp_path: Path) -> None:
    missing = rayasr(
        "run", RECIPE, "--corpus", tmp_path / "none", "--out", tmp_path / "run", code=3
    )
    assert str(tmp_path / "none") in missing.stderr
