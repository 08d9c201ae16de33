"""Normalisation of transcripts, and the units that errors are counted in."""

import pytest

from rayasr.config import TextConfig
from rayasr.text import normalize_text, split_cjk, split_units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Ｈｅｌｌｏ　ｗｏｒｌｄ  ", "Hello world"),  # full width, ideographic space
        ("甚至出现，交易几乎停滞的情况。", "甚至出现 交易几乎停滞的情况"),
        ("well-known «quoted» text…", "well known quoted text"),
        ("don’t say 'so' to the dogs' owner", "don't say so to the dogs owner"),
        ("zero\u200bwidth\ufeff and\x00 control", "zerowidth and control"),
        ("tab\tnew\nline\u2028", "tab new line"),
        ("▁space▁mark", "space mark"),
        ("3.5 % of $2", "3 5 of 2"),
        ("नमस्ते दुनिया।", "नमस्ते दुनिया"),  # vowel signs are kept
        ("...", ""),
        ("", ""),
    ],
)
def test_default_rule(text, expected):
    assert normalize_text(text, TextConfig()) == expected


def test_case():
    assert normalize_text("Straße Don't", TextConfig(case="upper")) == "STRASSE DON'T"
    assert normalize_text("STRASSE Don't", TextConfig(case="lower")) == "strasse don't"


def test_punctuation_can_stay():
    kept = normalize_text("Well, 'so' —  it’s ok!", TextConfig(punctuation="keep"))
    assert kept == "Well, 'so' — it's ok!"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你 好 世 界", "你好世界"),
        ("我 用 deep learning 模型", "我用deep learning模型"),
        ("第 3 代 iPhone 15 手机", "第3代iPhone 15手机"),
        ("コ ー ド", "コード"),
        ("안녕 하세요", "안녕 하세요"),  # Korean is written with spaces
    ],
)
def test_spaces_go_except_between_words(text, expected):
    assert normalize_text(text, TextConfig(spaces="remove")) == expected


def test_split_units():
    text = "我用 deep<unk>learning 模型"
    assert split_units("你 好a", "char") == ["你", "好", "a"]
    assert split_units("<unk>你", "char") == ["<unk>", "你"]
    assert split_units("don't  stop", "word") == ["don't", "stop"]
    assert split_units(text, "mixed") == ["我", "用", "deep", "<unk>", "learning", "模", "型"]
    assert all(split_units(" ", unit) == [] for unit in ("char", "word", "mixed"))


def test_split_cjk():
    assert split_cjk("你好 big world 界") == ["你", "好", "big world", "界"]
    assert split_cjk(" ") == []
