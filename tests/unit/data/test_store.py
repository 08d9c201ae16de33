"""The store: what is written is what is read, and damage and foreign recipes are named."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayasr.config import Recipe
from rayasr.data.audio import load_audio, perturb_speed
from rayasr.data.fbank import Fbank
from rayasr.data.store import Store
from rayasr.errors import DataError
from tests.factories import make_aishell_corpus, make_store

SPEEDS = (0.9, 1.0, 1.1)


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "features": {"num_mel_bins": 20},
        "store": {"shard_utterances": 5},
        "augment": {"speeds": SPEEDS},
    }
    return Recipe.model_validate(values | changes)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_aishell_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    make_store(folder, corpus, recipe())
    return folder


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "store"))


def audio_of(corpus: Path, key: str) -> Path:
    return next(corpus.rglob(f"{key}.wav"))


def test_splits_have_all_utterances_in_columns(made: Path) -> None:
    store = Store.open(made, verify=True)
    assert store.info["utterances"] == 20
    assert store.info["rejects"] == 0
    assert {name: len(store.split(name)) for name in ("train", "dev", "test")} == {
        "train": 12,
        "dev": 4,
        "test": 4,
    }
    train = store.split("train")
    assert train.frames.shape == (12, 3)
    assert train.frames.dtype == np.int32
    assert store.split("test").frames.shape == (4, 1)
    assert len(train.speaker_names) == 2
    assert train.speakers.dtype == np.int32
    assert list(train.num_units) == [len(units) for units in train.units]
    for text, units in zip(train.texts, train.units, strict=True):
        assert store.tokenizer.decode(units) == text


@pytest.mark.parametrize("speed", [0, 1, 2])
def test_features_are_float16_of_the_features_of_the_audio(
    made: Path, corpus: Path, speed: int
) -> None:
    store = Store.open(made)
    train = store.split("train")
    for i in (0, 5, 11):
        samples = load_audio(audio_of(corpus, train.keys[i]), 16000)
        expected = Fbank(recipe().features)(perturb_speed(samples, 16000, SPEEDS[speed]))
        found = store.features("train", i, speed)
        assert found.dtype == torch.float32
        assert len(found) == train.frames[i, speed]
        assert torch.equal(found, expected.half().float())


def test_cmvn_is_of_the_training_split_at_speed_one(made: Path, corpus: Path) -> None:
    store = Store.open(made)
    fbank = Fbank(recipe().features)
    frames = np.concatenate(
        [
            fbank(load_audio(audio_of(corpus, key), 16000)).numpy()
            for key in store.split("train").keys
        ]
    ).astype(np.float64)
    assert store.cmvn.frames == len(frames)
    np.testing.assert_allclose(store.cmvn.sums, frames.sum(0), rtol=1e-12)
    np.testing.assert_allclose(store.cmvn.squares, (frames**2).sum(0), rtol=1e-12)


def test_a_second_store_has_the_same_bytes(made: Path, corpus: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(corpus, tmp_path / "elsewhere")
    make_store(tmp_path / "store", moved, recipe())
    for path in sorted((made / "shards").iterdir()):
        assert (tmp_path / "store" / "shards" / path.name).read_bytes() == path.read_bytes()
    for name in ("index.parquet", "cmvn.json", "units.txt", "recipe.yaml", "rejects.parquet"):
        assert (tmp_path / "store" / name).read_bytes() == (made / name).read_bytes()


def test_other_test_recordings_are_the_same_training_data(made: Path, tmp_path: Path) -> None:
    digests = [
        make_store(
            tmp_path / name, make_aishell_corpus(tmp_path / f"{name}_corpus", **counts), recipe()
        ).training_digest
        for name, counts in (("test", {"test": 5}), ("dev", {"dev": 5}))
    ]
    assert digests[0] == Store.open(made).training_digest != digests[1]


def test_a_store_of_samples_gives_features_at_any_speed(corpus: Path, tmp_path: Path) -> None:
    pcm = recipe(store={"payload": "pcm"})
    store = make_store(tmp_path, corpus, pcm)
    other = store.for_recipe(pcm.model_copy(update={"augment": recipe().augment}))
    train = other.split("train")
    samples = load_audio(audio_of(corpus, train.keys[3]), 16000)
    assert torch.allclose(other.samples("train", 3), samples, atol=2e-5)
    for speed in range(3):
        assert len(other.features("train", 3, speed)) == train.frames[3, speed]
    noise = [
        other.features("train", 3, 1, dither=1.0, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert store.cmvn.frames == int(train.frames[:, 1].sum())


def test_packed_archives_give_the_same_features(made: Path, corpus: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed" / "data_aishell"
    shutil.copytree(corpus / "data_aishell" / "transcript", packed / "transcript")
    (packed / "wav").mkdir()
    wav = corpus / "data_aishell" / "wav"
    for speaker in sorted(wav.glob("*/*")):
        with tarfile.open(packed / "wav" / f"{speaker.name}.tar.gz", "w:gz") as archive:
            archive.add(speaker, arcname=str(speaker.relative_to(wav)))
    store, plain = make_store(tmp_path / "store", packed.parent, recipe()), Store.open(made)
    for split in ("train", "dev", "test"):
        place = {key: i for i, key in enumerate(plain.split(split).keys)}
        assert sorted(store.split(split).keys) == sorted(place)
        for i, key in enumerate(store.split(split).keys):
            assert torch.equal(store.features(split, i), plain.features(split, place[key]))


def test_dither_is_frozen_and_keyed_by_utterance(corpus: Path, tmp_path: Path) -> None:
    noisy = recipe(features={"num_mel_bins": 20, "dither": 1.0})
    one = make_store(tmp_path / "one", corpus, noisy)
    two = make_store(tmp_path / "two", corpus, noisy.model_copy(update={"seed": 1}))
    plain = make_store(tmp_path / "plain", corpus, recipe())
    assert torch.equal(one.features("train", 4, 1), two.features("train", 4, 1))
    assert not torch.equal(one.features("train", 4, 1), plain.features("train", 4, 1))
    assert torch.equal(one.features("test", 2), plain.features("test", 2))


def test_another_recipe_is_refused_by_the_names_of_what_differs(made: Path) -> None:
    store = Store.open(made)
    store.check_recipe(recipe(train={"epochs": 3}))
    with pytest.raises(DataError, match=r"features.num_mel_bins 20, now 40.*text.case keep, now"):
        store.check_recipe(recipe(features={"num_mel_bins": 40}, text={"case": "upper"}))
    with pytest.raises(DataError, match=r"augment.speeds \[0.9, 1.0, 1.1\], now \[1.0\]"):
        store.check_recipe(recipe(augment={"speeds": (1.0,)}))


def test_a_units_file_counts_by_what_is_in_it(made: Path, corpus: Path, tmp_path: Path) -> None:
    given = recipe(units={"file": str(made / "units.txt")})
    store = make_store(tmp_path / "store", corpus, given)
    with pytest.raises(DataError, match=r"units.file None, now given"):
        Store.open(made).check_recipe(given)
    copy = tmp_path / "units.txt"
    copy.write_text((made / "units.txt").read_text())
    elsewhere = recipe(units={"file": str(copy)})
    store.check_recipe(elsewhere)
    copy.write_text(f"{copy.read_text()}多 {len(copy.read_text().splitlines())}\n")
    with pytest.raises(DataError, match=r"has other units than .*/units\.txt; prepare it again"):
        store.check_recipe(elsewhere)
    copy.unlink()
    store.check_recipe(elsewhere)


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("harm", [damage_middle, cut, Path.unlink])
@pytest.mark.parametrize(
    "name", ["index.parquet", "cmvn.json", "units.txt", "store.json", "recipe.yaml"]
)
def test_damaged_files_are_named(store: Path, name: str, harm: Callable[[Path], None]) -> None:
    harm(store / name)
    with pytest.raises(DataError, match=f"{name}|not finished") as caught:
        Store.open(store)
    assert "rayasr data prepare" in str(caught.value)


def test_a_damaged_row_is_noticed_when_it_is_read(store: Path) -> None:
    shard = next((store / "shards").glob("train-00001-*"))
    damage_middle(shard)
    opened = Store.open(store)
    with pytest.raises(DataError, match=rf"{shard.name} is damaged.*--verify"):
        [opened.features("train", i, speed) for i in range(12) for speed in range(3)]
    with pytest.raises(DataError, match=rf"{shard.name} is damaged.*--verify"):
        Store.open(store, verify=True)


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_a_short_or_missing_shard_is_noticed_on_opening(
    store: Path, harm: Callable[[Path], None]
) -> None:
    shard = next((store / "shards").glob("dev-*"))
    harm(shard)
    with pytest.raises(DataError, match=f"{shard.name} is damaged or missing"):
        Store.open(store)


def test_a_missing_store_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no store at .*rayasr data prepare RECIPE"):
        Store.open(tmp_path / "nothing")


def test_an_unknown_split_names_those_there_are(made: Path) -> None:
    with pytest.raises(DataError, match="no split 'eval'; it has train, dev, test"):
        Store.open(made).split("eval")
