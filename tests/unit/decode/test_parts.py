"""rayasr/decode/parts.py: files of shards, which only the same decoding takes up again."""

import json
from dataclasses import replace

import pytest

from rayasr.checkpoint import LoadedModel, load_model, model_digest, save_model
from rayasr.decode.parts import (
    DECODES,
    DecodeJob,
    ShardDecoder,
    join_parts,
    read_part,
    write_part,
)
from rayasr.decode.recognizer import Decoding, Hypothesis
from rayasr.decode.shards import DecodeShard, shards_of
from rayasr.decode.split import decode_split, from_store, report_split
from rayasr.errors import CheckpointError, DataError
from tests.factories import make_aishell_corpus, make_store

BOUND = 1500
MODES = ["ctc_greedy_search", "attention_rescoring", "attention"]


@pytest.fixture(scope="module")
def loaded(tiny: LoadedModel, tmp_path_factory) -> LoadedModel:
    """The tiny model in a folder, from which workers take it."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny.model.state_dict(), tiny.recipe, tiny.tokenizer, tiny.cmvn)
    return load_model(folder)


@pytest.fixture(scope="module")
def store(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    corpus = make_aishell_corpus(folder, train=2, dev=0, test=9, seconds=(3, 6), rate=8000)
    next(corpus.glob("data_aishell/wav/test/*/*.wav")).write_bytes(b"RIFFnothing")
    return make_store(tmp_path_factory.mktemp("store"), corpus, loaded.recipe)


@pytest.fixture
def job(loaded, store, tmp_path):
    return DecodeJob.of(loaded, store, tmp_path / "out", MODES, Decoding())


@pytest.fixture
def shards(store):
    return shards_of(store, "test", BOUND)


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_parts_joined_are_what_one_process_finds(loaded, store, job, shards, tmp_path):
    config = loaded.recipe.decode.model_copy(update={"max_padded_frames": BOUND})
    decode_split(loaded, store, "test", MODES, tmp_path / "one", config=config)
    decode = ShardDecoder(job)
    reports = [decode(shard) for shard in reversed(shards)]
    assert sum(report.num_utterances for report in reports) == 8
    seconds = float(store.split("test").seconds.sum())
    assert sum(report.audio_s for report in reports) == pytest.approx(seconds)
    parts = {shard: read_part(job.path(shard), MODES, len(shard.utterances)) for shard in shards}
    material = from_store(store, "test", BOUND)
    found = join_parts(len(material.keys), MODES, parts)
    assert len(material.keys) == 9  # one was rejected, and has an empty hypothesis
    report_split(loaded, material, found, tmp_path / "many", config)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_part_that_is_there_is_kept_and_a_damaged_one_made_again(job, shards):
    first = shards[0]
    path, count = job.path(first), len(first.utterances)
    decode = ShardDecoder(job)
    decode(first)
    whole = path.read_bytes()
    planted = {mode: [Hypothesis((7,), -1.5, (0.25,))] * count for mode in MODES}
    write_part(path, planted)
    decode(first)
    assert read_part(path, MODES, count) == planted
    for damaged in (whole[:-9], b"", b"[]", b"\xff", b'{"attention": [{"unit": 3}]}'):
        path.write_bytes(damaged)
        assert read_part(path, MODES, count) is None
        decode(first)
        assert path.read_bytes() == whole
    assert read_part(path, MODES, count + 1) is None
    path.unlink()
    assert read_part(path, MODES, count) is None


def test_numbers_come_back_to_the_last_bit(tmp_path):
    found = {"attention": [Hypothesis((1, 2), -0.1 - 0.2, (1 / 3, 2 / 3)), Hypothesis((), 0.0, ())]}
    write_part(tmp_path / "part", found)
    assert read_part(tmp_path / "part", ["attention"], 2) == found


def test_another_decoding_takes_nothing(job, shards):
    others = [
        replace(job, model_digest="0"),
        replace(job, store_digest="0"),
        replace(job, modes=("attention",)),
        replace(job, decoding=Decoding(chunk_size=4)),
        replace(job, device="cuda"),
    ]
    first = shards[0]
    assert len({other.path(first) for other in [job, *others]}) == 6
    assert job.path(first) == replace(job, modes=tuple(reversed(MODES))).path(first)
    assert job.path(first) == replace(job, model="/moved", store="/moved").path(first)
    assert len({job.path(shard) for shard in shards}) == len(shards) > 1
    other_batches = DecodeShard("test", 0, (first.batches[0][:1],))
    assert job.path(other_batches) != job.path(first)


def test_a_model_or_store_that_was_changed_is_refused(loaded, store, job, shards, tmp_path):
    with pytest.raises(CheckpointError, match="is not the model that this decoding began with"):
        ShardDecoder(replace(job, model_digest="0"))(shards[0])
    with pytest.raises(DataError, match="is not the store that this decoding began with"):
        ShardDecoder(replace(job, store_digest="0"))(shards[0])
    with pytest.raises(CheckpointError, match=r"cannot read .*/model.safetensors: No such file"):
        model_digest(tmp_path, DECODES)
    changed = save_model(
        tmp_path, loaded.model.state_dict(), loaded.recipe, loaded.tokenizer, store.cmvn
    )
    assert model_digest(changed, DECODES) != job.model_digest
    assert not list((tmp_path / "out").rglob("*.json"))


def test_what_is_written_is_plain_json(job, shards):
    ShardDecoder(job)(shards[0])
    rows = json.loads(job.path(shards[0]).read_text())
    assert set(rows) == set(MODES)
    assert set(rows["attention"][0]) >= {"units", "score", "times"}
