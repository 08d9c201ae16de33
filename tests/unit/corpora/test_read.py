"""Reading corpora: layouts found by looking, bad input, dev splits."""

from collections import Counter
from pathlib import Path

import pytest

from rayasr.config import CorpusConfig
from rayasr.corpora.read import read_corpora
from rayasr.errors import DataError
from tests.factories import make_aishell_corpus, make_kaldi_corpus, write_lines, write_wav


def read(*paths, dev_fraction=0.1, seed=1, formats="auto"):
    notes = []
    corpora = [CorpusConfig(path=str(path), format=formats) for path in paths]
    manifest = read_corpora(corpora, dev_fraction=dev_fraction, seed=seed, notes=notes.append)
    return manifest, notes


def counts(manifest):
    return Counter(item.split for item in manifest.utterances)


def test_layouts_are_found(tmp_path):
    aishell = make_aishell_corpus(tmp_path / "aishell", train=3, dev=2, test=1)
    kaldi = make_kaldi_corpus(tmp_path / "kaldi", {"train": 2, "dev": 1})
    manifest, notes = read(aishell, kaldi)
    assert counts(manifest) == {"train": 5, "dev": 3, "test": 1}
    assert [item.corpus for item in manifest.utterances] == [0] * 6 + [1] * 3
    assert "aishell, 6 utterances (train 3, dev 2, test 1); 0 rejected" in notes[0]
    assert "kaldi" in notes[1]
    for item in manifest.utterances:
        assert Path(manifest.audio_path(item)).stat().st_size == item.size


def test_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"nowhere does not exist; check --corpus"):
        read(tmp_path / "nowhere")


def test_no_corpus_given():
    with pytest.raises(DataError, match="no corpus given"):
        read()


def test_empty_folder_lists_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"is empty; looked for AISHELL-1 .*Kaldi .*data\.list"):
        read(tmp_path / "empty")


def test_folder_of_something_else(tmp_path):
    write_lines(tmp_path / "notes.txt", ["hello"])
    with pytest.raises(DataError, match="is no corpus that is known; looked for AISHELL-1"):
        read(tmp_path)


def test_corpus_without_utterances(tmp_path):
    make_aishell_corpus(tmp_path, train=0, dev=0, test=0)
    (tmp_path / "data_aishell" / "wav").mkdir()
    with pytest.raises(DataError, match="holds no utterance"):
        read(tmp_path)


def test_named_format_is_not_guessed(tmp_path):
    make_aishell_corpus(tmp_path, train=1, dev=0, test=0)
    with pytest.raises(DataError, match="is no corpus that is known; looked for Kaldi"):
        read(tmp_path, formats="kaldi")


def test_remote_corpus_is_refused():
    with pytest.raises(DataError, match="copy or mount the corpus first"):
        read("s3://bucket/corpus")


def test_dev_speakers_are_held_out_and_said(tmp_path):
    make_aishell_corpus(tmp_path, train=40, dev=0, test=2, speakers=20)
    manifest, notes = read(tmp_path, dev_fraction=0.1)
    speakers = {
        split: {item.speaker for item in manifest.utterances if item.split == split}
        for split in ("train", "dev")
    }
    assert len(speakers["dev"]) == 2
    assert not speakers["dev"] & speakers["train"]
    assert counts(manifest) == {"train": 36, "dev": 4, "test": 2}
    assert "2 of 20 training speakers (4 utterances) held out by seed 1" in notes[-1]
    assert read(tmp_path)[0] == manifest
    assert read(tmp_path, seed=2)[0] != manifest


def test_dev_of_one_speaker_is_by_utterance_and_said(tmp_path):
    make_aishell_corpus(tmp_path, train=10, dev=0, test=0, speakers=1)
    manifest, notes = read(tmp_path)
    assert counts(manifest) == {"train": 9, "dev": 1}
    assert "1 of 10 training utterances" in notes[-1]
    assert "dev shares them with train" in notes[-1]


def test_corpus_with_test_only_gets_no_dev(tmp_path):
    make_aishell_corpus(tmp_path, train=0, dev=0, test=3)
    manifest, _ = read(tmp_path)
    assert counts(manifest) == {"test": 3}


def test_one_key_in_two_corpora_is_rejected_once(tmp_path):
    one = make_aishell_corpus(tmp_path / "one", train=4, dev=1, test=1)
    two = make_aishell_corpus(tmp_path / "two", train=4, dev=2, test=0)
    manifest, _ = read(one, two)
    keys = [item.key for item in manifest.utterances]
    assert len(keys) == len(set(keys)) == 7
    assert Counter(item.reason for item in manifest.rejects) == {"duplicate_key": 5}


def test_link_to_a_parent_is_not_walked_forever(tmp_path):
    make_aishell_corpus(tmp_path, train=2, dev=0, test=0)
    (tmp_path / "data_aishell" / "wav" / "train" / "loop").symlink_to(tmp_path / "data_aishell")
    manifest, _ = read(tmp_path)
    assert len(manifest.utterances) + len(manifest.rejects) >= 2


def test_broken_encoding_names_file_and_line(tmp_path):
    make_kaldi_corpus(tmp_path, {"": 2})
    (tmp_path / "text").write_bytes("all-spk0-000 一\n".encode() + "all-spk1-001 二".encode("gbk"))
    with pytest.raises(DataError, match=r"text, line 2: not UTF-8; convert it"):
        read(tmp_path)


def test_real_corpora(shared):
    expected = {
        "fsdd_aishell": {"train": 357, "dev": 14, "test": 32},
        "aishell_real": {"train": 123, "dev": 5, "test": 48},
        "an4": {"train": 843, "dev": 105, "test": 130},
    }
    for name, numbers in expected.items():
        manifest, _ = read(shared / "data" / name)
        assert counts(manifest) == numbers
        assert not manifest.rejects


def test_samples_table_is_read(shared):
    manifest, _ = read(shared / "data" / "samples")
    assert len(manifest.utterances) == 18


def test_audio_may_be_anywhere(tmp_path):
    outside = write_wav(tmp_path / "elsewhere" / "a.flac")
    write_lines(tmp_path / "corpus" / "all.csv", ["audio,text", f"{outside},一"])
    manifest, _ = read(tmp_path / "corpus")
    assert manifest.audio_path(manifest.utterances[0]) == str(outside)
