"""Text to unit ids and back: characters, sentencepiece BPE, or both mixed."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece

from rayasr import storage
from rayasr.config import UnitsConfig
from rayasr.errors import ConfigError, DataError
from rayasr.text import UNKNOWN, is_cjk, split_cjk

BLANK = "<blank>"
SOS_EOS = "<sos/eos>"
SPACE = "▁"
UNITS_FILE = "units.txt"
BPE_FILE = "bpe.model"


class Tokenizer:
    """Units of a model, in WeNet's order: `<blank>` 0, `<unk>` 1, `<sos/eos>` third or last.

    With a sentencepiece model and CJK characters among the units that are no pieces of it, CJK
    characters are units of their own and BPE cuts what stands between them (`mixed`). Text comes
    in normalised (`rayasr.text`). Raises DataError for a list of units that is no such list.
    """

    blank_id = 0
    unk_id = 1

    def __init__(self, units: Sequence[str], bpe_model: bytes | None = None) -> None:
        self.units = tuple(units)
        self._ids = {unit: i for i, unit in enumerate(self.units)}
        _check_units(self.units, self._ids)
        self.sos_eos_id = next(
            self._ids[name] for name in (SOS_EOS, "<eos>", "<sos>") if name in self._ids
        )
        self.vocab_size = len(self.units)
        self._special = {self.blank_id, self.sos_eos_id}
        self._bpe_model = bpe_model
        self._processor: Any = None
        self._mixed = False
        if bpe_model is not None:
            self._processor = _open_bpe(bpe_model)
            pieces = set(_pieces(self._processor))
            self._mixed = any(is_cjk(unit) and unit not in pieces for unit in self.units)

    @property
    def kind(self) -> str:
        """What the units are: char, bpe or mixed."""
        if self._bpe_model is None:
            return "char"
        return "mixed" if self._mixed else "bpe"

    def encode(self, text: str) -> list[int]:
        """Ids of a normalised text; unknown units become `unk_id`."""
        return [self._ids.get(unit, self.unk_id) for unit in self.tokenize(text)]

    def tokenize(self, text: str) -> list[str]:
        """The units of a normalised text, known or not; a space is `▁` or begins a BPE piece."""
        if self._processor is None:
            return list(text.strip().replace(" ", SPACE))
        if not self._mixed:
            return list(self._processor.encode_as_pieces(text))
        units: list[str] = []
        for part in split_cjk(text):
            units += [part] if is_cjk(part) else self._processor.encode_as_pieces(part)
        return units

    def unknown(self, text: str) -> list[str]:
        """Units of a text that the vocabulary lacks, each once, in order of appearance."""
        return list(dict.fromkeys(u for u in self.tokenize(text) if u not in self._ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids with its spaces; `<blank>` and `<sos/eos>` vanish, `<unk>` stays.

        In mixed text no space stands beside a CJK character.
        """
        return self.tidy("".join(self.units[i] for i in ids if i not in self._special))

    def tidy(self, text: str) -> str:
        """Joined units as text: `▁` and spaces become single spaces, none at the ends."""
        text = " ".join(text.replace(SPACE, " ").split())
        return _unspaced_cjk(text) if self._mixed else text

    def save(self, folder: str | Path) -> None:
        """Write `units.txt`, and `bpe.model` where there is one; raises DataError."""
        lines = [f"{unit} {i}\n" for i, unit in enumerate(self.units)]
        storage.write_atomic(storage.join(folder, UNITS_FILE), "".join(lines))
        if self._bpe_model is not None:
            storage.write_atomic(storage.join(folder, BPE_FILE), self._bpe_model)

    @classmethod
    def load(cls, folder: str | Path, units_file: str = UNITS_FILE) -> "Tokenizer":
        """What `save` wrote; raises DataError where it is missing or damaged."""
        return _read(storage.join(folder, units_file), storage.join(folder, BPE_FILE))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Tokenizer) and self.units == other.units
        return same and self._bpe_model == other._bpe_model  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((self.units, self._bpe_model))

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[Any, ...]]:
        return Tokenizer, (self.units, self._bpe_model)


def build_tokenizer(texts: Iterable[str], config: UnitsConfig, seed: int = 0) -> Tokenizer:
    """Units of the normalised training texts, the same for the same texts in any order.

    Raises ConfigError where the recipe's units.txt cannot be used or the texts do not hold enough
    for `units.bpe_size`, DataError where there is no text at all.
    """
    if config.file is not None:
        return _from_file(Path(config.file), config)
    ordered = sorted(texts)
    if not any(ordered):
        raise DataError("there is no training text to build units from; check the transcripts")
    bpe_model: bytes | None = None
    chars: set[str] = set()
    if config.kind == "bpe":
        bpe_model = _train_bpe(ordered, config.bpe_size, seed)
    elif config.kind == "mixed":
        parts = [part for text in ordered for part in split_cjk(text)]
        chars = {part for part in parts if is_cjk(part)}
        between = [part for part in parts if not is_cjk(part)]
        bpe_model = _train_bpe(between, config.bpe_size, seed) if between else None
    if bpe_model is None:
        chars = set("".join(ordered).replace(" ", SPACE))
    units = sorted(chars)
    if bpe_model is not None:
        units += _pieces(_open_bpe(bpe_model))
    if config.sos_eos == "third":
        return Tokenizer([BLANK, UNKNOWN, SOS_EOS, *units], bpe_model)
    return Tokenizer([BLANK, UNKNOWN, *units, SOS_EOS], bpe_model)


def _from_file(path: Path, config: UnitsConfig) -> Tokenizer:
    """A given units.txt, with the bpe.model that lies beside it."""
    if not path.is_file():
        raise ConfigError(f"units.file: {path} does not exist; give the path of a units.txt")
    model = path.with_name(BPE_FILE)
    if config.kind != "char" and not model.is_file():
        raise ConfigError(
            f"units.kind {config.kind} with units.file needs {model} beside it; "
            "copy the sentencepiece model there under that name"
        )
    try:
        return _read(str(path), str(model) if config.kind != "char" else None)
    except DataError as error:
        raise ConfigError(f"units.file: {error}") from error


def read_units(path: str) -> list[str]:
    """The units of a units.txt, whatever they are called; raises DataError."""
    units: list[str] = []
    text = storage.read_bytes(path).decode("utf-8", errors="replace").rstrip("\n")
    for number, line in enumerate(text.split("\n")):
        unit, _, index = line.rstrip("\r").replace("\t", " ").rpartition(" ")
        if not unit or index != str(number):
            raise DataError(
                f"{path} line {number + 1}: {line!r} is not `UNIT {number}`; "
                "ids must count up from 0"
            )
        units.append(unit)
    return units


def _read(units_path: str, model_path: str | None) -> Tokenizer:
    units = read_units(units_path)
    has_model = model_path is not None and storage.exists(model_path)
    model = storage.read_bytes(model_path) if has_model and model_path is not None else None
    try:
        return Tokenizer(units, model)
    except DataError as error:
        raise DataError(f"{units_path}: {error}") from error


def _check_units(units: Sequence[str], ids: dict[str, int]) -> None:
    if tuple(units[:2]) != (BLANK, UNKNOWN):
        raise DataError(f"units must begin with {BLANK} and {UNKNOWN}, as WeNet writes them")
    if not {SOS_EOS, "<eos>", "<sos>"} & set(ids):
        raise DataError(f"units lack {SOS_EOS}")
    if len(ids) != len(units):
        double = next(unit for i, unit in enumerate(units) if ids[unit] != i)
        raise DataError(f"unit {double!r} is there twice")


def _train_bpe(texts: Sequence[str], size: int, seed: int) -> bytes:
    """A sentencepiece model; one thread and sorted texts, so that its bytes repeat."""
    model = io.BytesIO()
    sentencepiece.set_random_generator_seed(seed)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=size,
            character_coverage=1.0,
            normalization_rule_name="identity",  # text is normalised before
            num_threads=1,
            max_sentence_length=1 << 20,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            unk_surface=UNKNOWN,
            minloglevel=5,
        )
    except (RuntimeError, OSError) as error:
        raise ConfigError(_bpe_advice(str(error), size, texts)) from error
    return model.getvalue()


def _bpe_advice(message: str, size: int, texts: Sequence[str]) -> str:
    """What bpe_size the texts allow, from what sentencepiece says."""
    if found := re.search(r"value <= (\d+)", message):
        return (
            f"units.bpe_size {size} is too large for this training text; "
            f"set units.bpe_size={found.group(1)} or less, or units.kind=char"
        )
    num_chars = len(set("".join(texts).replace(" ", SPACE)) | {SPACE})
    if size <= num_chars + 1:
        return (
            f"units.bpe_size {size} is too small: the training text has {num_chars} different "
            f"characters; set units.bpe_size={num_chars + 50} or so"
        )
    return f"sentencepiece could not build {size} units from the training text: {message}"


def _open_bpe(model: bytes) -> Any:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise DataError(f"{BPE_FILE} is damaged ({error}); make it again") from error


def _pieces(processor: Any) -> list[str]:
    """The pieces of a sentencepiece model in its order, without its own `<unk>` and controls."""
    skip = (processor.is_unknown, processor.is_control)
    return [
        processor.id_to_piece(i)
        for i in range(processor.get_piece_size())
        if not any(test(i) for test in skip)
    ]


def _unspaced_cjk(text: str) -> str:
    """Drop spaces beside CJK characters."""
    words = text.split(" ")
    joined = words[0]
    for word in words[1:]:
        touching = joined[-1:] and (is_cjk(joined[-1]) or is_cjk(word[0]))
        joined += word if touching else f" {word}"
    return joined
