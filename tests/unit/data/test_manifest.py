"""Manifests: what is rejected."""

from rayasr.data.manifest import (
    REJECT_REASONS,
    Manifest,
    Utterance,
    check_manifest,
)


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
