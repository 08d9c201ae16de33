"""`rayasr transcribe`: what it prints, and its exit codes."""

import json

import pytest
import typer
from typer.testing import CliRunner

from rayasr.cli import decode, transcribe
from rayasr.config import DECODE_MODES
from rayasr.errors import ConfigError
from tests.factories import write_lines, write_wav

app = typer.Typer()
decode.register(app)
transcribe.register(app)


def run(*arguments, stdin=None):
    """Output of a command; what it raises is raised here."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_transcribe(model, tmp_path):
    files = [write_wav(tmp_path / name, 1.0, seed=i) for i, name in enumerate(["b.wav", "a.flac"])]
    lines = run("transcribe", model.parent, *files).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(file) for file in files]
    rows = [json.loads(x) for x in run("transcribe", model, *files, "--json").stdout.splitlines()]
    keys = {"file", "text", "score", "confidence", "units", "times", "unit_confidences"}
    assert [set(row) for row in rows] == [keys] * 2
    assert [row["file"] for row in rows] == [str(file) for file in files]
    for mode in ("ctc_prefix_beam_search", "attention_rescoring", "attention"):
        assert run("transcribe", model, files[0], "--mode", mode, "--chunk-size", 4).exit_code == 0


def test_transcribe_goes_on_after_a_bad_file(model, tmp_path):
    good = write_wav(tmp_path / "good.wav")
    bad = write_lines(tmp_path / "bad.wav", ["nothing"])
    result = run("transcribe", model, bad, good, tmp_path / "none.wav")
    assert result.exit_code == 3
    assert [line.split("\t")[0] for line in result.stdout.splitlines()] == [str(good)]
    assert "bad.wav" in result.stderr
    assert "none.wav does not exist" in result.stderr


def test_nbest(model, tmp_path):
    file = write_wav(tmp_path / "a.wav", 2.0, 8000)
    for mode in DECODE_MODES:
        (line,) = run(
            "transcribe", model, file, "--mode", mode, "--nbest", 3, "--json"
        ).stdout.splitlines()
        row = json.loads(line)
        nbest = row["nbest"]
        assert {"file": str(file)} | nbest[0] | {"nbest": nbest} == row
        assert len(nbest) == (1 if mode == "ctc_greedy_search" else 3)
        for item in nbest:
            assert len(item["units"]) == len(item["unit_confidences"])
            assert len(item["times"]) in (0, len(item["units"]))
    with pytest.raises(ConfigError, match="--nbest 11 is more than a beam of 10 finds"):
        run("transcribe", model, file, "--nbest", 11)
    assert run("transcribe", model, file, "--nbest", 11, "--beam-size", 11).exit_code == 0
