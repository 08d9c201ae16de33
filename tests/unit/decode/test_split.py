"""rayasr/decode/split.py: whole splits, their files, and what is chosen on dev."""

import hashlib
import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest

from rayasr.config import CorpusConfig
from rayasr.data.store import Store, info_digest, read_info
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.decode.split import (
    choose_decoding,
    decode_split,
    middle_of_best,
    text_rule,
    write_result,
)
from rayasr.errors import DataError
from rayasr.score import read_text_file, score_files
from rayasr.storage import write_json
from tests.factories import make_aishell_corpus, make_store, write_wav

MODES = ["ctc_greedy_search", "attention_rescoring"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_aishell_corpus(tmp_path_factory.mktemp("corpus"), rate=8000)


@pytest.fixture(scope="module")
def store(tiny, corpus, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), corpus, tiny.recipe)


@pytest.fixture
def from_folder(tiny, corpus):
    return tiny.recipe.model_copy(update={"corpora": (CorpusConfig(path=str(corpus)),)})


def read_rows(folder):
    return [json.loads(line) for line in (folder / "utterances.jsonl").read_text().splitlines()]


def test_files_and_counts(tiny, store, tmp_path):
    results = decode_split(tiny, store, "test", MODES, tmp_path)
    assert list(results) == MODES
    for mode, result in results.items():
        assert set(result) == {
            "cer", "errors", "reference_units", "sub", "del", "ins", "ci95"
        }  # fmt: skip
        folder = tmp_path / "test" / mode
        scored = score_files(folder / "ref", folder / "hyp", "char")
        assert scored.counts.errors == result["errors"]
        assert list(read_text_file(folder / "hyp")) == list(store.split("test").keys)
        rows = read_rows(folder)
        assert sum(row["errors"] for row in rows) == result["errors"]
        assert rows[0]["speaker"].startswith("S0764")
        assert (folder / "alignments").read_text().count("ref") == len(rows)
    written = write_result(tmp_path, MODES[0], {"test": results})
    assert json.loads((tmp_path / "result.json").read_text()) == written
    assert written["splits"]["test"][MODES[0]]["errors"] == results[MODES[0]]["errors"]


def test_batches_change_nothing(tiny, store, tmp_path):
    decode = tiny.recipe.decode.model_copy(update={"max_padded_frames": 1})
    alone = replace(tiny, recipe=tiny.recipe.model_copy(update={"decode": decode}))
    together = decode_split(tiny, store, "test", MODES, tmp_path / "a")
    assert decode_split(alone, store, "test", MODES, tmp_path / "b") == together
    for mode in MODES:
        texts = [(tmp_path / x / "test" / mode / "hyp").read_text() for x in "ab"]
        assert texts[0] == texts[1]


def test_a_corpus_folder(tiny, store, from_folder, tmp_path, capsys):
    decode_split(tiny, from_folder, "test", MODES, tmp_path)
    assert "float32 features" in capsys.readouterr().err
    references = read_text_file(tmp_path / "test" / MODES[0] / "ref")
    columns = store.split("test")
    assert references == dict(zip(columns.keys, columns.texts, strict=True))


def test_an_unreadable_test_recording_is_all_deletions(tiny, tmp_path, capsys):
    corpus = make_aishell_corpus(tmp_path / "corpus", test=3, rate=8000)
    broken = sorted((corpus / "data_aishell" / "wav" / "test").rglob("*.wav"))[0]
    broken.write_bytes(b"RIFFnothing")
    recipe = tiny.recipe.model_copy(update={"corpora": (CorpusConfig(path=str(corpus)),)})
    result = decode_split(tiny, recipe, "test", MODES[:1], tmp_path / "out")
    folder = tmp_path / "out" / "test" / MODES[0]
    texts = read_text_file(folder / "ref")
    assert result[MODES[0]]["reference_units"] == sum(map(len, texts.values()))
    assert read_text_file(folder / "hyp")[broken.stem] == ""
    assert f"{broken.stem}: " in capsys.readouterr().err


@pytest.fixture(scope="module")
def bad_corpus(tmp_path_factory):
    """Test recordings that cannot be used, and one longer than a training recording may be."""
    corpus = make_aishell_corpus(tmp_path_factory.mktemp("bad"), rate=8000, test=5)
    unreadable, empty, silent, long, _ = sorted(corpus.glob("data_aishell/wav/test/*/*.wav"))
    unreadable.write_bytes(b"RIFFnothing")
    empty.write_bytes(b"")
    write_wav(silent, 0.0125, 8000)  # less than one window
    write_wav(long, 3.0, 8000)
    return corpus


def test_nothing_leaves_a_test_split(tiny, bad_corpus, tmp_path, capsys):
    recipe = tiny.recipe.model_copy(
        update={
            "corpora": (CorpusConfig(path=str(bad_corpus)),),
            "store": tiny.recipe.store.model_copy(update={"max_seconds": 2.0}),
        }
    )
    store = make_store(tmp_path / "store", bad_corpus, recipe)
    assert sorted(item.reason for item in store.rejects) == [
        "empty_audio",
        "too_short",
        "unreadable",
    ]
    found = [
        decode_split(tiny, source, "test", MODES[:1], tmp_path / name)[MODES[0]]
        for name, source in (("a", store), ("b", recipe))
    ]
    assert "3 utterance(s) rejected, first BAC009S0764W0121 (" in (err := capsys.readouterr().err)
    assert "all of their text counts as deletions" in err
    folders = [tmp_path / name / "test" / MODES[0] for name in "ab"]
    references, hypotheses = ([read_text_file(f / x) for f in folders] for x in ("ref", "hyp"))
    assert references[0] == references[1]
    assert len(references[0]) == 5
    assert found[0]["reference_units"] == found[1]["reference_units"]
    for texts in hypotheses:
        assert [key for key in sorted(texts) if not texts[key]][:3] == sorted(texts)[:3]
    assert all(row["speaker"].startswith("S076") for row in read_rows(folders[0]))


def test_rejects_without_texts_are_left_out_and_named(tiny, bad_corpus, tmp_path, capsys):
    store = make_store(tmp_path / "store", bad_corpus, tiny.recipe)
    rejects = store.path / "rejects.parquet"  # as stores made before texts were kept have it
    pq.write_table(pq.read_table(rejects).drop_columns(["text", "speaker"]), rejects)
    info = read_info(store.path)
    info["files"]["rejects.parquet"] = hashlib.sha256(rejects.read_bytes()).hexdigest()
    info["digest"] = info_digest(info)
    write_json(store.path / "store.json", info)
    decode_split(tiny, Store.open(store.path), "test", MODES[:1], tmp_path)
    assert "3 utterance(s) rejected" in (err := capsys.readouterr().err)
    assert "not counted; an older store lacks their texts, `rayasr data prepare` again" in err
    assert len(read_rows(tmp_path / "test" / MODES[0])) == 2


def test_a_dev_split_leaves_out_what_was_rejected(tiny, tmp_path, capsys):
    corpus = make_aishell_corpus(tmp_path / "corpus", rate=8000)
    next(corpus.glob("data_aishell/wav/dev/*/*.wav")).write_bytes(b"")
    store = make_store(tmp_path / "store", corpus, tiny.recipe)
    assert choose_decoding(tiny, store, tiny.recipe.decode)["chosen_on"] == "dev"
    assert "dev: 1 utterance(s) rejected" in (err := capsys.readouterr().err)
    assert err.rstrip().endswith("not counted")


def test_unknown_units_of_a_reference_are_errors(tiny, tmp_path):
    corpus = make_aishell_corpus(tmp_path / "corpus", test=2, rate=8000)
    transcript = next(corpus.rglob("*transcript*.txt"))
    lines = transcript.read_text().splitlines()
    key = sorted((corpus / "data_aishell" / "wav" / "test").rglob("*.wav"))[0].stem
    changed = [f"{key} 龍" if line.startswith(key) else line for line in lines]
    transcript.write_text("\n".join(changed) + "\n")
    recipe = tiny.recipe.model_copy(update={"corpora": (CorpusConfig(path=str(corpus)),)})
    decode_split(tiny, recipe, "test", MODES[:1], tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "test" / MODES[0])
    row = next(row for row in rows if row["key"] == key)
    assert row["reference"] == "龍"
    assert row["reference_units"] == 1
    assert row["errors"] >= 1


def test_a_missing_split_is_named(tiny, store, from_folder, tmp_path):
    for source in (store, from_folder):
        with pytest.raises(DataError, match="no split 'eval'; it has train, dev, test"):
            decode_split(tiny, source, "eval", MODES, tmp_path)


def test_choice_agrees_with_decoding(tiny, store, tmp_path):
    config = tiny.recipe.decode
    chosen = choose_decoding(tiny, store, config)
    assert chosen["chosen_on"] == "dev"
    settings = Decoding(ctc_weight=chosen["ctc_weight"], beam_size=config.beam_size)
    assert Recognizer(replace(tiny, decoding=chosen)).decoding == settings
    results = decode_split(tiny, store, "dev", config.modes, tmp_path, decoding=settings)
    assert {mode: item["errors"] for mode, item in results.items()} == chosen["errors"]
    fewest = min(chosen["errors"].values())
    first = next(mode for mode in config.modes if chosen["errors"][mode] == fewest)
    assert chosen["default_mode"] == first  # the cheapest of the best


def test_no_dev_split_keeps_the_defaults(tiny, corpus, tmp_path, capsys):
    import shutil

    shutil.copytree(corpus, tmp_path / "corpus")
    folder = tmp_path / "corpus" / "data_aishell" / "wav"
    shutil.rmtree(folder / "dev")
    shutil.rmtree(folder / "test")
    for extra in sorted((folder / "train").rglob("*.wav"))[1:]:
        extra.unlink()
    store = make_store(tmp_path / "store", tmp_path / "corpus", tiny.recipe)
    chosen = choose_decoding(tiny, store, tiny.recipe.decode)
    assert chosen["chosen_on"] is None
    assert chosen["default_mode"] == "ctc_greedy_search"
    assert "no dev split" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("errors", "position"),
    [([3], 0), ([3, 2, 2, 2, 5], 2), ([2, 2, 4, 1, 1], 4), ([1, 5, 1, 1, 1, 5], 3), ([0] * 4, 2)],
)
def test_middle_of_best(errors, position):
    assert middle_of_best(errors) == position


def test_text_rule(tiny):
    assert text_rule(tiny.recipe) == "text NFKC, case keep, punctuation removed"
