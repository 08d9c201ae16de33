"""`rayasr transcribe`: what it prints, and its exit codes."""

import json

import pytest
import soundfile
import typer
from typer.testing import CliRunner

from rayasr.cli import decode, transcribe
from rayasr.config import DECODE_MODES
from rayasr.errors import ConfigError
from tests.factories import write_lines, write_wav

DESCRIBED = {"text", "score", "confidence", "units", "times", "unit_confidences"}

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
    assert [set(row) for row in rows] == [{"file"} | DESCRIBED] * 2
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
        run("transcribe", model, file, "--nbest", 11, "--json")
    assert run("transcribe", model, file, "--nbest", 11, "--beam-size", 11, "--json").exit_code == 0
    with pytest.raises(ConfigError, match="add --json"):
        run("transcribe", model, file, "--nbest", 2)


def pcm(path):
    """The samples of a wav file as a pipe would bring them."""
    return soundfile.read(path, dtype="int16")[0].tobytes()


STREAM = ("--stream", "--mode", "ctc_prefix_beam_search", "--chunk-size", 4)


def test_stream_prints_final_lines(model, tmp_path):
    files = [write_wav(tmp_path / f"{i}.wav", 1.5 + i, 8000, seed=i) for i in range(2)]
    result = run("transcribe", model, *files, *STREAM)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert {line[0] for line in lines} == {str(file) for file in files}
    for _, start, end, text in lines:
        assert 0.0 <= float(start) < float(end) <= 2.5
        assert text
    for file in files:
        assert f"{file}: " in result.stderr
        assert "x real time" in result.stderr


def test_stream_as_json_is_the_same_from_a_pipe(model, tmp_path):
    file = write_wav(tmp_path / "a.wav", 2.0, 8000)

    def rows(name, data=None):
        result = run("transcribe", model, name, *STREAM, "--json", stdin=data)
        return [json.loads(line) for line in result.stdout.splitlines()]

    from_file, from_pipe, odd = rows(file), rows("-", pcm(file)), rows("-", pcm(file) + b"\x00")
    assert [row.pop("file") for row in from_file] == [str(file)] * len(from_file)
    assert {row.pop("file") for row in from_pipe} == {"-"}
    assert {row.pop("file") for row in odd} == {"-"}
    assert from_pipe[:-1] == from_file[:-1] == odd[:-1]
    assert [row["kind"] for row in from_file[:-1]][-1] == "final"
    keys = {"kind", "start_s", "end_s"} | DESCRIBED
    for row in from_file[:-1]:
        assert set(row) == keys | ({"stable"} if row["kind"] == "partial" else set())
    end = from_file[-1]
    assert end["kind"] == "end"
    assert end["audio_s"] == 2.0
    assert end["peak_memory_mb"] > 50
    assert end["first_text_s"] > from_file[0]["end_s"]


def test_stream_from_a_pipe(model, tmp_path):
    file = write_wav(tmp_path / "a.wav", 1.0, 16000)
    data = pcm(file)
    result = run("transcribe", model, "-", *STREAM, "--sample-rate", 16000, stdin=data + b"\x01")
    assert "ended in the middle of a sample" in result.stderr
    whole = run("transcribe", model, file, *STREAM).stdout
    assert [line.split("\t")[1:] for line in result.stdout.splitlines()] == [
        line.split("\t")[1:] for line in whole.splitlines()
    ]
    for data in (b"", b"\x01"):
        empty = run("transcribe", model, "-", *STREAM, stdin=data)
        assert empty.stdout == ""
        assert "-: 0.0 s of audio, no text" in empty.stderr


def test_stream_goes_on_after_a_bad_file(model, tmp_path):
    good = write_wav(tmp_path / "good.wav", 1.5, 8000)
    bad = write_lines(tmp_path / "bad.wav", ["nothing"])
    result = run("transcribe", model, bad, good, *STREAM)
    assert result.exit_code == 3
    assert {line.split("\t")[0] for line in result.stdout.splitlines()} == {str(good)}
    assert "bad.wav cannot be read as audio" in result.stderr


def test_stream_nbest(model, tmp_path):
    file = write_wav(tmp_path / "a.wav", 1.5, 8000)
    lines = run("transcribe", model, file, *STREAM, "--nbest", 2, "--json").stdout.splitlines()
    final = json.loads(lines[-2])
    assert len(final["nbest"]) == 2
    assert final["nbest"][0].items() <= final.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-"], r"standard input \(-\) needs --stream"),
        (["-", "-", "--stream"], "read once only"),
        (["a.wav", "--stream", "--sample-rate", "8000"], "--sample-rate is that of standard input"),
        (["a.wav", "--stream", "--mode", "attention"], "needs the whole recording"),
    ],
)
def test_wrong_stream_options(model, options, message):
    with pytest.raises(ConfigError, match=message):
        run("transcribe", model, *options)


def test_partial_text_fits_into_the_line():
    assert transcribe._last_cells("一二三四五", 10) == "一二三四五"
    assert transcribe._last_cells("一二三四五六", 10) == "…三四五六"
    assert transcribe._last_cells("abc", 2) == "…c"
