"""WeNet folders in and out, bit for bit; what is wrong with one is a sentence, and nothing runs."""

import errno
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rayasr.checkpoint import load_model, save_model
from rayasr.config import UnitsConfig, load_recipe, parse_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError, DataError, RayasrError
from rayasr.export.info import read_info
from rayasr.model.u2 import build_model
from rayasr.tokenizer import build_tokenizer
from rayasr.wenet.exporting import export_wenet
from rayasr.wenet.importing import import_wenet
from tests.unit.wenet.test_train_yaml import changed, merged
from tests.wenet_models import (
    TRAIN_YAML,
    UNITS,
    random_weights,
    read_recipe,
    tokenizer,
    write_wenet,
)

MODELS: dict[str, dict[str, Any]] = {
    "u2pp_conformer": {},
    "u2_transformer": {
        "encoder": "transformer",
        "encoder_conf": {"cnn_module_kernel": None, "causal": None, "cnn_module_norm": None},
        "decoder": "transformer",
        "decoder_conf": {"r_num_blocks": None},
    },
    "batch_norm": {"encoder_conf": {"causal": False, "cnn_module_norm": "batch_norm"}},
    "subsampling_6": {"encoder_conf": {"input_layer": "conv2d6"}},
    "subsampling_8": {
        "encoder_conf": {"input_layer": "conv2d8"},
        "dataset_conf": {"fbank_conf": {"num_mel_bins": 23}},
    },
    "absolute": {
        "encoder_conf": {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}
    },
}


def quiet(_: str) -> None:
    pass


def read(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "final.pt", weights_only=True))


@pytest.mark.parametrize("name", MODELS)
def test_import_then_export_keeps_every_bit(tmp_path: Path, name: str) -> None:
    source = write_wenet(tmp_path / "wenet", merged(TRAIN_YAML, MODELS[name]))
    model = import_wenet(source, tmp_path / "model", notes=quiet)
    report = export_wenet(model, tmp_path / "out", notes=quiet)
    before, after = read(source), read(tmp_path / "out")
    assert list(after) == list(before)  # position tables too, in WeNet's order
    assert [key for key in before if not torch.equal(before[key], after[key])] == []
    assert report.max_difference == {"final.pt": 0.0}
    assert set(report.sizes) == {"final.pt", "train.yaml", "units.txt", "global_cmvn"}
    assert read_info(tmp_path / "out").models[0].kind == "wenet_checkpoint"
    again = import_wenet(tmp_path / "out", tmp_path / "again", notes=quiet)
    assert load_recipe(again / "recipe.yaml") == load_recipe(model / "recipe.yaml")
    assert (again / "units.txt").read_bytes() == (model / "units.txt").read_bytes()
    assert (again / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_imported_model_is_wenets(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    loaded = load_model(import_wenet(source, tmp_path / "model", notes=quiet))
    state = loaded.model.state_dict()
    given = {key: value for key, value in read(source).items() if not key.endswith(".pe")}
    assert state.keys() == given.keys()
    assert all(torch.equal(state[key], value) for key, value in given.items())
    mean, istd = (torch.from_numpy(values) for values in loaded.cmvn.mean_istd())
    assert torch.equal(mean, state["encoder.global_cmvn.mean"])
    assert torch.equal(istd, state["encoder.global_cmvn.istd"])
    assert loaded.tokenizer.units == UNITS
    assert loaded.recipe.text.spaces == "remove"
    card = (tmp_path / "model" / "README.md").read_text()
    assert str(source) in card
    assert "exp/tiny" in card


@pytest.mark.parametrize(
    "name",
    [
        "u2pp_trained",
        "unified",
        "u2_conformer/causal_layernorm",
        "u2_conformer/batchnorm_noncausal",
    ],
)
def test_fixtures_come_back_as_they_were(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "parity" / name
    model = import_wenet(source, tmp_path / "model", notes=quiet)
    export_wenet(model, tmp_path / "out", notes=quiet)
    before, after = read(source), read(tmp_path / "out")
    tables = {key for key in after if key.endswith(".pe")}
    assert before.keys() | tables == after.keys()
    for key, value in before.items():
        if key in tables:
            assert float((value - after[key]).abs().max()) <= 1e-6
        else:
            assert torch.equal(value, after[key])
    again = import_wenet(tmp_path / "out", tmp_path / "again", notes=quiet)
    assert load_recipe(again / "recipe.yaml") == load_recipe(model / "recipe.yaml")


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, kind: str) -> None:
    source, target = write_wenet(tmp_path / "wenet"), tmp_path / "was_run"
    content = {"encoder.after_norm.weight": torch.ones(2), "x": Bomb(target)}
    if kind == "pickle":
        (source / "final.pt").write_bytes(pickle.dumps(Bomb(target)))
    else:
        torch.save(content, source / "final.pt", _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        import_wenet(source, tmp_path / "model")
    assert not target.exists()
    assert not (tmp_path / "model").exists()
    if kind == "pickle":
        pickle.loads((source / "final.pt").read_bytes())
    else:
        torch.load(source / "final.pt", weights_only=False)
    assert target.exists()  # so the file would have done it


@pytest.mark.parametrize("name", ["final.pt", "train.yaml", "units.txt"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    source = write_wenet(tmp_path / "wenet")
    (source / name).unlink()
    with pytest.raises(CheckpointError, match=f"wenet lacks {name}; a WeNet model is"):
        import_wenet(source, tmp_path / "model")
    with pytest.raises(CheckpointError, match="is not a folder"):
        import_wenet(source / name, tmp_path / "model")


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    whole = (source / "final.pt").read_bytes()
    for content in (b"", b"abc", whole[: len(whole) // 2]):
        (source / "final.pt").write_bytes(content)
        with pytest.raises(CheckpointError, match="damaged or no file of weights"):
            import_wenet(source, tmp_path / "model")
    values: tuple[tuple[Any, str], ...] = (
        ([1, 2], "holds no state dict but list"),
        ({}, "holds no state dict"),
        ({"model0": random_weights(), "step": 3}, r"\(model0, step\), as deepspeed's"),
        ({"encoder.weight": torch.ones(2)}, r"has no matrix ctc\.ctc_lo\.weight"),
        ({"ctc.ctc_lo.weight": torch.ones(())}, r"has no matrix ctc\.ctc_lo\.weight"),
    )
    for value, message in values:
        torch.save(value, source / "final.pt")
        with pytest.raises(CheckpointError, match=message):
            import_wenet(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    for key, value, message in (
        ("encoder_conf.num_blocks", 3, r"lacks encoder\.encoders\.2\."),
        ("encoder_conf.num_blocks", 1, r"has unknown encoder\.encoders\.1\."),
        ("encoder_conf.linear_units", 64, r"other shapes: encoder\.encoders\.0\.feed_forward"),
        ("encoder_conf.input_layer", "conv2d6", r"lacks encoder\.embed\.linear"),
        (
            "dataset_conf.fbank_conf.num_mel_bins",
            23,
            r"other shapes: encoder\.global_cmvn.*embed\.out",
        ),
    ):
        source = write_wenet(tmp_path / "wenet", changed(key, value), weights=random_weights())
        with pytest.raises(CheckpointError, match=message):
            import_wenet(source, tmp_path / "model", notes=quiet)


def test_other_positions_are_refused(tmp_path: Path) -> None:
    weights = random_weights()
    for table in (torch.ones(1, 5000, 16), torch.ones(5), torch.ones(7, 9, 16)):
        weights["decoder.left_decoder.embed.1.pe"] = table
        source = write_wenet(tmp_path / "wenet", weights=weights)
        with pytest.raises(CheckpointError, match=r"embed\.1\.pe is no table of sinusoids"):
            import_wenet(source, tmp_path / "model")


def test_layers_that_old_wenet_never_called_are_left_out(tmp_path: Path) -> None:
    weights = random_weights()
    weights["encoder.encoders.0.concat_linear.weight"] = torch.ones(16, 32)
    weights["decoder.left_decoder.decoders.0.concat_linear2.bias"] = torch.ones(16)
    notes: list[str] = []
    source = write_wenet(tmp_path / "wenet", weights=weights)
    import_wenet(source, tmp_path / "model", notes=notes.append)
    assert any("2 tensors of concat_linear are left out" in note for note in notes)


def test_units_that_do_not_fit_the_output_layer(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet", units=UNITS[:-1], weights=random_weights())
    with pytest.raises(CheckpointError, match="has 12 units, the output layer of the model 13"):
        import_wenet(source, tmp_path / "model")


SPECIAL = {"<blank>": 0, "<unk>": 1}


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


def test_cmvn_of_the_weights_counts(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    weights = read(source)
    names = [f"encoder.global_cmvn.{name}" for name in ("mean", "istd")]
    rng = np.random.default_rng(0)
    stats = CmvnStats.zeros(20).add(rng.normal(8.0, 3.0, (500, 20)))
    for name, values in zip(names, stats.mean_istd(), strict=True):
        weights[name] = torch.from_numpy(values)
    torch.save(weights, source / "final.pt")
    notes: list[str] = []
    file = source / "global_cmvn"
    file.write_text(json.dumps(stats.to_json()))
    kept = load_model(import_wenet(source, tmp_path / "same", notes=notes.append)).cmvn
    assert kept.frames == 500
    file.write_text(json.dumps(stats.add(np.zeros((900, 20))).to_json()))
    other = load_model(import_wenet(source, tmp_path / "other", notes=notes.append))
    assert sum("is not what final.pt holds" in note for note in notes) == 1
    file.write_text(" [ 1 2 3 0 ]")  # Kaldi's way
    kaldi = load_model(import_wenet(source, tmp_path / "kaldi", notes=notes.append))
    for loaded in (other, kaldi):
        assert all(map(np.array_equal, loaded.cmvn.mean_istd(), stats.mean_istd()))
    for name in names:
        del weights[name]
    torch.save(weights, source / "final.pt")
    with pytest.raises(DataError, match="global_cmvn is damaged"):
        import_wenet(source, tmp_path / "model")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"neither .*final\.pt nor .*global_cmvn has"):
        import_wenet(source, tmp_path / "model")
    file.write_text(json.dumps(CmvnStats.zeros(3).add(rng.normal(0, 1, (9, 3))).to_json()))
    with pytest.raises(CheckpointError, match=r"global_cmvn has 3 bins, train\.yaml 20"):
        import_wenet(source, tmp_path / "model")
    file.write_text(json.dumps(stats.to_json()))
    filled = load_model(import_wenet(source, tmp_path / "filled", notes=notes.append))
    assert torch.equal(
        filled.model.encoder.global_cmvn.mean, torch.from_numpy(stats.mean_istd()[0])
    )
    assert notes[-1].startswith("final.pt has no mean and deviation")


def test_bins_that_never_vary(tmp_path: Path) -> None:
    """WeNet's floor of the variance, 1e-20, survives the way through cmvn.json."""
    weights = random_weights()
    weights["encoder.global_cmvn.istd"][:3] = 1e10
    source = write_wenet(tmp_path / "wenet", weights=weights)
    loaded = load_model(import_wenet(source, tmp_path / "model", notes=quiet))
    istd = torch.from_numpy(loaded.cmvn.mean_istd()[1])
    assert torch.equal(istd, weights["encoder.global_cmvn.istd"])


def test_folders_that_are_taken(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    with pytest.raises(ConfigError, match="is the WeNet folder itself"):
        import_wenet(source, source, notes=quiet)
    model = import_wenet(source, tmp_path / "model", notes=quiet)
    before = (model / "model.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="holds a model or a run already"):
        import_wenet(source, model, notes=quiet)
    assert (model / "model.safetensors").stat().st_mtime_ns == before
    (tmp_path / "file").write_text("")
    for write in (import_wenet, export_wenet):
        with pytest.raises(DataError, match="file"):
            write(source if write is import_wenet else model, tmp_path / "file" / "x", notes=quiet)


@pytest.mark.parametrize(
    ("code", "message"), [(errno.ENOSPC, "no space left while"), (errno.EROFS, "is not writable")]
)
def test_a_folder_that_is_full_or_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
) -> None:
    source = write_wenet(tmp_path / "wenet")
    model = import_wenet(source, tmp_path / "model", notes=quiet)

    def fail(_descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(DataError, match=message):
        import_wenet(source, tmp_path / "other", notes=quiet)
    with pytest.raises(CheckpointError, match="neither a run nor a model"):
        load_model(tmp_path / "other")
    with pytest.raises(DataError, match=message):
        export_wenet(model, tmp_path / "out", notes=quiet)
    assert not (tmp_path / "out" / "export.json").exists()


def test_a_model_that_wenet_has_not_is_refused(tmp_path: Path) -> None:
    loaded = load_model(import_wenet(write_wenet(tmp_path / "wenet"), tmp_path / "m", notes=quiet))

    def save(section: str, **changes: Any) -> Path:
        recipe = parse_recipe(merged(loaded.recipe.model_dump(), {section: changes}))
        weights = loaded.model.state_dict()
        return save_model(tmp_path / "x", weights, recipe, loaded.tokenizer, loaded.cmvn)

    for section, changes, named in (
        ("features", {"snip_edges": False}, r"features\.snip_edges False \(there: True\)"),
        ("features", {"high_freq": -400.0}, r"features\.high_freq -400\.0 \(there: 0\.0\)"),
    ):
        with pytest.raises(ConfigError, match=f"cannot hold a model with {named}"):
            export_wenet(save(section, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    notes: list[str] = []
    model = save("optim", ema_decay=0.9, schedule="cosine")
    export_wenet(model, tmp_path / "out", notes=notes.append)
    assert notes == [
        "train.yaml cannot hold these settings of training: "
        "optim.schedule cosine, optim.ema_decay 0.9"
    ]


@pytest.mark.parametrize("channels", [16, 8])
def test_subsampling_of_another_width_is_refused(tmp_path: Path, channels: int) -> None:
    """WeNet's is as wide as the encoder, 16 here."""
    values = read_recipe(write_wenet(tmp_path / "wenet")).model_dump()
    values["model"]["encoder"]["subsampling_channels"] = channels
    recipe, units = parse_recipe(values), tokenizer()
    cmvn = CmvnStats.zeros(20).add(np.random.default_rng(0).normal(0, 1, (9, 20)))
    model = build_model(recipe.model, num_mel_bins=20, vocab_size=len(UNITS), sos_eos_id=2)
    folder = save_model(tmp_path / "m", model.state_dict(), recipe, units, cmvn)
    if channels == 16:
        export_wenet(folder, tmp_path / "out", notes=quiet)
        return
    with pytest.raises(ConfigError, match=r"subsampling_channels 8 \(there: 16\)"):
        export_wenet(folder, tmp_path / "out", notes=quiet)
