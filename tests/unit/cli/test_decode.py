"""`rayasr decode` and `score`: what they print, and their exit codes."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rayasr.checkpoint import default_decoding
from rayasr.cli import decode
from rayasr.config import dump_recipe
from rayasr.errors import ConfigError, DataError
from tests.factories import make_aishell_corpus, make_store, tiny_training_recipe, write_lines

app = typer.Typer()
decode.register(app)


def run(*arguments):
    """Output of a command; what it raises is raised here."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_aishell_corpus(tmp_path_factory.mktemp("corpus"), rate=8000)


def test_decode_from_store_and_corpus(model, corpus, tmp_path):
    store = make_store(tmp_path / "store", corpus, tiny_training_recipe())
    modes = "ctc_greedy_search,attention_rescoring"
    by_store = run(
        "decode", model, "--store", store.path, "--split", "dev,test", "--mode", modes,
        "--out", tmp_path / "a", "--json",
    )  # fmt: skip
    result = json.loads(by_store.stdout)
    assert result == json.loads((tmp_path / "a" / "result.json").read_text())
    assert list(result["splits"]) == ["dev", "test"]
    assert list(result["splits"]["test"]) == modes.split(",")
    assert result["default_mode"] == "ctc_greedy_search"
    by_word = run(
        "decode", model, "--store", store.path, "--unit", "word", "--out", tmp_path / "c", "--json"
    )
    counts = json.loads(by_word.stdout)["splits"]["test"]["ctc_greedy_search"]
    assert counts["reference_units"] == 4
    assert "wer" in counts
    by_corpus = run("decode", model, "--corpus", corpus, "--out", tmp_path / "b")
    assert by_corpus.stdout.startswith("test ctc_greedy_search CER ")
    assert "float32 features" in by_corpus.stderr
    assert "float16 features" in by_store.stderr


@pytest.fixture
def fresh(model, tmp_path) -> Path:
    """A run whose decoding settings are not chosen yet, and whose recipe names a mirror."""
    run = tmp_path / "fresh"
    recipe = tiny_training_recipe(checkpoint__mirror=f"file://{tmp_path}/mirror")
    shutil.copytree(model, run / "model")
    (run / "model" / "recipe.yaml").write_text(dump_recipe(recipe))
    (run / "model" / "decoding.json").write_text(json.dumps(default_decoding(recipe)))
    return run


def test_decode_chooses_on_dev_what_was_not_chosen(fresh, corpus, tmp_path):
    store = make_store(tmp_path / "store", corpus, tiny_training_recipe())
    command = ("decode", fresh, "--store", store.path, "--out", tmp_path / "out")
    greedy = ("--mode", "ctc_greedy_search")
    weighed = ("--mode", "attention_rescoring", "--ctc-weight", 0.3)
    for options in (("--split", "dev"), greedy, weighed):
        assert "chosen" not in run(*command, *options).stderr
    with pytest.raises(DataError, match="no split 'eval'"):
        run(*command, "--split", "test,eval")
    assert json.loads((fresh / "model" / "decoding.json").read_text())["chosen_on"] is None
    result = run(*command, "--json")
    assert "not chosen yet; choosing them on the store's dev split" in result.stderr
    chosen = json.loads((fresh / "model" / "decoding.json").read_text())
    assert chosen["chosen_on"] == "dev"
    assert json.loads(result.stdout)["default_mode"] == chosen["default_mode"]
    assert json.loads((tmp_path / "mirror" / "model" / "decoding.json").read_text()) == chosen
    assert "chosen" not in run(*command).stderr


def test_decode_with_a_choice_that_cannot_be_kept(fresh, corpus, tmp_path, monkeypatch):
    def full(*_):
        raise DataError("no space left")

    store = make_store(tmp_path / "store", corpus, tiny_training_recipe())
    monkeypatch.setattr("rayasr.decode.split.save_decoding", full)
    model = fresh / "model"
    result = run(
        "decode", model, "--store", store.path, "--out", tmp_path / "out", "--split", "test,dev"
    )
    assert "the choice is not kept: no space left" in result.stderr
    assert not (tmp_path / "mirror").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "one of --store STORE and --corpus DIR"),
        (["--store", "x", "--corpus", "y"], "one of --store"),
        (["--corpus", "y", "--mode", "greedy"], "unknown mode 'greedy'; the modes are ctc_greedy"),
        (["--corpus", "y", "--left-chunks", "2"], "--left-chunks needs --chunk-size"),
        (["--corpus", "y", "--devices", "tpu"], "not one of auto, cpu, cuda"),
    ],
)
def test_wrong_options(model, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run("decode", model, "--out", tmp_path, *options)


def test_a_store_of_other_features_is_refused(model, corpus, tmp_path):
    store = make_store(tmp_path / "s", corpus, tiny_training_recipe(features__num_mel_bins=24))
    with pytest.raises(DataError, match="other features than the model was trained on"):
        run("decode", model, "--store", store.path, "--out", tmp_path / "out")


def test_score(tmp_path):
    reference = write_lines(tmp_path / "ref", ["a one two", "b three"])
    hypothesis = write_lines(tmp_path / "hyp", ["a one too"])
    text = run("score", reference, hypothesis, "--unit", "word").stdout
    assert text.startswith("WER 66.67 % (2 errors of 3: 1 sub, 1 del, 0 ins), 95 % ")
    assert "counted in words, which spaces separate; text as it stands in the files" in text
    assert "1 without a hypothesis: b" in text
    values = json.loads(run("score", reference, hypothesis, "--unit", "word", "--json").stdout)
    assert (values["errors"], values["sub"], values["del"], values["ins"]) == (2, 1, 1, 0)
    assert values["missing"] == ["b"]
    run("score", reference, hypothesis, "--alignments", tmp_path / "aligned")
    assert (tmp_path / "aligned").read_text().startswith("a 1 of 6\nref o n e t w o\n")
    with pytest.raises(ConfigError, match="--unit 'letter' is not one of char, word, mixed"):
        run("score", reference, hypothesis, "--unit", "letter")
    with pytest.raises(DataError, match="'b' has a hypothesis but no reference"):
        run("score", hypothesis, reference)
