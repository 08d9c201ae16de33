"""Recipes: every shipped one loads; bad ones are answered with a sentence."""

from math import inf, nan
from pathlib import Path

import pytest

from rayasr.config import (
    DECODE_MODES,
    Recipe,
    dump_recipe,
    load_recipe,
    parse_recipe,
)
from rayasr.errors import ConfigError
from rayasr.feature_config import FeatureConfig, parse_features

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_recipe_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(copy) == recipe
    assert recipe.name == path.stem


def test_an_unknown_key_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'model.encoder.output_size'"):
        parse_recipe({"model": {"encoder": {"outputsize": 3}}})


def test_an_unknown_key_in_a_list_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'corpora.0.pth'; did you mean"):
        parse_recipe({"corpora": [{"pth": "x"}]})


def test_a_wrong_type_names_the_field_and_the_value() -> None:
    with pytest.raises(ConfigError, match=r"train.epochs: .*integer.*found 'many'"):
        parse_recipe({"train": {"epochs": "many"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1\n", "must be a mapping"), ("seed: -1", "seed")],
)
def test_a_bad_file_is_a_config_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_missing_recipe_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yaml"):
        load_recipe(tmp_path / "none.yaml")


def test_overrides_reach_sections_that_the_file_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\n")
    recipe = load_recipe(path, ["train.epochs=3", "augment.speeds=[1.0]", "name=x"])
    assert (recipe.train.epochs, recipe.augment.speeds, recipe.name) == (3, (1.0,), "x")


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train.epochs=[", "train.epohcs=3"])
def test_a_bad_override_is_a_config_error(tmp_path: Path, override: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError):
        load_recipe(path, [override])


def test_the_store_digest_ignores_what_a_store_does_not_depend_on() -> None:
    recipe = Recipe()
    other = parse_recipe({"train": {"epochs": 3}, "store": {"max_reject_fraction": 0.5}})
    assert other.store_digest == recipe.store_digest
    assert parse_recipe({"augment": {"speeds": [1.0]}}).store_digest != recipe.store_digest
    pcm = parse_recipe({"store": {"payload": "pcm"}})
    pcm_speeds = parse_recipe({"store": {"payload": "pcm"}, "augment": {"speeds": [1.0]}})
    assert pcm.store_digest == pcm_speeds.store_digest != recipe.store_digest


def test_modes_are_the_ones_that_can_be_decoded() -> None:
    assert set(Recipe().decode.modes) <= set(DECODE_MODES)


def test_a_contract_is_short_for_a_runtimes_front_end() -> None:
    sherpa = parse_features({"contract": "sherpa", "sample_rate": 8000})
    assert (sherpa.snip_edges, sherpa.high_freq, sherpa.noise_floor) == (False, -400.0, 1.0)
    spelled = {"snip_edges": False, "high_freq": 7600.0, "noise_floor": 1}
    assert parse_features(spelled).front_end == sherpa.front_end == "sherpa"
    assert parse_features({"contract": "sherpa"} | spelled | {"high_freq": -400}).front_end
    assert parse_features({"contract": "wenet"}) == FeatureConfig()
    assert FeatureConfig().front_end == "wenet"
    for own in ({"window": "hamming"}, {"snip_edges": False}, {"noise_floor": 1.0}):
        assert parse_features(own).front_end is None
        assert parse_features(own).describe_front_end().startswith("that of rayasr alone; ")
    assert sherpa.describe_front_end() == (
        "that of sherpa-onnx; from audio WeNet's runtime would hear something else"
    )


def test_a_contract_leaves_digests_and_files_as_they_were() -> None:
    recipe = parse_recipe({"features": {"contract": "wenet"}})
    assert recipe.store_digest == Recipe().store_digest == "8cbd8d1ea30a22d1"
    assert not {"contract", "noise_floor"} & recipe.features.model_dump().keys()
    sherpa = parse_recipe({"features": {"contract": "sherpa"}})
    assert "contract" not in sherpa.features.model_dump()
    assert parse_recipe(sherpa.model_dump(mode="json")) == sherpa
    assert sherpa.store_digest != recipe.store_digest


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"features": {"contract": "sherpa", "snip_edges": True}}, "means features.snip_edges"),
        (
            {"features": {"contract": "wenet", "window": "hamming"}},
            'found "hamming"; leave out one',
        ),
        ({"features": {"contract": "kaldi"}}, "features.contract: .*'wenet' or 'sherpa'"),
        ({"features": {"contract": ["wenet"]}}, "features.contract: .*'wenet' or 'sherpa'"),
        ({"features": {"noise_floor": -1}}, r"features.noise_floor: .*greater than or equal to 0"),
        ({"corpora": [{"path": "x", "weight": inf}]}, r"corpora.0.weight: .*finite"),
        ({"features": {"frame_length_ms": 0}}, r"features.frame_length_ms: .*greater than 0"),
        ({"features": {"frame_shift_ms": -1}}, r"features.frame_shift_ms: .*greater than 0"),
        ({"features": {"frame_shift_ms": 0.01}}, r"too short at 16000 Hz"),
        ({"features": {"low_freq": -1}}, r"features.low_freq: .*greater than or equal to 0"),
        ({"features": {"high_freq": 9000.0}}, r"no band below 8000 Hz"),
        ({"features": {"low_freq": 4000.0, "high_freq": 3000.0}}, "no band"),
        ({"features": {"high_freq": -8000.0}}, "no band"),
        ({"features": {"num_mel_bins": 14}, "model": {"encoder": {"subsampling": 8}}}, "15"),
        ({"store": {"min_seconds": 3, "max_seconds": 2}}, r"min_seconds .*max_seconds"),
        ({"augment": {"speeds": []}}, r"augment.speeds must not be empty"),
        ({"augment": {"speeds": [0.0]}}, r"augment.speeds.0: .*greater than or equal to 0.5"),
        ({"augment": {"speeds": [1.0, 20]}}, r"augment.speeds.1: .*less than or equal to 2"),
        ({"augment": {"stringing": {"start_frames": 9, "max_frames": 8}}}, "start_frames"),
        ({"batch": {"max_padded_frames": 0}}, r"max_padded_frames must be at least 1"),
        ({"model": {"decoder": {"attention_heads": 3}}}, r"decoder.attention_heads"),
        ({"optim": {"betas": [1.5, 2]}}, r"optim.betas.0: .*less than 1"),
        ({"optim": {"betas": [0.9, -0.1]}}, r"optim.betas.1: .*greater than or equal to 0"),
        ({"optim": {"lr": inf}}, r"optim.lr: .*finite"),
        ({"train": {"epochs": 0}}, r"train.epochs"),
        ({"decode": {"modes": []}}, r"decode.modes must not be empty"),
        ({"decode": {"ctc_weights": [-0.1]}}, r"ctc_weights.0: .*greater than or equal to 0"),
        ({"decode": {"length_penalty": nan}}, r"decode.length_penalty: .*finite"),
        ({"seed": 2**64}, r"seed: .*less than"),
    ],
)
def test_nonsense_is_answered_before_anything_is_computed(
    values: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_recipe(values)


def test_no_limit_may_be_written_as_infinity() -> None:
    values = {
        "store": {"max_seconds": inf},
        "optim": {"max_grad_norm": inf},
        "checkpoint": {"every_minutes": inf},
    }
    assert parse_recipe(values).optim.max_grad_norm == inf
