"""Text as training and scoring see it: one normalisation, and the units that errors count."""

import functools
import re
import unicodedata
from typing import Literal

from rayasr.config import TextConfig

UNKNOWN = "<unk>"
"""What a decoded unknown unit looks like; one unit wherever text is split."""

_CJK = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Han, kana and bopomofo: written without spaces. Hangul is not here, Korean has spaces."""

_MIXED_UNIT = re.compile(f"[{_CJK}]|{UNKNOWN}|[^\\s{_CJK}]+?(?={UNKNOWN}|[\\s{_CJK}]|$)")
_CHAR_UNIT = re.compile(f"{UNKNOWN}|\\S")
_CJK_CHAR = re.compile(f"[{_CJK}]")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2019\u02bc\u2032\uff07", "'"))
_MAX_PASSES = 8


def normalize_text(text: str, config: TextConfig) -> str:
    """A transcript in the recipe's writing; applying it twice changes nothing.

    NFKC (full-width letters become plain ones), one case, punctuation and symbols out, single
    spaces. Control and zero-width characters never survive, nor does `▁`, which units use for a
    space. One pass can leave work for the next (upper case may decompose a letter), so passes
    repeat until nothing changes.
    """
    for _ in range(_MAX_PASSES):
        before, text = text, _normalize_once(text, config)
        if text == before:
            break
    return text


def is_cjk(char: str) -> bool:
    """Whether a character belongs to a script written without spaces between words."""
    return _CJK_CHAR.match(char) is not None


def split_cjk(text: str) -> list[str]:
    """Text cut into single CJK characters and the stretches between them, spaces stripped."""
    return [part for piece in re.split(f"([{_CJK}])", text) if (part := piece.strip())]


def split_units(text: str, unit: Literal["char", "word", "mixed"]) -> list[str]:
    """The units that errors are counted in; `<unk>` is one of them in every case.

    char: every character but spaces; word: between spaces; mixed: CJK characters and, between
    them, words.
    """
    if unit == "char":
        return _CHAR_UNIT.findall(text)
    if unit == "word":
        return text.split()
    return _MIXED_UNIT.findall(text)


def _normalize_once(text: str, config: TextConfig) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES)
    if config.case == "upper":
        text = text.upper()
    elif config.case == "lower":
        text = text.lower()
    text = unicodedata.normalize("NFKC", text)
    remove = config.punctuation == "remove"
    kept = (_replacement(char, remove) for char in text)
    text = "".join(kept)
    if remove and "'" in text:
        text = _drop_outer_apostrophes(text)
    text = " ".join(text.split())
    if config.spaces == "remove":
        text = _remove_spaces(text)
    return text


@functools.lru_cache(maxsize=65536)
def _replacement(char: str, remove_punctuation: bool) -> str:
    category = unicodedata.category(char)
    if char == "▁" or char.isspace():
        return " "
    if category[0] == "C":  # control, format (zero-width), private, unassigned
        return ""
    if remove_punctuation and category[0] in "PS" and char != "'":
        return " "
    return char


def _drop_outer_apostrophes(text: str) -> str:
    """Apostrophes stay between two letters only: don't, but 'so' loses both."""
    padded = f" {text} "
    return "".join(
        " " if char == "'" and not (_in_word(padded[i]) and _in_word(padded[i + 2])) else char
        for i, char in enumerate(text)
    )


def _in_word(char: str) -> bool:
    return unicodedata.category(char)[0] in "LNM"


def _remove_spaces(text: str) -> str:
    """Keep a space only where two words of letters or digits would run together without it."""
    parts = text.split(" ")
    joined = parts[0]
    for part in parts[1:]:
        apart = _in_word(joined[-1]) and _in_word(part[0])
        if apart and not (is_cjk(joined[-1]) or is_cjk(part[0])):
            joined += " "
        joined += part
    return joined
