"""WeNet folders in; what is wrong with one is a sentence, and no model is left."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from rayasr.checkpoint import load_model
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.wenet.exporting import export_wenet
from rayasr.wenet.importing import import_wenet
from tests.wenet_models import UNITS, changed, quiet, random_weights, read_state, write_wenet


def test_imported_model_is_wenets(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    loaded = load_model(import_wenet(source, tmp_path / "model", notes=quiet))
    state = loaded.model.state_dict()
    given = {key: value for key, value in read_state(source).items() if not key.endswith(".pe")}
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


@pytest.mark.parametrize("name", ["final.pt", "train.yaml", "units.txt"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    source = write_wenet(tmp_path / "wenet")
    (source / name).unlink()
    with pytest.raises(CheckpointError, match=f"wenet lacks {name}; a WeNet model is"):
        import_wenet(source, tmp_path / "model")
    with pytest.raises(CheckpointError, match="is not a folder"):
        import_wenet(source / name, tmp_path / "model")


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


def test_cmvn_of_the_weights_counts(tmp_path: Path) -> None:
    source = write_wenet(tmp_path / "wenet")
    weights = read_state(source)
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
