"""Each setting of WeNet under our name, refused by name where we cannot be faithful, and back."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from rayasr.config import Recipe, load_recipe
from rayasr.errors import ConfigError
from rayasr.wenet.importing import import_recipe
from rayasr.wenet.train_yaml import recipe_from_wenet, wenet_from_recipe
from tests.wenet_models import TRAIN_YAML, changed, merged, read_recipe, tokenizer

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
COMMON = """
encoder_conf: {output_size: 256, attention_heads: 4, linear_units: 2048, num_blocks: 12,
  dropout_rate: 0.1, positional_dropout_rate: 0.1, attention_dropout_rate: 0.0,
  input_layer: conv2d, normalize_before: true, use_dynamic_chunk: true}
decoder_conf: {attention_heads: 4, linear_units: 2048, dropout_rate: 0.1,
  positional_dropout_rate: 0.1, self_attention_dropout_rate: 0.0, src_attention_dropout_rate: 0.0}
tokenizer: char
tokenizer_conf: {symbol_table_path: data/dict/lang_char.txt, split_with_space: false,
  bpe_path: null, non_lang_syms_path: null, is_multilingual: false, num_languages: 1,
  special_tokens: {<blank>: 0, <unk>: 1, <sos>: 2, <eos>: 2}}
ctc: ctc
ctc_conf: {ctc_blank_id: 0}
cmvn: global_cmvn
cmvn_conf: {cmvn_file: data/train/global_cmvn, is_json_cmvn: true}
model: asr_model
model_conf: {ctc_weight: 0.3, lsm_weight: 0.1, length_normalized_loss: false}
dataset: asr
dataset_conf:
  filter_conf: {max_length: 40960, min_length: 0, token_max_length: 200, token_min_length: 1}
  resample_conf: {resample_rate: 16000}
  speed_perturb: true
  fbank_conf: {num_mel_bins: 80, frame_shift: 10, frame_length: 25, dither: 1.0}
  spec_aug: true
  spec_aug_conf: {num_t_mask: 2, num_f_mask: 2, max_t: 50, max_f: 10}
  shuffle: true
  shuffle_conf: {shuffle_size: 1500}
  sort: true
  sort_conf: {sort_size: 500}
  batch_conf: {batch_type: static, batch_size: 16}
grad_clip: 5
accum_grad: 1
max_epoch: 360
log_interval: 100
optim: adam
optim_conf: {lr: 0.001}
scheduler: warmuplr
scheduler_conf: {warmup_steps: 25000}
"""
CONFORMER = {
    "use_cnn_module": True,
    "activation_type": "swish",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
    "causal": True,
    "cnn_module_norm": "layer_norm",
}
THREE = {"num_blocks": 3, "r_num_blocks": 3}
PUBLISHED: dict[str, dict[str, Any]] = {
    "unified_transformer": {
        "encoder": "transformer",
        "decoder": "transformer",
        "decoder_conf": {"num_blocks": 6},
        "dataset_conf": {"fbank_conf": {"dither": 0.1}},
        "optim_conf": {"lr": 0.002},
        "max_epoch": 240,
    },
    "unified_conformer": {
        "encoder": "conformer",
        "encoder_conf": CONFORMER | {"cnn_module_kernel": 15},
        "decoder": "transformer",
        "decoder_conf": {"num_blocks": 6},
        "max_epoch": 180,
    },
    "u2pp_transformer": {
        "encoder": "transformer",
        "decoder": "bitransformer",
        "decoder_conf": THREE,
        "model_conf": {"reverse_weight": 0.3},
        "dataset_conf": {"spec_trim": False, "spec_trim_conf": {"max_t": 70}},
    },
    "u2pp_conformer": {
        "encoder": "conformer",
        "encoder_conf": CONFORMER | {"cnn_module_kernel": 8, "attention_dropout_rate": 0.1},
        "decoder": "bitransformer",
        "decoder_conf": THREE
        | {"self_attention_dropout_rate": 0.1, "src_attention_dropout_rate": 0.1},
        "model_conf": {"reverse_weight": 0.3},
        "dataset_conf": {"spec_sub": True, "spec_sub_conf": {"num_t_sub": 3, "max_t": 30}},
    },
}
"""What the four yamls of examples/aishell/s0/conf say besides COMMON."""


def published(name: str) -> dict[str, Any]:
    return merged(yaml.safe_load(COMMON), PUBLISHED[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings_are_our_recipes(name: str) -> None:
    """configs/aishell_*.yaml were written by hand from the same files."""
    found = recipe_from_wenet(published(name), "train.yaml")
    ours = load_recipe(CONFIGS / f"aishell_{name}.yaml")
    for section in ("text", "units", "features", "augment", "model", "optim", "train"):
        assert getattr(found, section) == getattr(ours, section), section
    assert found.decode.reverse_weight == ours.decode.reverse_weight
    assert found.batch.static_utterances == 16
    assert (found.store.min_seconds, found.store.max_seconds) == (0.0, 409.6)


def test_what_train_yaml_leaves_out_has_wenets_defaults() -> None:
    recipe = recipe_from_wenet({"decoder": "transformer"}, "train.yaml")
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    assert (encoder.kind, encoder.num_blocks, encoder.linear_units) == ("conformer", 6, 2048)
    assert (encoder.convolution_norm, encoder.causal_convolution) == ("batch_norm", False)
    assert (encoder.dynamic_chunk, encoder.mask_convolution) == (False, False)
    assert (decoder.num_blocks, decoder.r_num_blocks) == (6, 0)
    assert (recipe.model.ctc_weight, recipe.model.label_smoothing) == (0.5, 0.0)
    assert (recipe.features.num_mel_bins, recipe.features.dither) == (23, 0.0)
    assert recipe.augment.speeds == (1.0,)
    assert recipe.augment.spec_augment is not None
    assert (recipe.optim.warmup_steps, recipe.optim.max_grad_norm) == (25000, 50.0)


def test_every_mapped_setting_arrives(shared: Path) -> None:
    """The golden recipe of ../shared/parity/u2pp_trained: what differs from our defaults."""
    found = read_recipe(shared / "parity" / "u2pp_trained").model_dump(exclude_defaults=True)
    assert found == {
        "name": "C",
        "text": {"spaces": "remove"},
        "units": {"sos_eos": "last"},
        "features": {"dither": 0.1},
        "store": {"min_seconds": 0.0, "max_seconds": 409.6},
        "augment": {"spec_augment": {"time_mask_frames": 10, "frequency_mask_bins": 8}},
        "batch": {"static_utterances": 4, "shuffle_window": 1500},
        "model": {
            "encoder": {
                "output_size": 80,
                "linear_units": 320,
                "num_blocks": 4,
                "dropout_rate": 0.05,
                "positional_dropout_rate": 0.05,
                "convolution_kernel": 8,
            },
            "decoder": {
                "linear_units": 320,
                "num_blocks": 2,
                "r_num_blocks": 2,
                "dropout_rate": 0.05,
                "positional_dropout_rate": 0.0,
            },
        },
        "optim": {"lr": 0.002, "warmup_steps": 500},
        "train": {"epochs": 360},
    }


NONCAUSAL = {
    "kind": "conformer",
    "causal_convolution": False,
    "convolution_norm": "batch_norm",
    "mask_convolution": False,
    "dynamic_chunk": False,
}


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("unified", {"kind": "transformer", "dynamic_chunk": True}),
        ("u2_conformer/causal_layernorm", {"kind": "conformer", "causal_convolution": True}),
        ("u2_conformer/batchnorm_noncausal", NONCAUSAL),
    ],
)
def test_u2_fixtures(shared: Path, name: str, encoder: dict[str, Any]) -> None:
    recipe = read_recipe(shared / "parity" / name)
    found = recipe.model.encoder.model_dump()
    assert {key: found[key] for key in encoder} == encoder
    assert (found["output_size"], found["linear_units"], found["num_blocks"]) == (32, 64, 2)
    assert (recipe.model.decoder.r_num_blocks, recipe.model.reverse_weight) == (0, 0.0)
    assert recipe.batch.micro_batches == (4 if name.endswith("noncausal") else 1)
    assert recipe.units.sos_eos == "third"


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("encoder", "branchformer", "supported: 'conformer', 'transformer'"),
        ("encoder", "squeezeformer", "encoder 'squeezeformer'"),
        ("encoder", "efficientConformer", "encoder 'efficientConformer'"),
        ("decoder", "sanm_decoder", "decoder 'sanm_decoder'"),
        ("model", "whisper", "model 'whisper'"),
        ("model", "paraformer", "model 'paraformer'"),
        ("predictor", "rnn", "predictor 'rnn'"),
        ("lora_conf", {"lora_rank": 8}, "lora_conf"),
        ("collate_conf", {"spec_aug": True}, "collate_conf"),
        ("encoder_conf.input_layer", "linear", "'conv2d', 'conv2d6', 'conv2d8'"),
        ("encoder_conf.normalize_before", False, "normalize_before False .* supported: True"),
        ("encoder_conf.activation_type", "gelu", "activation_type 'gelu' .* supported: 'swish'"),
        ("encoder_conf.static_chunk_size", 16, "static_chunk_size 16"),
        ("encoder_conf.selfattention_layer_type", "rope_abs_selfattn", "rel_pos with rel_selfattn"),
        ("encoder_conf.macaron_style", False, "macaron_style False"),
        ("encoder_conf.stride_layer_idx", [3], "does not know what it does"),
        ("decoder_conf.src_attention", False, "src_attention False"),
        ("decoder_conf.n_kv_head", 2, "n_kv_head 2 .* supported: none"),
        ("decoder_conf.r_num_blocks", 0, "r_num_blocks 0"),
        ("model_conf.apply_non_blank_embedding", True, "apply_non_blank_embedding True"),
        ("ctc_conf.ctc_blank_id", 5, "ctc_blank_id 5"),
        ("tokenizer", "whisper", "tokenizer 'whisper'"),
        ("tokenizer_conf.split_with_space", True, "split_with_space True"),
        ("tokenizer_conf.non_lang_syms_path", "non_lang.txt", "non_lang_syms_path"),
        ("dataset_conf.feats_type", "mfcc", "feats_type 'mfcc'"),
        ("dataset_conf.fbank_conf.use_energy", True, "fbank_conf.use_energy True"),
        ("encoder_conf.num_blocks", "many", "num_blocks: .*found 'many'"),
        ("encoder_conf", ["a"], "encoder_conf must be a mapping"),
        ("dataset_conf.fbank_conf", 3, "fbank_conf must be a mapping"),
        ("dataset_conf.filter_conf.max_length", "long", "filter_conf holds 'long'"),
        ("encoder_conf.pos_enc_layer_type", ["a"], r"pos_enc_layer_type \['a'\]"),
    ],
)
def test_what_we_cannot_be_faithful_to_is_named(key: str, value: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=f"^exp/train.yaml: .*{named}"):
        recipe_from_wenet(changed(key, value), "exp/train.yaml")


@pytest.mark.parametrize(
    ("key", "value", "ours", "expected"),
    [
        ("encoder_conf.input_layer", "conv2d6", "model.encoder.subsampling", 6),
        ("encoder_conf.input_layer", "conv2d8", "model.encoder.subsampling", 8),
        ("encoder_conf.use_dynamic_left_chunk", True, "model.encoder.dynamic_left_chunks", True),
        ("dataset_conf.fbank_conf.window_type", "hamming", "features.window", "hamming"),
        ("dataset_conf.batch_conf.batch_type", "dynamic", "batch.max_padded_frames", 12000),
        ("dataset_conf.spec_aug", False, "augment.spec_augment", None),
        ("dataset_conf.spec_trim", True, "augment.trim_frames", 20),
        ("dataset_conf.speed_perturb", True, "augment.speeds", [0.9, 1.0, 1.1]),
        ("accum_grad", 4, "batch.micro_batches", 4),
        ("optim_conf.betas", [0.9, 0.98], "optim.betas", [0.9, 0.98]),
        ("optim", "adamw", "optim.weight_decay", 0.01),
        ("model_conf.length_normalized_loss", True, "model.length_normalized_loss", True),
    ],
)
def test_settings_go_both_ways(key: str, value: Any, ours: str, expected: Any) -> None:
    recipe = recipe_from_wenet(changed(key, value), "train.yaml")
    assert setting(recipe, ours) == expected
    written = yaml.safe_load(yaml.safe_dump(wenet_from_recipe(recipe, tokenizer())))
    again = recipe_from_wenet(written, "again")
    if key == "optim":  # WeNet's AdamW decays what ours does not: the number stays here
        assert again.optim.name == recipe.optim.name
        return
    assert again == recipe


def setting(recipe: Recipe, key: str) -> Any:
    value: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return value


def test_absolute_positions_of_a_conformer() -> None:
    values = merged(
        TRAIN_YAML,
        {"encoder_conf": {"pos_enc_layer_type": "abs_pos", "selfattention_layer_type": "selfattn"}},
    )
    recipe = recipe_from_wenet(values, "train.yaml")
    assert recipe.model.encoder.positions == "absolute"
    assert recipe_from_wenet(wenet_from_recipe(recipe, tokenizer()), "again") == recipe


def test_what_only_training_needs_is_said_and_not_refused() -> None:
    notes: list[str] = []
    changes = {
        "scheduler": "NoamHoldAnnealing",
        "log_interval": 100,
        "train_engine": "deepspeed",
        "dataset_conf": {"sort": True, "batch_conf": {"batch_type": "bucket"}},
        "optim_conf": {"weight_decay": 0.1},
    }
    recipe = recipe_from_wenet(merged(TRAIN_YAML, changes), "train.yaml", notes=notes.append)
    assert recipe.optim.schedule == "warmup"
    assert recipe.batch.static_utterances is None
    said = "\n".join(notes)
    assert "scheduler 'NoamHoldAnnealing' is not supported (warmuplr); warmuplr is used" in said
    assert "weight_decay 0.1 is not supported with adam" in said
    assert "batch_type 'bucket' is not supported (static, dynamic)" in said
    assert "not taken over from train.yaml: dataset_conf.sort, log_interval, train_engine" in said


def test_a_convolution_that_hears_padding_is_said() -> None:
    notes: list[str] = []
    values = changed("encoder_conf.causal", False)
    recipe = recipe_from_wenet(values, "train.yaml", notes=notes.append)
    assert recipe.model.encoder.mask_convolution is False
    assert notes[0].startswith("model.encoder.mask_convolution is false")
    with pytest.raises(ConfigError, match="odd"):
        recipe_from_wenet(merged(values, {"encoder_conf": {"cnn_module_kernel": 8}}), "train.yaml")


def test_recipe_of_a_yaml_alone(tmp_path: Path) -> None:
    source, out = tmp_path / "train.yaml", tmp_path / "recipe.yaml"
    source.write_text(yaml.safe_dump(published("u2pp_conformer")))
    notes: list[str] = []
    recipe = import_recipe(source, out, notes=notes.append)
    assert load_recipe(out) == recipe
    assert notes[-1].startswith("a step is 1 x 16 utterances, as on one of WeNet's GPUs")
    with pytest.raises(ConfigError, match="is there already"):
        import_recipe(tmp_path, out)
    for content, message in ((b"a: [", "not valid YAML"), (b"- 1", "mapping"), (b"\xff", "UTF-8")):
        source.write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            import_recipe(source, tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        import_recipe(tmp_path / "no.yaml", tmp_path / "other.yaml")
