"""WeNet's units.txt and BPE model as our tokenizer, and the text rule that fits the units."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from rayasr.config import Recipe
from rayasr.errors import CheckpointError
from rayasr.text import UNKNOWN
from rayasr.tokenizer import BLANK, BPE_FILE, SOS_EOS, SPACE, UNITS_FILE, Tokenizer, read_units
from rayasr.wenet.supported import lookup
from rayasr.wenet.train_yaml import num_pieces

_SPECIAL = re.compile(r"<[^<>]+>")


def read_tokenizer(
    folder: Path, values: Mapping[str, Any], vocab_size: int, notes: Callable[[str], None]
) -> Tokenizer:
    """The tokenizer of a WeNet folder, whose output layer has `vocab_size` rows.

    train.yaml's `special_tokens` decide which unit is what; WeNet's names for these are replaced by
    `<blank>`, `<unk>` and `<sos/eos>`. Raises CheckpointError, DataError.
    """
    path = folder / UNITS_FILE
    units = read_units(str(path))
    if len(units) != vocab_size:
        raise CheckpointError(
            f"{path} has {len(units)} units, the output layer of the model {vocab_size}; "
            "copy the units.txt that it was trained with"
        )
    for name, index in _special_ids(values, vocab_size, path).items():
        _name(units, index, name, path, notes)
    bpe = _find_bpe(folder, values)
    if bpe is None:
        long = next((u for u in units if len(u) > 1 and not _SPECIAL.fullmatch(u)), None)
        if long is not None:
            raise CheckpointError(
                f"{path} has units of several letters ({long}) and train.yaml says characters; "
                f"where they are BPE, copy the sentencepiece model to {folder / BPE_FILE}"
            )
    return Tokenizer(units, None if bpe is None else bpe.read_bytes())


def with_units(recipe: Recipe, tokenizer: Tokenizer) -> Recipe:
    """The recipe with the text rule under which texts are made of these units."""
    kind = tokenizer.kind
    letters = "".join(unit for unit in tokenizer.units if not _SPECIAL.fullmatch(unit))
    cases = {"upper": letters.upper() == letters, "lower": letters.lower() == letters}
    fitting = [case for case, fits in cases.items() if fits]
    has_punctuation = any(unicodedata.category(c)[0] in "PS" and c not in "'▁" for c in letters)
    spaced = kind != "char" or SPACE in letters
    text = {
        "case": fitting[0] if len(fitting) == 1 else "keep",
        "punctuation": "keep" if has_punctuation else "remove",
        "spaces": "keep" if spaced else "remove",
    }
    third = tokenizer.sos_eos_id == 2
    units: dict[str, Any] = {"kind": kind, "sos_eos": "third" if third else "last"}
    if kind != "char":
        units["bpe_size"] = num_pieces(tokenizer.vocab_size)
    unit = "mixed" if kind == "mixed" else "word" if spaced else "char"
    return recipe.model_copy(
        update={
            "text": recipe.text.model_copy(update=text),
            "units": recipe.units.model_copy(update=units),
            "decode": recipe.decode.model_copy(update={"unit": unit}),
        }
    )


def _special_ids(values: Mapping[str, Any], vocab_size: int, path: Path) -> dict[str, int]:
    """Ids of `<blank>`, `<unk>` and `<sos/eos>`; WeNet's default for the last is the last id."""
    special = lookup(values, "tokenizer_conf.special_tokens", {})
    sos, eos = (special.get(name, vocab_size - 1) for name in ("<sos>", "<eos>"))
    if sos != eos:
        raise CheckpointError(
            f"train.yaml beside {path}: special_tokens <sos> {sos} and <eos> {eos} are not "
            "supported; supported: one id for both"
        )
    blank, unk = special.get("<blank>", 0), special.get("<unk>", 1)
    if (blank, unk) != (0, 1) or not isinstance(eos, int) or not 1 < eos < vocab_size:
        raise CheckpointError(
            f"train.yaml beside {path}: special_tokens <blank> {blank}, <unk> {unk}, <eos> {eos} "
            f"are not supported; supported: 0, 1, and one of 2 to {vocab_size - 1}"
        )
    return {BLANK: blank, UNKNOWN: unk, SOS_EOS: eos}


def _name(
    units: list[str], index: int, name: str, path: Path, notes: Callable[[str], None]
) -> None:
    """Give a unit its name here; raises CheckpointError where it is a unit of speech."""
    found = units[index]
    if found == name:
        return
    if name in units or not _SPECIAL.fullmatch(found):
        raise CheckpointError(
            f"{path}: id {index} is {found!r}, WeNet takes it for {name} (special_tokens of "
            "train.yaml; else the last id is <sos/eos>); copy both files of the model's training"
        )
    units[index] = name
    notes(f"{path}: unit {found} is called {name} here")


def _find_bpe(folder: Path, values: Mapping[str, Any]) -> Path | None:
    """The sentencepiece model of a BPE tokenizer; raises CheckpointError where it is missing."""
    tokenizer = lookup(values, "tokenizer")  # null: WeNet before 2023-12 was told by an option
    if tokenizer not in ("bpe", None):
        return None
    named = lookup(values, "tokenizer_conf.bpe_path")
    name = BPE_FILE if named is None else PurePosixPath(str(named)).name
    models = list(folder.glob("*.model"))
    alone = models if len(models) == 1 else []
    for path in (folder / name, folder / f"{name}.model", folder / BPE_FILE, *alone):
        if path.is_file():
            return path
    if tokenizer == "bpe":
        where = f" ({named} in train.yaml)" if named else ""
        raise CheckpointError(
            f"{folder} lacks the BPE model of its units{where}; copy it to {folder / BPE_FILE}"
        )
    return None
