"""Feature extraction under a real local Ray: resumed, interrupted, refused."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rayasr import ray_data
from rayasr.config import CorpusConfig, Recipe, dump_recipe
from rayasr.data.store import Store
from rayasr.errors import ConfigError, DataError
from rayasr.ray_session import ask_every_node, connect, missing_paths
from tests.factories import make_aishell_corpus

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One Ray for the module; prepare_store uses a session that is open already."""
    with connect(num_cpus=2):
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_aishell_corpus(tmp_path_factory.mktemp("corpus"), train=40, seconds=(0.6, 1.2))


def recipe(corpus: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "corpora": (CorpusConfig(path=str(corpus)),),
        "features": {"num_mel_bins": 20},
        "store": {"shard_utterances": 2},
    }
    return Recipe.model_validate(values | changes)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("store") / "store"
    ray_data.prepare_store(recipe(corpus), out, notes=lambda _: None)
    return out


def contents(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def test_prepare_makes_a_whole_store_and_only_once(undisturbed: Path, corpus: Path) -> None:
    store = Store.open(undisturbed, verify=True)
    assert store.info["utterances"] == 48
    assert store.info["rates"] == {"16000": 48}
    assert not list(undisturbed.rglob(".*"))
    said: list[str] = []
    before = contents(undisturbed)
    ray_data.prepare_store(recipe(corpus), undisturbed, notes=said.append)
    assert any("up to date" in line for line in said)
    assert contents(undisturbed) == before


def test_only_what_is_missing_or_damaged_is_made_again(
    undisturbed: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    ray_data.prepare_store(recipe(corpus), out, notes=lambda _: None)
    shards = sorted((out / "shards").iterdir())
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    (out / "index.parquet").write_bytes(b"damaged")
    (out / "store.json").unlink()
    times = {shard: shard.stat().st_mtime_ns for shard in (shards[0], *shards[3:])}
    said: list[str] = []
    ray_data.prepare_store(recipe(corpus), out, notes=said.append)
    assert f"{len(shards) - 2} of {len(shards)} shards are there already" in said
    assert {shard: shard.stat().st_mtime_ns for shard in times} == times
    assert contents(out) == contents(undisturbed)
    damaged = bytearray(shards[3].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shards[3].write_bytes(damaged)
    ray_data.prepare_store(recipe(corpus), out, notes=said.append, verify=True)
    assert [line for line in said if "made again" in line and shards[3].name in line]
    assert contents(out) == contents(undisturbed)


def test_another_recipe_is_refused_but_for_force(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    ray_data.prepare_store(recipe(corpus), out, notes=lambda _: None)
    other = recipe(corpus, augment={"speeds": (1.0,)})
    with pytest.raises(DataError, match=r"another recipe: augment.speeds .*--force"):
        ray_data.prepare_store(other, out, notes=lambda _: None)
    assert Store.open(out).split("train").frames.shape[1] == 3
    ray_data.prepare_store(other, out, notes=lambda _: None, force=True)
    store = Store.open(out, verify=True)
    assert store.split("train").frames.shape[1] == 1
    planned = {shard["name"] for shard in store.info["shards"]}
    assert {path.name for path in (out / "shards").iterdir()} == planned


def test_a_new_utterance_makes_few_shards_anew(tmp_path: Path) -> None:
    grown = make_aishell_corpus(tmp_path / "corpus", train=40, seconds=(0.6, 1.2))
    out = tmp_path / "store"
    ray_data.prepare_store(recipe(grown), out, notes=lambda _: None)
    wav = next(iter(sorted((grown / "data_aishell/wav/test").rglob("*.wav"))))
    new = wav.with_name(wav.name.replace("W0121", "W0999"))
    new.write_bytes(wav.read_bytes())
    transcript = next((grown / "data_aishell/transcript").iterdir())
    transcript.write_text(transcript.read_text() + f"{new.stem} 一二\n")
    said: list[str] = []
    info = ray_data.prepare_store(recipe(grown), out, notes=said.append)
    assert info["utterances"] == 49
    assert "23 of 25 shards are there already" in said


def test_too_many_rejects_stop_and_leave_the_table(tmp_path: Path) -> None:
    corpus = make_aishell_corpus(tmp_path / "corpus", train=10)
    for wav in sorted((corpus / "data_aishell/wav/train").rglob("*.wav"))[:3]:
        wav.write_bytes(b"RIFF, or so it says")
    out = tmp_path / "store"
    with pytest.raises(DataError, match=r"3 of 18 utterances .*3 unreadable"):
        ray_data.prepare_store(recipe(corpus), out, notes=lambda _: None)
    assert (out / "rejects.parquet").is_file()
    with pytest.raises(DataError, match="not finished"):
        Store.open(out)
    lenient = recipe(corpus, store={"shard_utterances": 2, "max_reject_fraction": 0.5})
    info = ray_data.prepare_store(lenient, out, notes=lambda _: None)
    assert (info["utterances"], info["rejects"]) == (15, 3)
    assert {item.reason for item in Store.open(out).rejects} == {"unreadable"}


def test_several_corpora_are_told_apart(corpus: Path, tmp_path: Path) -> None:
    second = make_aishell_corpus(tmp_path / "second", train=6, dev=0, test=0, seed=5)
    for path in sorted(second.rglob("*.wav")):
        path.rename(path.with_name(path.name.replace("BAC", "XYZ")))
    transcript = next((second / "data_aishell/transcript").iterdir())
    transcript.write_text(transcript.read_text().replace("BAC", "XYZ"))
    both = recipe(corpus, corpora=(CorpusConfig(path=str(corpus)), CorpusConfig(path=str(second))))
    info = ray_data.prepare_store(both, tmp_path / "store", notes=lambda _: None)
    assert [item["utterances"] for item in info["corpora"]] == [48, 6]
    train = Store.open(tmp_path / "store").split("train")
    for key, index in zip(train.keys, train.corpus, strict=True):
        assert index == key.startswith("XYZ")


def test_a_recipe_without_corpus_and_a_file_as_output_are_refused(
    corpus: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no corpus"):
        ray_data.prepare_store(recipe(corpus, corpora=()), tmp_path / "store")
    taken = tmp_path / "taken"
    taken.write_text("a file")
    with pytest.raises(DataError, match="taken"):
        ray_data.prepare_store(recipe(corpus), taken, notes=lambda _: None)


def test_every_node_is_asked(tmp_path: Path) -> None:
    paths = [str(tmp_path), str(tmp_path / "missing")]
    (missing,) = ask_every_node(missing_paths, paths).values()
    assert missing == [str(tmp_path / "missing")]


def run_prepare(recipe_file: Path, out: Path) -> "subprocess.Popen[str]":
    main = "from rayasr.cli.main import main; main()"
    command = [sys.executable, "-c", main, "data", "prepare", str(recipe_file)]
    return subprocess.Popen(
        [*command, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for_shards(out: Path, count: int, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while len(list((out / "shards").glob("[!.]*.arrow"))) < count:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_extraction_goes_on_to_the_same_bytes(
    corpus: Path, undisturbed: Path, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(dump_recipe(recipe(corpus)))
    out = tmp_path / "store"
    process = run_prepare(recipe_file, out)
    wait_for_shards(out, 2, process)
    os.kill(process.pid, sent)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == code, output
    assert not re.search("Traceback", output), output
    if not (out / "store.json").exists():
        with pytest.raises(DataError, match="not finished"):
            Store.open(out)
    ray_data.prepare_store(recipe(corpus), out, notes=lambda _: None)
    assert contents(out) == contents(undisturbed)
