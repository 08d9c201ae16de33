"""What of WeNet's settings we can be faithful to; everything else is named and refused."""

from collections.abc import Mapping
from typing import Any

from rayasr.errors import ConfigError

SUPPORTED: dict[str, tuple[Any, ...]] = {
    "encoder": ("conformer", "transformer"),
    "decoder": ("bitransformer", "transformer"),
    "model": ("asr_model", "asrmodel"),
    "ctc": ("ctc",),
    "ctc_conf.ctc_blank_id": (0,),
    "cmvn": ("global_cmvn",),
    "dataset": ("asr",),
    "tokenizer": ("char", "bpe"),
    "tokenizer_conf.split_with_space": (False,),
    "tokenizer_conf.non_lang_syms_path": (None,),
    "tokenizer_conf.connect_symbol": ("",),
    "encoder_conf.input_layer": ("conv2d", "conv2d6", "conv2d8"),
    "encoder_conf.static_chunk_size": (0,),
    "encoder_conf.macaron_style": (True,),
    "encoder_conf.use_cnn_module": (True,),
    "encoder_conf.cnn_module_norm": ("batch_norm", "layer_norm"),
    "encoder_conf.positionwise_conv_kernel_size": (1,),
    "encoder_conf.conv_bias": (True,),
    "decoder_conf.input_layer": ("embed",),
    "decoder_conf.activation_type": ("relu",),
    "decoder_conf.use_output_layer": (True,),
    "decoder_conf.src_attention": (True,),
    "decoder_conf.tie_word_embedding": (False,),
    "model_conf.apply_non_blank_embedding": (False,),
    "dataset_conf.feats_type": ("fbank",),
    "dataset_conf.fbank_conf.window_type": ("povey", "hamming"),
} | {
    f"{section}.{key}": values
    for section in ("encoder_conf", "decoder_conf")
    for key, values in {
        "normalize_before": (True,),
        "concat_after": (False,),
        "query_bias": (True,),
        "key_bias": (True,),
        "value_bias": (True,),
        "mlp_bias": (True,),
        "mlp_type": ("position_wise_feed_forward",),
        "layer_norm_type": ("layer_norm",),
        "norm_eps": (1e-5,),
        "n_kv_head": (None,),
        "head_dim": (None,),
    }.items()
}
"""Values of settings that decide what a model computes; the first is WeNet's default."""

ACTIVATIONS = {"conformer": "swish", "transformer": "relu"}
POSITIONS = {
    ("conformer", "rel_pos", "rel_selfattn"): "relative",
    ("conformer", "abs_pos", "selfattn"): "absolute",
    ("transformer", "abs_pos", "selfattn"): "relative",  # a transformer's are absolute anyway
}
"""By encoder, pos_enc_layer_type and selfattention_layer_type: model.encoder.positions."""

FOREIGN = (
    "predictor",
    "joint",
    "paraformer",
    "cif_predictor",
    "use_lora",
    "lora_conf",
    "lfmmi_dir",
    "collate_conf",
)
"""What no CTC and attention model has: transducers, Paraformer, LoRA, k2, and the first WeNet's
way to describe features."""

_WITHOUT_EFFECT = ("gradient_checkpointing", "use_sdpa", "n_expert", "n_expert_activated")
_READ = {
    "encoder_conf": (
        "output_size attention_heads linear_units num_blocks dropout_rate positional_dropout_rate "
        "attention_dropout_rate use_dynamic_chunk use_dynamic_left_chunk cnn_module_kernel causal "
        "activation_type pos_enc_layer_type selfattention_layer_type"
    ),
    "decoder_conf": (
        "attention_heads linear_units num_blocks r_num_blocks dropout_rate positional_dropout_rate "
        "self_attention_dropout_rate src_attention_dropout_rate"
    ),
    "model_conf": "ctc_weight lsm_weight length_normalized_loss reverse_weight",
    "dataset_conf.fbank_conf": "num_mel_bins frame_length frame_shift dither",
    "dataset_conf.resample_conf": "resample_rate",
}
"""Settings that are taken over, of the sections where an unknown one may change the model."""


def lookup(values: Mapping[str, Any], key: str, default: Any = None) -> Any:
    """The value of a dotted key; the default where it, or a section over it, is missing or null."""
    node: Any = values
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return default if node is None else node


def check_supported(values: Mapping[str, Any], source: str) -> None:
    """Raises ConfigError naming the first setting that would make another model than ours."""
    _check_sections(values, source)
    for key in FOREIGN:
        if found := lookup(values, key):
            raise ConfigError(
                f"{source}: {key} {_short(found)} is not supported; rayasr has models of a "
                "conformer or transformer encoder, CTC, and attention decoders"
            )
    for key, allowed in SUPPORTED.items():
        _check(values, source, key, allowed)
    encoder = lookup(values, "encoder", "conformer")
    _check(values, source, "encoder_conf.activation_type", (ACTIVATIONS[encoder],))
    positions(values, source)
    for section, names in _READ.items():
        known = {*names.split(), *_WITHOUT_EFFECT}
        known |= {key.removeprefix(f"{section}.") for key in SUPPORTED if key.startswith(section)}
        for name, found in lookup(values, section, {}).items():
            if name not in known:
                raise ConfigError(
                    f"{source}: {section}.{name} {_short(found)} is not supported; "
                    "rayasr does not know what it does to the model"
                )


def positions(values: Mapping[str, Any], source: str) -> str:
    """What model.encoder.positions is called here; raises ConfigError."""
    encoder = lookup(values, "encoder", "conformer")
    own = [key for key in POSITIONS if key[0] == encoder]
    found = (
        encoder,
        lookup(values, "encoder_conf.pos_enc_layer_type", own[0][1]),
        lookup(values, "encoder_conf.selfattention_layer_type", own[0][2]),
    )
    if found not in list(POSITIONS):  # a list, for what is found need not be hashable
        pairs = " or ".join(f"{pos_enc} with {attention}" for _, pos_enc, attention in own)
        raise ConfigError(
            f"{source}: encoder_conf.pos_enc_layer_type {found[1]!r} with selfattention_layer_type "
            f"{found[2]!r} is not supported for a {encoder}; supported: {pairs}"
        )
    return POSITIONS[found]


def _check_sections(values: Mapping[str, Any], source: str) -> None:
    """Raises ConfigError where a section is no mapping."""
    sections = [str(key) for key in values if str(key).endswith("_conf")]
    data = lookup(values, "dataset_conf", {})
    if isinstance(data, Mapping):
        sections += [f"dataset_conf.{key}" for key in data if str(key).endswith("_conf")]
    for key in (*sections, "tokenizer_conf.special_tokens"):
        found = lookup(values, key, {})
        if not isinstance(found, Mapping):
            raise ConfigError(f"{source}: {key} must be a mapping of settings, found {found!r}")


def _check(values: Mapping[str, Any], source: str, key: str, allowed: tuple[Any, ...]) -> None:
    found = lookup(values, key, allowed[0])
    if found not in allowed:
        listed = ", ".join("none" if value is None else repr(value) for value in allowed)
        raise ConfigError(f"{source}: {key} {_short(found)} is not supported; supported: {listed}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
