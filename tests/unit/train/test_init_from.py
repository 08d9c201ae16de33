"""Fine-tuning: what comes over from a model, what starts anew, what stays as it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rayasr.average import average_checkpoints
from rayasr.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_model,
    new_model,
    read_tensors,
    save_model,
)
from rayasr.config import Recipe, parse_recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.errors import CheckpointError, ConfigError
from rayasr.tokenizer import Tokenizer
from rayasr.train.init_from import (
    InitFrom,
    copy_weights,
    freeze,
    matching_units,
    prepare_init,
)
from rayasr.train.loop import FitOptions, FitResult
from rayasr.train.setup import check_workers, default_workers
from rayasr.wenet.importing import import_wenet
from tests.factories import make_store, make_tone_corpus, tiny_training_recipe
from tests.training import fit_here
from tests.wenet_models import write_wenet

OLD = Tokenizer(["<blank>", "<unk>", *"二一九x", "<sos/eos>"])
NEW = Tokenizer(["<blank>", "<unk>", "<sos/eos>", *"一七九二三"])
RECIPE = tiny_training_recipe(train__epochs=2)
BINS = RECIPE.features.num_mel_bins


def changed(section: str, part: str | None = None, **changes: Any) -> Recipe:
    values = RECIPE.model_dump()
    (values[section] if part is None else values[section][part]).update(changes)
    return parse_recipe(values)


BATCH_NORM = changed("model", "encoder", convolution_norm="batch_norm")


def save(folder: Path, recipe: Recipe = RECIPE, tokenizer: Tokenizer = OLD) -> Path:
    """A model of random weights and statistics."""
    torch.manual_seed(11)
    cmvn = CmvnStats.zeros(BINS).add(np.random.default_rng(1).normal(9.0, 4.0, (300, BINS)))
    weights = {
        name: value + 0.02 * torch.rand_like(value) if value.is_floating_point() else value + 5
        for name, value in new_model(recipe, tokenizer).state_dict().items()
    }
    mean, istd = cmvn.mean_istd()
    weights["encoder.global_cmvn.mean"] = torch.from_numpy(mean)
    weights["encoder.global_cmvn.istd"] = torch.from_numpy(istd)
    return save_model(folder, weights, recipe, tokenizer, cmvn)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    corpus = make_tone_corpus(folder / "corpus", train=24, dev=2, test=1)
    make_store(folder / "store", corpus, RECIPE)
    return folder / "store"


def tune(
    store: Path,
    run: Path,
    init_from: InitFrom | None,
    *,
    recipe: Recipe = RECIPE,
    stop_before: int | None = None,
    options: FitOptions | None = None,
) -> FitResult:
    """Fit from a model, in this process; what was said is in RUN/messages.txt."""
    return fit_here(
        recipe, store, run, stop_before=stop_before, options=options, init_from=init_from
    )


def newest(run: Path) -> Checkpoint:
    return list_checkpoints(run)[-1]


def said(run: Path) -> str:
    return (run / "messages.txt").read_text()


def unchanged(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if torch.equal(a[name], b[name])}


def test_units_meet_by_text_and_the_end_of_sentence_by_meaning() -> None:
    assert matching_units(OLD, NEW) == {0: 0, 1: 1, 2: 6, 3: 3, 4: 5, 6: 2}
    other_name = Tokenizer(["<blank>", "<unk>", "<eos>", "一"])
    assert matching_units(other_name, NEW) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert matching_units(NEW, NEW) == {i: i for i in range(8)}


@pytest.mark.parametrize("right", [0, 1])
def test_every_tensor_comes_over(tmp_path: Path, right: int) -> None:
    recipe = changed("model", "decoder", r_num_blocks=right)
    folder = save(tmp_path / "old", recipe)
    torch.manual_seed(5)
    model = new_model(recipe, NEW)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    notes: list[str] = []
    cmvn = copy_weights(model, NEW, prepare_init(recipe, folder), notes.append)
    weights, by_unit = read_tensors(folder / "model.safetensors"), 0
    for name, value in model.state_dict().items():
        if value.shape == weights[name].shape:
            assert torch.equal(value, weights[name]), name
            continue
        by_unit += 1
        for old, new in {0: 0, 1: 1, 2: 6, 3: 3, 4: 5, 6: 2}.items():
            assert torch.equal(value[new], weights[name][old]), (name, new)
        for new in (4, 7):
            assert torch.equal(value[new], fresh[name][new]), (name, new)
    assert by_unit == 2 + 3 * (1 + right)
    assert cmvn is not None
    assert all(map(np.array_equal, cmvn.mean_istd(), load_model(folder).cmvn.mean_istd()))
    assert "units: 6 of 8 copied, 2 new (七 三), 1 of the model's dropped (x)" in notes[0]


def test_training_starts_there(store: Path, tmp_path: Path) -> None:
    """Where no step moves anything, the first model is the old one, but for its new units."""
    old, run = save(tmp_path / "old"), tmp_path / "run"
    tune(store, run, prepare_init(RECIPE, old), recipe=changed("optim", lr=1e-12))
    before, after = read_tensors(old / "model.safetensors"), newest(run).model()
    for name, value in after.items():
        if value.shape == before[name].shape:
            torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)
    units = Tokenizer.load(run)
    new, trained = after["ctc.ctc_lo.weight"], before["ctc.ctc_lo.weight"]
    for unit, index in (("二", 2), ("一", 3), ("<sos/eos>", 6)):
        row = units.units.index(unit)
        torch.testing.assert_close(new[row], trained[index], atol=1e-6, rtol=0)
    assert "weights of" in said(run)
    assert "the optimizer starts fresh" in said(run)
    assert f"fine-tuned from {old}" in (average_checkpoints(run, 1) / "README.md").read_text()


def test_cmvn_goes_with_the_weights(store: Path, tmp_path: Path) -> None:
    """The model's unless told otherwise: in the run, in its model, and after a resume."""
    old = save(tmp_path / "old")
    theirs = load_model(old).cmvn.mean_istd()
    ours = CmvnStats.from_json(json.loads((store / "cmvn.json").read_text())).mean_istd()
    assert not np.array_equal(theirs[0], ours[0])
    for cmvn, expected in (("model", theirs), ("store", ours)):
        run = tmp_path / cmvn
        start = prepare_init(RECIPE, old, cmvn=cmvn)
        tune(store, run, start, stop_before=2)
        (run / "cmvn.json").unlink()
        tune(store, run, None, stop_before=2)
        loaded = load_model(average_checkpoints(run, 1))
        mean, istd = (torch.from_numpy(values) for values in expected)
        assert torch.equal(loaded.model.encoder.global_cmvn.mean, mean)
        assert torch.equal(loaded.model.encoder.global_cmvn.istd, istd)
        assert all(map(np.array_equal, loaded.cmvn.mean_istd(), expected))


def test_frozen_parameters_stay_and_a_resume_is_exact(store: Path, tmp_path: Path) -> None:
    old = save(tmp_path / "old")
    start = prepare_init(RECIPE, old, ["encoder.embed", "decoder.left_decoder.after_norm.bias"])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    tune(store, whole, start)
    tune(store, broken, start, stop_before=3)
    tune(store, broken, None)
    assert f"its training started from {old}" in said(broken)
    for read in (Checkpoint.model, Checkpoint.optimizer):
        a, b = read(newest(whole)), read(newest(broken))
        assert a.keys() == b.keys() == unchanged(a, b)
    before = read_tensors(old / "model.safetensors")
    kept = unchanged(before, {name: newest(whole).model()[name] for name in before})
    assert {name for name in kept if "global_cmvn" not in name} == {
        *(name for name in before if name.startswith("encoder.embed.")),
        "decoder.left_decoder.after_norm.bias",
    }
    moments = [name for name in newest(whole).optimizer() if name.startswith("exp_avg.")]
    assert not any("encoder.embed" in name for name in moments)
    assert "frozen: encoder.embed, decoder.left_decoder.after_norm.bias, " in said(whole)


def test_freeze_by_whole_parts_of_names() -> None:
    model = new_model(changed("model", "encoder", num_blocks=11), NEW)
    freeze(model, ["encoder.encoders.1."])
    held = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert held
    assert all(name.startswith("encoder.encoders.1.") for name in held)
    with pytest.raises(ConfigError, match=r"--freeze 'encoder\.embedding': .* encoder\.embed"):
        freeze(model, ["encoder.embedding"])
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        freeze(model, ["encoder", "decoder", "ctc"])


def test_batch_norm_keeps_its_statistics(store: Path, tmp_path: Path) -> None:
    old, run = save(tmp_path / "old", BATCH_NORM), tmp_path / "run"
    tune(store, run, prepare_init(BATCH_NORM, old), recipe=BATCH_NORM, stop_before=3)
    tune(store, run, None, recipe=BATCH_NORM, stop_before=2)
    before, after = read_tensors(old / "model.safetensors"), newest(run).model()
    statistics = {name for name in before if "running_" in name or "num_batches" in name}
    assert len(statistics) == 3
    assert statistics <= unchanged(before, {name: after[name] for name in before})
    assert "encoder.encoders.0.conv_module.norm.weight" not in unchanged(
        before, {name: after[name] for name in before}
    )
    assert "batch_norm keeps the statistics" in said(run)
    with pytest.raises(ConfigError, match="batch_norm statistics would depend"):
        check_workers(BATCH_NORM, 2)
    check_workers(BATCH_NORM, 2, fine_tuned=True)
    assert default_workers(BATCH_NORM, 3, lambda _: None, fine_tuned=True) == 3


def test_an_imported_model_is_tuned(tmp_path: Path) -> None:
    """From WeNet's folder to a tuned model, the recipe being the imported one."""
    model = import_wenet(write_wenet(tmp_path / "wenet"), tmp_path / "model", notes=lambda _: None)
    values = load_model(model).recipe.model_dump()
    values["train"]["epochs"], values["store"]["shard_utterances"] = 1, 8
    recipe = parse_recipe(values)
    corpus = make_tone_corpus(tmp_path / "corpus", train=8, dev=2, test=1)
    make_store(tmp_path / "store", corpus, recipe)
    run = tmp_path / "run"
    tune(tmp_path / "store", run, prepare_init(recipe, model), recipe=recipe)
    assert "units: 8 of 8 copied, 0 new, 5 of the model's dropped" in said(run)
    assert load_model(average_checkpoints(run, 1)).tokenizer.vocab_size == 8


def test_another_front_end_is_refused_by_name(tmp_path: Path) -> None:
    old = save(tmp_path / "old")
    for changes, named in (
        ({"sample_rate": 16000}, "features.sample_rate 8000 there, 16000 here"),
        ({"window": "hamming"}, "features.window povey there, hamming here"),
        ({"num_mel_bins": 40}, "features.num_mel_bins 20 there, 40 here"),
    ):
        with pytest.raises(CheckpointError, match=named):
            prepare_init(changed("features", **changes), old)
    prepare_init(changed("features", dither=1.0, backend="torchaudio"), old)


def test_another_network_is_refused_by_name(tmp_path: Path) -> None:
    old = save(tmp_path / "old")
    for part, changes, named in (
        ("encoder", {"num_blocks": 2}, "model.encoder.num_blocks 1 there, 2 here"),
        ("encoder", {"kind": "transformer"}, "model.encoder.kind conformer there"),
        ("encoder", {"attention_heads": 2}, "model.encoder.attention_heads 4 there, 2"),
        ("encoder", {"causal_convolution": False}, "causal_convolution True there"),
        ("encoder", {"subsampling_channels": None}, "subsampling_channels 4 there, 16 here"),
        ("decoder", {"r_num_blocks": 0}, "model.decoder.r_num_blocks 1 there, 0 here"),
    ):
        with pytest.raises(CheckpointError, match=named):
            prepare_init(changed("model", part, **changes), old)
    prepare_init(changed("model", "encoder", dropout_rate=0.5, dynamic_chunk=False), old)
    transformer = changed("model", "encoder", kind="transformer")
    other = changed("model", "encoder", kind="transformer", convolution_kernel=9)
    prepare_init(other, save(tmp_path / "transformer", transformer))


def test_models_that_cannot_be_used(store: Path, tmp_path: Path) -> None:
    old, run = save(tmp_path / "old"), tmp_path / "run"
    with pytest.raises(ConfigError, match="--cmvn 'mine' is not one of model, store"):
        prepare_init(RECIPE, old, cmvn="mine")
    with pytest.raises(CheckpointError, match="neither a run nor a model folder"):
        prepare_init(RECIPE, tmp_path)
    start = prepare_init(RECIPE, old)
    units = (old / "units.txt").read_text()
    (old / "units.txt").write_text(units.replace("x 5", "y 5"))
    with pytest.raises(CheckpointError, match="is not the model any more"):
        tune(store, run, start)
    (old / "units.txt").write_text("".join(units.splitlines(keepends=True)[:-2]) + "<sos/eos> 5\n")
    with pytest.raises(CheckpointError, match=r"other shapes: .*embed\.0\.weight"):
        tune(store, run, prepare_init(RECIPE, old))
    shutil.rmtree(old)
    with pytest.raises(CheckpointError, match="cannot read"):
        tune(store, run, start)
    assert list_checkpoints(run) == []


def test_a_start_belongs_to_its_run(store: Path, tmp_path: Path) -> None:
    old, run = save(tmp_path / "old"), tmp_path / "run"
    start = prepare_init(RECIPE, old)
    tune(store, run, start, stop_before=2)
    tune(store, run, replace(start, model="/moved/elsewhere"), stop_before=2)
    step = newest(run).step
    for other, named in (
        (replace(start, digest="0" * 16), f"{old} .digest {start.digest}"),
        (replace(start, freeze=("ctc",)), "--freeze ctc"),
        (replace(start, cmvn="store"), "--cmvn store"),
    ):
        with pytest.raises(CheckpointError, match=f"was started from .*{named}"):
            tune(store, run, other)
    plain = tmp_path / "plain"
    tune(store, plain, None, stop_before=2)
    with pytest.raises(CheckpointError, match="was started from fresh weights, --init-from asks"):
        tune(store, plain, start)
    assert newest(run).step == step


def test_a_dry_run_starts_there_and_keeps_nothing(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    start = prepare_init(RECIPE, save(tmp_path / "old"), ["encoder"])
    tune(store, run, start, options=FitOptions(dry_run=True))
    assert "dry run" in said(run)
    assert list_checkpoints(run) == []
