"""Manifests: what is rejected, and writing and reading back."""

import pytest

from rayasr.data.manifest import (
    REJECT_REASONS,
    Manifest,
    Reject,
    Utterance,
    check_manifest,
    read_manifest,
    write_manifest,
)
from rayasr.errors import DataError


def utterance(key: str, text: str = "一二", split: str = "train", **more) -> Utterance:
    return Utterance(key, f"{key}.wav", text, "s1", split, **more)


def test_duplicates_within_and_over_corpora_keep_the_first():
    items = (utterance("a", "一"), utterance("a", "二"), utterance("a", "三", corpus=1))
    checked = check_manifest(Manifest(("/one", "/two"), items))
    assert [item.text for item in checked.utterances] == ["一"]
    assert [item.reason for item in checked.rejects] == ["duplicate_key"] * 2
    assert "/one/a.wav" in checked.rejects[1].detail


def test_empty_text_leaves_train_and_dev_but_never_test():
    items = tuple(utterance(split, " ", split) for split in ("train", "dev", "test", "noisy"))
    checked = check_manifest(Manifest(("/one",), items))
    assert [item.split for item in checked.utterances] == ["test", "noisy"]
    assert {item.reason for item in checked.rejects} == {"empty_text"}
    assert checked.splits() == ("test", "noisy")


def test_every_reason_given_is_a_known_one():
    items = (utterance("a"), utterance("a"), utterance("b", ""))
    checked = check_manifest(Manifest(("/one",), items))
    assert {item.reason for item in checked.rejects} <= set(REJECT_REASONS)


def test_written_manifest_reads_back_equal(tmp_path):
    items = (utterance("a"), utterance("b", start_s=0.5, end_s=1.25, size=7, corpus=1))
    rejects = (Reject("c", "dev", "c.wav", "unreadable", "“odd” name"),)
    manifest = Manifest(("/one", "/two"), items, rejects)
    write_manifest(tmp_path / "manifest.parquet", manifest)
    assert read_manifest(tmp_path / "manifest.parquet") == manifest


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"not parquet at all"])
def test_damaged_manifest_is_named(tmp_path, damage):
    path = tmp_path / "manifest.parquet"
    write_manifest(path, Manifest(("/one",), (utterance("a"),)))
    path.write_bytes(damage)
    with pytest.raises(DataError, match=r"manifest\.parquet is damaged .*make it again"):
        read_manifest(path)


def test_cut_off_manifest_is_named(tmp_path):
    path = tmp_path / "manifest.parquet"
    write_manifest(path, Manifest(("/one",), (utterance("a"),)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="is damaged"):
        read_manifest(path)
