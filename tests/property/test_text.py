"""Text rules that hold for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayasr.config import TextConfig, UnitsConfig
from rayasr.text import normalize_text, split_units
from rayasr.tokenizer import build_tokenizer

pytestmark = pytest.mark.property

CONFIGS = st.builds(
    TextConfig,
    case=st.sampled_from(["keep", "upper", "lower"]),
    punctuation=st.sampled_from(["keep", "remove"]),
    spaces=st.sampled_from(["keep", "remove"]),
)
TRICKY = st.text(alphabet="aB'’ 你好ンｶﾞßİŉΣς\u0301\u200b\u0345▁ﬁ，.-3안 ", max_size=12)


@given(text=st.text(max_size=30) | TRICKY, config=CONFIGS)
def test_normalising_twice_changes_nothing(text, config):
    once = normalize_text(text, config)
    assert normalize_text(once, config) == once


@given(text=TRICKY)
def test_units_of_all_kinds_hold_the_same_characters(text):
    flat = "".join(text.split())
    for unit in ("char", "word", "mixed"):
        assert "".join(split_units(text, unit)) == flat


@given(texts=st.lists(TRICKY, min_size=1, max_size=4), config=CONFIGS)
def test_characters_come_back(texts, config):
    texts = [normalize_text(text, config) for text in texts]
    if not any(texts):
        return
    tokenizer = build_tokenizer(texts, UnitsConfig(kind="char"))
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
