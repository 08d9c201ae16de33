"""Exported models do what the checkpoint does, called as WeNet's C++ runtime calls them."""

import errno
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from rayasr.certify.torchscript_runtime import RuntimeDriver
from rayasr.checkpoint import LoadedModel, load_model, save_model
from rayasr.config import Recipe, parse_recipe
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.errors import CheckpointError, ConfigError, DataError
from rayasr.export import torchscript
from rayasr.export.info import read_info
from rayasr.export.torchscript import export_torchscript, load_script, quantized, run_chunks
from rayasr.score import score_texts
from rayasr.tokenizer import Tokenizer
from tests.factories import make_aishell_corpus, make_model, make_store, tiny_training_recipe
from tests.wenet_models import load_wenet

MEL = 20
TOKENIZER = Tokenizer(["<blank>", "<unk>", *"零一二三四五六七八九", "<sos/eos>"])
MODELS: dict[str, dict[str, Any]] = {
    "u2pp_conformer": {},
    "u2_transformer": {"encoder.kind": "transformer", "decoder.r_num_blocks": 0},
    "subsampling_6": {"encoder.subsampling": 6},
    "absolute_8": {"encoder.subsampling": 8, "encoder.positions": "absolute"},
}


def recipe(**changes: Any) -> Recipe:
    encoder: dict[str, Any] = {
        "output_size": 16,
        "linear_units": 32,
        "num_blocks": 2,
        "attention_heads": 2,
        "convolution_kernel": 4,
        "subsampling_channels": 8,
    }
    decoder: dict[str, Any] = {
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 1,
        "r_num_blocks": 1,
    }
    sections = {"encoder": encoder, "decoder": decoder}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections[section][name] = value
    return parse_recipe({"features": {"num_mel_bins": MEL}, "model": sections})


def save(folder: Path, **changes: Any) -> Path:
    """A model folder with random weights."""
    return make_model(folder / "model", recipe(**changes), TOKENIZER)


def fbank(frames: int, seed: int = 0) -> Tensor:
    """Features (T, F) that wander slowly, as speech does."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, MEL, generator=generator)
    return 8.0 + 3.0 * torch.nn.functional.avg_pool1d(steps.T[None], 9, 1, 4)[0].T * 3.0


class Exported(NamedTuple):
    folder: Path
    module: Any
    loaded: LoadedModel


@pytest.fixture(scope="module", params=MODELS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("export")
    report = export_torchscript(save(folder, **MODELS[request.param]), folder / "out")
    assert report.max_difference["final.zip"] < 1e-4
    return Exported(folder / "out", load_script(folder / "out" / "final.zip"), load_model(folder))


def test_runtime_interface(exported: Exported) -> None:
    _, module, loaded = exported
    encoder, decoder = loaded.recipe.model.encoder, loaded.recipe.model.decoder
    assert module.subsampling_rate() == encoder.subsampling
    assert module.right_context() == {4: 6, 6: 10, 8: 14}[encoder.subsampling]
    assert module.sos_symbol() == module.eos_symbol() == TOKENIZER.sos_eos_id
    assert module.is_bidirectional_decoder() is (decoder.r_num_blocks > 0)
    empty = torch.zeros(0, 0, 0, 0)
    out, att_cache, cnn_cache = module.forward_encoder_chunk(fbank(67)[None], 0, 4, empty, empty)
    assert out.shape[0] == 1
    assert att_cache.shape == (2, 2, 4, 16)  # blocks, heads, required_cache_size, keys and values
    if encoder.kind == "conformer":
        assert cnn_cache.shape == (2, 1, 16, 3)
    log_probs = module.ctc_activation(out)
    torch.testing.assert_close(log_probs.exp().sum(2), torch.ones(log_probs.shape[:2]))
    hyps = torch.tensor([[12, 3, 4], [12, 5, 0]])  # padded with 0, as the runtime does
    lengths = torch.tensor([3, 2])
    left, right = module.forward_attention_decoder(hyps, lengths, out, 0.3)
    assert left.shape == (2, 3, TOKENIZER.vocab_size)
    if module.is_bidirectional_decoder():
        assert right.shape == left.shape


def test_units_stand_beside_the_model(exported: Exported) -> None:
    lines = (exported.folder / "units.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "<blank> 0"
    assert lines[-1] == "<sos/eos> 12"


@pytest.mark.parametrize(("chunk_size", "left_chunks"), [(16, -1), (4, 2), (-1, -1)])
@pytest.mark.parametrize("frames", [130, 90])
def test_runtime_finds_our_hypotheses(
    exported: Exported, chunk_size: int, left_chunks: int, frames: int
) -> None:
    _, module, loaded = exported
    bidirectional = loaded.model.is_bidirectional_decoder()
    reverse_weight = 0.3 if bidirectional else 0.0
    driver = RuntimeDriver(module, chunk_size, left_chunks, reverse_weight=reverse_weight)
    features = fbank(frames, seed=frames)
    _, found = driver.encode(features)
    ours = Recognizer(
        loaded,
        Decoding(chunk_size, left_chunks, ctc_weight=0.5, reverse_weight=reverse_weight),
    ).decode_batch(
        [features], ["ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring"]
    )
    expected = {mode: found[0] for mode, found in ours.hypotheses.items()}
    with torch.no_grad():
        encoder_out, _ = loaded.model.encode(
            features[None], torch.tensor([frames]), chunk_size, left_chunks
        )
        log_probs = loaded.model.ctc_log_probs(encoder_out)[0]
    torch.testing.assert_close(found, log_probs, atol=1e-4, rtol=0)
    assert driver.units(features, "ctc_greedy_search")
    for mode, hypothesis in expected.items():
        assert driver.units(features, mode) == hypothesis.units


def test_rest_of_one_encoder_frame_is_dropped_by_the_runtime(tmp_path: Path) -> None:
    """The C++ runtime wants more than one encoder frame's context: it may lose the last frame."""
    export_torchscript(save(tmp_path), tmp_path / "out")
    driver = RuntimeDriver(load_script(tmp_path / "out" / "final.zip"), 4)
    _, log_probs = driver.encode(fbank(19 + 4))
    assert len(log_probs) == 4  # ours: 5
    assert run_chunks(driver.module, fbank(19 + 4), 4).shape[1] == 5


def test_chunks_give_what_masks_give(exported: Exported) -> None:
    _, module, loaded = exported
    features = fbank(211)
    with torch.no_grad():
        expected, _ = loaded.model.encode(features[None], torch.tensor([211]), 3, -1)
    torch.testing.assert_close(run_chunks(module, features, 3), expected, atol=1e-4, rtol=0)


def test_non_causal_model_is_exported_for_full_context(tmp_path: Path) -> None:
    changes = {
        "encoder.causal_convolution": False,
        "encoder.convolution_kernel": 5,
        "encoder.dynamic_chunk": False,
    }
    report = export_torchscript(save(tmp_path, **changes), tmp_path / "out")
    assert report.max_difference["final.zip"] < 1e-4


def test_int8_is_smaller_and_close(tmp_path: Path) -> None:
    notes: list[str] = []
    report = export_torchscript(save(tmp_path), tmp_path / "out", int8=True, notes=notes.append)
    assert set(report.sizes) == {"final.zip", "final_quant.zip"}
    assert notes == []
    module = load_script(tmp_path / "out" / "final_quant.zip")
    loaded = load_model(tmp_path)
    features = fbank(130)
    with torch.no_grad():
        expected, _ = loaded.model.encode(features[None], torch.tensor([130]), 16, -1)
    found = run_chunks(module, features, 16)
    assert float((found - expected).abs().max()) < 0.3
    assert float((found - expected).abs().max()) > 1e-4  # it is quantised
    assert RuntimeDriver(module, 16).units(features, "ctc_greedy_search")


def test_export_says_what_it_holds(tmp_path: Path) -> None:
    skipped = ("encoder.encoders.0.self_attn", "ctc")
    export_torchscript(save(tmp_path), tmp_path / "out", int8=True, int8_skip=skipped)
    info = read_info(tmp_path / "out")
    assert info.format == "torchscript"
    assert info.source == str(tmp_path / "model")
    assert [(model.name, model.kind, model.precision) for model in info.models] == [
        ("final.zip", "torchscript", "float32"),
        ("final_quant.zip", "torchscript", "int8"),
    ]
    assert info.models[1].int8_skip == skipped


def test_skipped_modules_stay_float32(tmp_path: Path) -> None:
    network = quantized(load_model(save(tmp_path)).model, ["encoder.encoders.0.self_attn", "ctc"])
    layers = dict(network.named_modules())
    for name, is_float in (
        ("encoder.encoders.0.self_attn.linear_q", True),
        ("encoder.encoders.1.self_attn.linear_q", False),
        ("ctc.ctc_lo", True),
        ("encoder.embed.out.0", True),
    ):
        assert isinstance(layers[name], torch.nn.Linear) is is_float


@pytest.mark.parametrize("name", ["encoder.encoders.9", "encoder.encoders.0.self", "encoder.embed"])
def test_skipping_what_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"--int8-skip {name}: no layer of that name"):
        export_torchscript(save(tmp_path), tmp_path / "out", int8=True, int8_skip=[name])
    assert not (tmp_path / "out").exists()


def test_features_of_another_runtime_need_force(tmp_path: Path) -> None:
    values = recipe().model_dump(mode="json")
    values["features"] = {"num_mel_bins": MEL, "contract": "sherpa"}
    folder = make_model(tmp_path / "model", parse_recipe(values), TOKENIZER)
    with pytest.raises(ConfigError, match=r"computes other features .* --force"):
        export_torchscript(folder, tmp_path / "out")
    notes: list[str] = []
    export_torchscript(folder, tmp_path / "out", force=True, notes=notes.append)
    assert "WeNet's runtime computes other features" in notes[0]


def test_store_tells_what_int8_costs(tmp_path: Path) -> None:
    settings = tiny_training_recipe()
    store = make_store(tmp_path / "store", make_aishell_corpus(tmp_path, rate=8000), settings)
    folder = make_model(tmp_path / "model", settings, store.tokenizer, store.cmvn)
    notes: list[str] = []
    report = export_torchscript(
        folder, tmp_path / "out", int8=True, store=tmp_path / "store", notes=notes.append
    )
    assert set(report.dev) == {"final.zip", "final_quant.zip"}
    units = sum(len(text) for text in store.split("dev").texts)
    assert {rates["reference_units"] for rates in report.dev.values()} == {units}
    recognizer = Recognizer(load_model(folder))
    features = [store.features("dev", i) for i in range(4)]
    found = recognizer.decode_batch(features, ["ctc_greedy_search"]).hypotheses
    ours = dict(
        zip(
            store.split("dev").keys,
            map(recognizer.text, found["ctc_greedy_search"]),
            strict=True,
        )
    )
    references = dict(zip(store.split("dev").keys, store.split("dev").texts, strict=True))
    expected = score_texts(references, ours, "char").to_json()
    assert report.dev["final.zip"] == expected
    assert notes[0].startswith("final.zip on dev, ctc_greedy_search: CER ")


def test_store_of_another_recipe_is_refused(tmp_path: Path) -> None:
    settings = tiny_training_recipe()
    make_store(tmp_path / "store", make_aishell_corpus(tmp_path, rate=8000), settings)
    with pytest.raises(DataError, match="was made by another recipe"):
        export_torchscript(save(tmp_path), tmp_path / "out", store=tmp_path / "store")
    assert not (tmp_path / "out").exists()


def test_wenets_model_through_its_runtime(shared: Path, tmp_path: Path) -> None:
    """WeNet's own weights, exported by us and driven as its runtime does, find what WeNet found."""
    loaded = load_wenet(shared / "parity" / "u2pp_trained")
    weights = loaded.model.state_dict()
    save_model(tmp_path / "model", weights, loaded.recipe, loaded.tokenizer, loaded.cmvn)
    export_torchscript(tmp_path, tmp_path / "out")
    module = load_script(tmp_path / "out" / "final.zip")
    driver = RuntimeDriver(module, 16, ctc_weight=0.3, reverse_weight=0.5)
    with np.load(shared / "parity" / "u2pp_trained" / "fixture.npz") as arrays:
        features = torch.from_numpy(arrays["feats"]).split(arrays["feats_lengths"].tolist())
    facts = json.loads((shared / "parity" / "u2pp_trained" / "fixture.json").read_text())
    expected = facts["decode"]["c16_lall"]
    for i, item in enumerate(features):
        for mode in ("ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring"):
            assert list(driver.units(item, mode)) == expected[mode][i]["tokens"]


def test_a_file_that_differs_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path)

    def spoil(_model: torch.nn.Module) -> bytes:
        other = load_model(folder).model
        with torch.no_grad():
            other.ctc.ctc_lo.bias += torch.arange(13.0)
        return torchscript_script(other)

    torchscript_script = torchscript.script
    monkeypatch.setattr(torchscript, "script", spoil)
    with pytest.raises(CheckpointError, match="in a log-probability, so it was not kept"):
        export_torchscript(folder, tmp_path / "out")
    assert not (tmp_path / "out" / "final.zip").exists()


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "final.zip"
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(CheckpointError, match=r"final\.zip cannot be loaded .*; export it again"):
        load_script(path)


def test_output_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="out"):
        export_torchscript(save(tmp_path), tmp_path / "out")


def test_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"no space left while writing .*out"):
        export_torchscript(folder, tmp_path / "out")


def test_no_model_to_export(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a run nor a model folder"):
        export_torchscript(tmp_path, tmp_path / "out")
