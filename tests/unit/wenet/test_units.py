"""units.txt: what each line means to WeNet is what it means here, or it is refused."""

from pathlib import Path

import pytest

from rayasr.checkpoint import load_model
from rayasr.config import UnitsConfig, load_recipe
from rayasr.errors import CheckpointError, RayasrError
from rayasr.tokenizer import build_tokenizer
from rayasr.wenet.exporting import export_wenet
from rayasr.wenet.importing import import_wenet
from tests.wenet_models import (
    TRAIN_YAML,
    UNITS,
    changed,
    merged,
    quiet,
    random_weights,
    write_wenet,
)


def test_units_that_do_not_fit_the_output_layer(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet", units=UNITS[:-1], weights=random_weights())
    with pytest.raises(CheckpointError, match="has 12 units, the output layer of the model 13"):
        import_wenet(source, tmp_path / "model")


@pytest.mark.parametrize(
    ("units", "special", "message"),
    [
        (("<blank>", "A", *UNITS[2:]), {}, r"id 1 is 'A', WeNet takes it for <unk>"),
        ((*UNITS[:2], *UNITS[3:], "<sos/eos>"), {}, "id 2 is '零', WeNet takes it for <sos/eos>"),
        (UNITS, {"<sos>": 3}, "<sos> 3 and <eos> 2 are not supported"),
        (UNITS, {"<unk>": 4}, "<unk> 4.* are not supported; supported: 0, 1"),
        (UNITS, {"<sos>": 40, "<eos>": 40}, "<eos> 40 are not supported"),
        ((*UNITS[:-1], "二十"), {}, r"units of several letters \(二十\)"),
        ((*UNITS[:-1], "零"), {}, "unit '零' is there twice"),
    ],
)
def test_units_that_mean_something_else(
    tmp_path: Path, units: tuple[str, ...], special: dict[str, int], message: str
) -> None:
    settings = changed("tokenizer_conf.special_tokens", special)
    source = write_wenet(tmp_path / "wenet", settings, units, random_weights())
    with pytest.raises(RayasrError, match=message):
        import_wenet(source, tmp_path / "model", notes=quiet)


def test_units_of_wenet_before_special_tokens(tmp_path: Path) -> None:
    """`<sos/eos>` last, and nothing said about the tokenizer."""
    units = (*UNITS[:2], *UNITS[3:], "<sos/eos>")
    settings = {key: value for key, value in TRAIN_YAML.items() if "tokenizer" not in key}
    source = write_wenet(tmp_path / "wenet", settings, units)
    loaded = load_model(import_wenet(source, tmp_path / "model", notes=quiet))
    assert loaded.tokenizer.sos_eos_id == 12
    assert loaded.recipe.units.sos_eos == "last"


def test_special_units_get_our_names(tmp_path: Path) -> None:
    notes: list[str] = []
    source = write_wenet(tmp_path / "wenet", units=("<blk>", "<UNK>", "<eos>", *UNITS[3:]))
    loaded = load_model(import_wenet(source, tmp_path / "model", notes=notes.append))
    assert loaded.tokenizer.units == UNITS
    assert sum(" is called " in note for note in notes) == 3


def test_bpe_model_is_found_or_asked_for(tmp_path: Path) -> None:
    units = UnitsConfig(kind="bpe", bpe_size=20)
    bpe = build_tokenizer(["HELLO THERE", "OVER THE HILL"], units)
    bpe.save(tmp_path / "bpe")
    settings = merged(
        TRAIN_YAML,
        {"tokenizer": "bpe", "tokenizer_conf": {"bpe_path": "data/lang_char/unigram20.model"}},
    )
    source = write_wenet(tmp_path / "wenet", settings, bpe.units)
    with pytest.raises(CheckpointError, match=r"lacks the BPE model .*unigram20\.model"):
        import_wenet(source, tmp_path / "model")
    (tmp_path / "bpe" / "bpe.model").rename(source / "unigram20.model")
    model = import_wenet(source, tmp_path / "model", notes=quiet)
    loaded = load_model(model)
    assert loaded.tokenizer == bpe
    assert (loaded.recipe.text.case, loaded.recipe.decode.unit) == ("upper", "word")
    assert loaded.recipe.units.bpe_size == 20
    report = export_wenet(model, tmp_path / "out", notes=quiet)
    assert "bpe.model" in report.sizes
    again = import_wenet(tmp_path / "out", tmp_path / "again", notes=quiet)
    assert load_model(again).tokenizer == bpe
    assert load_recipe(again / "recipe.yaml") == loaded.recipe
