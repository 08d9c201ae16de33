"""`rayasr data inspect`: what a person and a script are told of a store."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rayasr.cli.data import data_app
from rayasr.config import Recipe
from tests.factories import make_aishell_corpus, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    corpus = make_aishell_corpus(folder / "corpus", rate=8000)
    broken = min((corpus / "data_aishell/wav/train").rglob("*.wav"))
    broken.write_bytes(b"no recording")
    recipe = Recipe.model_validate({"features": {"num_mel_bins": 20}, "store": {"payload": "pcm"}})
    make_store(folder / "store", corpus, recipe)
    return folder / "store"


def test_inspect_for_scripts(store: Path) -> None:
    result = CliRunner().invoke(data_app, ["inspect", str(store), "--json", "--verify"])
    assert result.exit_code == 0, result.output
    described = json.loads(result.stdout)
    assert described["utterances"] == 19
    assert described["hours"] > 0
    assert described["rejects"] == 1
    assert described["rejects_by_reason"] == {"unreadable": 1}
    assert described["rates"] == {"8000": 19}
    assert described["splits"]["train"]["speakers"] == 2
    assert sum(bar["utterances"] for bar in described["length_histogram"]) == 19


def test_inspect_for_people(store: Path) -> None:
    result = CliRunner().invoke(data_app, ["inspect", str(store)])
    assert result.exit_code == 0, result.output
    for expected in (r"19 utterances", r"train +11", r"8,000 Hz", r"1 unreadable, such as BAC009"):
        assert re.search(expected, result.stdout), result.stdout
