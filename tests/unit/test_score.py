"""rayasr/score.py: alignment, counts, intervals, Kaldi text files."""

import random

import numpy as np
import pytest

from rayasr.errors import DataError
from rayasr.score import (
    ErrorCounts,
    align,
    alignment_text,
    bootstrap_ci95,
    count_errors,
    read_text_file,
    score_files,
    score_texts,
    write_text_file,
)


def distance(a, b):
    """Plain edit distance, row by row."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def test_alignment_has_the_fewest_errors():
    rng = random.Random(3)
    for _ in range(200):
        a = rng.choices("abc", k=rng.randint(0, 9))
        b = rng.choices("abcd", k=rng.randint(0, 9))
        pairs = align(a, b)
        counts = count_errors(pairs)
        assert counts.errors == distance(a, b)
        assert counts.reference_units == len(a)
        assert [r for r, _ in pairs if r is not None] == a
        assert [h for _, h in pairs if h is not None] == b


def test_a_unit_named_like_the_filler_is_a_unit():
    assert align(["<gap>"], []) == (("<gap>", None),)


def test_units():
    references = {"a": "我 们 say hello", "b": "好"}
    hypotheses = {"a": "我们 say hallo", "b": "好"}
    char = score_texts(references, hypotheses, "char")
    assert char.counts == ErrorCounts(sub=1, reference_units=11)
    mixed = score_texts(references, hypotheses, "mixed")
    assert mixed.counts == ErrorCounts(sub=1, reference_units=5)
    word = score_texts(references, hypotheses, "word")
    assert word.counts == ErrorCounts(sub=2, dele=1, reference_units=5)
    assert word.to_json()["wer"] == 60.0
    assert "wer" not in char.to_json()


def test_a_missing_hypothesis_is_all_deletions():
    score = score_texts({"a": "一二", "b": "三"}, {"b": "三"}, "char")
    assert score.counts == ErrorCounts(dele=2, reference_units=3)
    assert score.missing == ("a",)


def test_an_extra_hypothesis_is_refused_by_name():
    with pytest.raises(DataError, match="'c' has a hypothesis but no reference"):
        score_texts({"a": "x"}, {"a": "x", "c": "y"}, "char")


def test_references_without_text_are_refused():
    with pytest.raises(DataError, match="no text to score"):
        score_texts({"a": " "}, {"a": "x"}, "char")


def test_an_empty_reference_counts_its_insertions():
    score = score_texts({"a": "", "b": "x"}, {"a": "yz", "b": "x"}, "char")
    assert score.counts == ErrorCounts(ins=2, reference_units=1)
    assert score.counts.rate == 200.0


def test_an_unknown_unit_is_one_error():
    score = score_texts({"a": "一二"}, {"a": "一<unk>"}, "char")
    assert score.counts == ErrorCounts(sub=1, reference_units=2)


def test_files(tmp_path):
    write_text_file(tmp_path / "ref", {"a": "one two", "b": ""})
    assert (tmp_path / "ref").read_text() == "a one two\nb\n"
    (tmp_path / "hyp").write_text("b  three \n\na\tone two\n")
    score = score_files(tmp_path / "ref", tmp_path / "hyp", "word")
    assert score.counts == ErrorCounts(ins=1, reference_units=2)
    with pytest.raises(DataError, match="cannot read"):
        score_files(tmp_path / "ref", tmp_path / "none", "word")


def test_bad_files(tmp_path):
    (tmp_path / "double").write_text("a x\na y\n")
    with pytest.raises(DataError, match="line 2: 'a' is there twice"):
        read_text_file(tmp_path / "double")
    (tmp_path / "latin").write_bytes(b"a caf\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_text_file(tmp_path / "latin")


def test_interval_is_seeded_and_holds_the_rate():
    rng = np.random.default_rng(1)
    units = rng.integers(5, 20, 300)
    errors = rng.binomial(units, 0.1)
    keys = [str(i) for i in range(300)]
    low, high = bootstrap_ci95(errors, units, keys)
    assert (low, high) == bootstrap_ci95(errors, units, keys)
    assert low < 100 * errors.sum() / units.sum() < high
    assert 1.0 < high - low < 4.0  # about 2 x 1.96 x the binomial standard error of 0.5 %


def test_interval_over_speakers_is_wider_where_speakers_differ():
    units = np.full(100, 10)
    errors = np.repeat([0, 4], 50)
    over_utterances = bootstrap_ci95(errors, units, [str(i) for i in range(100)])
    over_speakers = bootstrap_ci95(errors, units, [str(i // 10) for i in range(100)])
    assert np.diff(over_speakers) > 2 * np.diff(over_utterances)


def test_speakers_are_drawn_where_all_are_known():
    references = {"a1": "x", "a2": "y", "b1": "z"}
    speakers = {"a1": "a", "a2": "a", "b1": "b"}
    assert score_texts(references, references, "char", speakers).drawn == "speakers"
    one = dict.fromkeys(references, "a")
    assert score_texts(references, references, "char", one).drawn == "utterances"
    assert score_texts(references, references, "char", {"a1": "a"}).drawn == "utterances"


def test_alignment_is_readable():
    score = score_texts({"k": "一二x"}, {"k": "一三xy"}, "char")
    assert alignment_text(score) == "k 2 of 3\nref 一 二 x *\nhyp 一 三 x y\n       S    I\n"
