"""Preparing a store without Ray running: who may finish it."""

from pathlib import Path

import pytest

from rayasr import ray_data, storage
from rayasr.config import with_corpora
from rayasr.errors import ConfigError
from rayasr.ray_data import prepare_store
from tests.factories import make_tone_corpus, tiny_training_recipe


def test_a_store_that_another_took_over_is_not_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def lose(_: storage.Lease) -> None:
        raise ConfigError("taken over")

    corpus = make_tone_corpus(tmp_path / "corpus", train=4, dev=1, test=1)
    monkeypatch.setattr(ray_data, "_make_shards", lambda *_: None)
    monkeypatch.setattr(storage.Lease, "check", lose)
    with pytest.raises(ConfigError, match="taken over"):
        prepare_store(with_corpora(tiny_training_recipe(), [corpus]), tmp_path / "store")
    assert not (tmp_path / "store" / "store.json").exists()
