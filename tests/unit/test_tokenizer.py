"""Units: building, WeNet's file format, encoding and decoding, bad input."""

import pickle

import pytest

from rayasr.config import UnitsConfig
from rayasr.errors import ConfigError, DataError
from rayasr.tokenizer import Tokenizer, build_tokenizer

ENGLISH = ["hello world it's fine", "the quick brown fox", "hello the world", "fine foxes"] * 3
MIXED = ["你好 hello world", "世界 the fox", "hello 世界 你好"] * 3


def make(kind="char", texts=ENGLISH, **settings):
    return build_tokenizer(texts, UnitsConfig(kind=kind, **settings), seed=0)


def test_characters():
    tokenizer = make(texts=["你好", "你 a"])
    assert tokenizer.units == ("<blank>", "<unk>", "<sos/eos>", "a", "▁", "你", "好")
    assert tokenizer.encode("好 b") == [6, 4, 1]
    assert tokenizer.decode([0, 6, 4, 1, 2]) == "好 <unk>"
    assert tokenizer.unknown("好bb c") == ["b", "c"]
    assert (tokenizer.sos_eos_id, tokenizer.vocab_size, tokenizer.kind) == (2, 7, "char")


def test_sos_eos_can_be_last():
    tokenizer = make(texts=["你好"], sos_eos="last")
    assert tokenizer.units == ("<blank>", "<unk>", "你", "好", "<sos/eos>")
    assert tokenizer.sos_eos_id == 4


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_text_comes_back(kind):
    tokenizer = make(kind, bpe_size=45)
    assert tokenizer.kind == kind
    for text in ENGLISH:
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.unknown(text) == []


def test_bpe_begins_words_with_the_mark():
    tokenizer = make("bpe", bpe_size=45)
    assert "▁hello" in tokenizer.units
    assert tokenizer.tokenize("hello world")[0] == "▁hello"
    assert tokenizer.unknown("hello Q") == ["Q"]


def test_mixed_units():
    tokenizer = make("mixed", MIXED, bpe_size=30)
    assert tokenizer.kind == "mixed"
    assert tokenizer.tokenize("你好 hello")[:2] == ["你", "好"]
    assert tokenizer.decode(tokenizer.encode("你好 hello world 世界")) == "你好hello world世界"
    assert tokenizer.unknown("我 hello") == ["我"]


def test_mixed_without_latin_text_needs_no_bpe():
    assert make("mixed", ["你好", "世界"]).kind == "char"


@pytest.mark.parametrize("kind", ["char", "bpe", "mixed"])
def test_same_texts_same_units_in_any_order(kind, tmp_path):
    texts = MIXED if kind == "mixed" else ENGLISH
    first, second = (make(kind, order, bpe_size=32) for order in (texts, texts[::-1]))
    assert first == second
    first.save(tmp_path)
    assert Tokenizer.load(tmp_path) == first
    assert Tokenizer.load(tmp_path).kind == kind
    assert pickle.loads(pickle.dumps(first)) == first
    assert (tmp_path / "bpe.model").exists() == (kind != "char")


def test_units_file_is_wenets(tmp_path):
    make(texts=["你好"]).save(tmp_path)
    lines = "<blank> 0\n<unk> 1\n<sos/eos> 2\n你 3\n好 4\n"
    assert (tmp_path / "units.txt").read_text(encoding="utf-8") == lines


def test_wenets_units_are_read(shared):
    tokenizer = Tokenizer.load(shared / "parity" / "u2pp_trained")
    assert (tokenizer.sos_eos_id, tokenizer.vocab_size) == (12, 13)
    assert tokenizer.decode(tokenizer.encode("一二零")) == "一二零"


def test_sentencepiece_is_quiet(capfd):
    make("bpe", bpe_size=45)
    with pytest.raises(ConfigError):
        make("bpe", bpe_size=5000)
    assert capfd.readouterr() == ("", "")


def test_too_large_a_bpe_size_names_one_that_works():
    with pytest.raises(ConfigError, match=r"units.bpe_size=(\d+) or less") as info:
        make("bpe", bpe_size=5000)
    size = int(str(info.value).split("units.bpe_size=")[1].split()[0])
    assert make("bpe", bpe_size=size).kind == "bpe"


def test_too_small_a_bpe_size_names_one_that_works():
    with pytest.raises(ConfigError, match=r"too small.*set units.bpe_size=\d+") as info:
        make("bpe", bpe_size=20)
    size = int(str(info.value).split("units.bpe_size=")[1].split()[0])
    assert make("bpe", bpe_size=size).kind == "bpe"


def test_no_text_at_all():
    with pytest.raises(DataError, match="no training text"):
        make(texts=["", ""])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<blank> 0\n<unk> 1\n<sos/eos> 2\na 4\n", "line 4"),
        ("<blank> 0\n<unk> 1\na 2\n", "lack <sos/eos>"),
        ("a 0\n<blank> 1\n<sos/eos> 2\n", "begin with <blank>"),
        ("<blank> 0\n<unk> 1\n<sos/eos> 2\na 3\na 4\n", "'a' is there twice"),
    ],
)
def test_bad_units_file(tmp_path, content, message):
    (tmp_path / "units.txt").write_text(content)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)
    with pytest.raises(ConfigError, match=message):
        make(file=str(tmp_path / "units.txt"))


def test_given_units_file(tmp_path):
    built = make("bpe", bpe_size=45)
    built.save(tmp_path)
    path = str(tmp_path / "units.txt")
    assert make("bpe", texts=[], file=path) == built
    (tmp_path / "bpe.model").unlink()
    with pytest.raises(ConfigError, match=r"needs .*bpe\.model"):
        make("bpe", file=path)
    with pytest.raises(ConfigError, match="does not exist"):
        make(file=str(tmp_path / "other.txt"))


def test_damaged_bpe_model(tmp_path):
    make("bpe", bpe_size=45).save(tmp_path)
    (tmp_path / "bpe.model").write_bytes(b"\x00broken")
    with pytest.raises(DataError, match="damaged"):
        Tokenizer.load(tmp_path)
