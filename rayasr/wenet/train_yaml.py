"""WeNet's train.yaml and our recipe, setting by setting, in both directions."""

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from rayasr.config import Recipe, parse_recipe
from rayasr.errors import ConfigError
from rayasr.tokenizer import BPE_FILE, UNITS_FILE, Tokenizer
from rayasr.wenet.supported import ACTIVATIONS, POSITIONS, check_supported, lookup, positions

WEIGHTS_FILE = "final.pt"
YAML_FILE = "train.yaml"
CMVN_FILE = "global_cmvn"


class Pair(NamedTuple):
    """One setting under both names."""

    wenet: str
    default: Any
    """WeNet's, where train.yaml does not have the key."""
    ours: str
    optional: bool = False
    """Written only where it is not the default: not every WeNet knows it."""


_PAIRS = (
    Pair("encoder", "conformer", "model.encoder.kind"),
    Pair("encoder_conf.output_size", 256, "model.encoder.output_size"),
    Pair("encoder_conf.attention_heads", 4, "model.encoder.attention_heads"),
    Pair("encoder_conf.linear_units", 2048, "model.encoder.linear_units"),
    Pair("encoder_conf.num_blocks", 6, "model.encoder.num_blocks"),
    Pair("encoder_conf.dropout_rate", 0.1, "model.encoder.dropout_rate"),
    Pair("encoder_conf.positional_dropout_rate", 0.1, "model.encoder.positional_dropout_rate"),
    Pair("encoder_conf.attention_dropout_rate", 0.0, "model.encoder.attention_dropout_rate"),
    Pair("encoder_conf.use_dynamic_chunk", False, "model.encoder.dynamic_chunk"),
    Pair("encoder_conf.use_dynamic_left_chunk", False, "model.encoder.dynamic_left_chunks"),
    Pair("decoder_conf.attention_heads", 4, "model.decoder.attention_heads"),
    Pair("decoder_conf.linear_units", 2048, "model.decoder.linear_units"),
    Pair("decoder_conf.num_blocks", 6, "model.decoder.num_blocks"),
    Pair("decoder_conf.dropout_rate", 0.1, "model.decoder.dropout_rate"),
    Pair("decoder_conf.positional_dropout_rate", 0.1, "model.decoder.positional_dropout_rate"),
    Pair(
        "decoder_conf.self_attention_dropout_rate",
        0.0,
        "model.decoder.self_attention_dropout_rate",
    ),
    Pair(
        "decoder_conf.src_attention_dropout_rate", 0.0, "model.decoder.src_attention_dropout_rate"
    ),
    Pair("model_conf.ctc_weight", 0.5, "model.ctc_weight"),
    Pair("model_conf.lsm_weight", 0.0, "model.label_smoothing"),
    Pair("model_conf.length_normalized_loss", False, "model.length_normalized_loss"),
    Pair("dataset_conf.resample_conf.resample_rate", 16000, "features.sample_rate"),
    Pair("dataset_conf.fbank_conf.num_mel_bins", 23, "features.num_mel_bins"),
    Pair("dataset_conf.fbank_conf.frame_length", 25, "features.frame_length_ms"),
    Pair("dataset_conf.fbank_conf.frame_shift", 10, "features.frame_shift_ms"),
    Pair("dataset_conf.fbank_conf.dither", 0.0, "features.dither"),
    Pair("dataset_conf.fbank_conf.window_type", "povey", "features.window", optional=True),
    Pair("dataset_conf.shuffle_conf.shuffle_size", 10000, "batch.shuffle_window"),
    Pair("accum_grad", 1, "batch.micro_batches"),
    Pair("grad_clip", 50.0, "optim.max_grad_norm"),
    Pair("max_epoch", 100, "train.epochs"),
    Pair("optim", "adam", "optim.name"),
    Pair("optim_conf.lr", 0.001, "optim.lr"),
    Pair("optim_conf.betas", (0.9, 0.999), "optim.betas", optional=True),
    Pair("optim_conf.eps", 1e-8, "optim.eps", optional=True),
    Pair("scheduler_conf.warmup_steps", 25000, "optim.warmup_steps"),
)
_OF_CONFORMERS = (
    Pair("encoder_conf.cnn_module_kernel", 15, "model.encoder.convolution_kernel"),
    Pair("encoder_conf.causal", False, "model.encoder.causal_convolution"),
    Pair("encoder_conf.cnn_module_norm", "batch_norm", "model.encoder.convolution_norm"),
)
_CHECKED = (
    *("encoder_conf", "decoder_conf", "model", "model_conf", "ctc", "ctc_conf", "cmvn"),
    *("cmvn_conf", "cmvn_file", "is_json_cmvn", "dataset", "tokenizer", "tokenizer_conf"),
    *("input_dim", "output_dim", "vocab_size", "model_dir"),
)
"""What is looked at as a whole, or also by the import, so that nothing of it is left out."""
_SUBSAMPLING = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}
_SPEEDS = (0.9, 1.0, 1.1)
_TRAINING_ONLY = {"optim": ("adam", "adamw"), "scheduler": ("warmuplr",)}
"""Another value is said and replaced by the first: it has made the model, it is not part of it."""
_FRAMES_PER_S = 100
"""filter_conf counts in 10 ms, whatever the frame shift."""
_NO_BOUND = 10_000_000


def recipe_from_wenet(
    values: Mapping[str, Any], source: str, *, notes: Callable[[str], None] = lambda _: None
) -> Recipe:
    """The recipe of a train.yaml's settings; `source` names it in messages.

    Settings of the model, of features and of text that we cannot be faithful to raise ConfigError;
    what only training or WeNet's program needs is left out and said.
    """
    check_supported(values, source)
    recipe: dict[str, Any] = {}
    reader = _Reader(values)
    is_conformer = reader("encoder", "conformer") == "conformer"
    for pair in (*_PAIRS, *(_OF_CONFORMERS if is_conformer else ())):
        _put(recipe, pair.ours, reader(pair.wenet, pair.default))
    _replace_training_settings(recipe, reader, source, notes)
    _put(recipe, "model.encoder.positions", positions(values, source))
    layer = reader("encoder_conf.input_layer", "conv2d")
    _put(recipe, "model.encoder.subsampling", _SUBSAMPLING[layer])
    if is_conformer and not recipe["model"]["encoder"]["causal_convolution"]:
        _put(recipe, "model.encoder.mask_convolution", False)
        notes(
            "model.encoder.mask_convolution is false: WeNet's convolution with future frames hears "
            "the padding of a batch, so batch size changes results slightly; true closes that"
        )
    _read_decoders(recipe, reader, source)
    _read_units(recipe, reader)
    _read_augmentation(recipe, reader)
    _read_batches(recipe, reader, source, notes)
    if "fbank_conf" not in lookup(values, "dataset_conf", {}):
        _put(recipe, "features.num_mel_bins", reader("input_dim", 23))
    recipe["name"] = PurePath(str(reader("model_dir", ""))).name or "wenet"
    if unused := reader.unused():
        notes(f"not taken over from {source}: {', '.join(unused)}")
    return parse_recipe(recipe, source)


def wenet_from_recipe(recipe: Recipe, tokenizer: Tokenizer) -> dict[str, Any]:
    """The train.yaml of a recipe: what WeNet needs for the model, and of its training what it can.

    Paths are names of files beside train.yaml.
    """
    encoder, decoder = recipe.model.encoder, recipe.model.decoder
    is_conformer = encoder.kind == "conformer"
    plain = recipe.model_dump(mode="json")
    values: dict[str, Any] = {}
    for pair in (*_PAIRS, *(_OF_CONFORMERS if is_conformer else ())):
        value = lookup(plain, pair.ours)
        default = list(pair.default) if isinstance(pair.default, tuple) else pair.default
        if value is not None and not (pair.optional and value == default):
            _put(values, pair.wenet, value)
    layers = {rate: layer for layer, rate in _SUBSAMPLING.items()}
    values["encoder_conf"] |= {"input_layer": layers[encoder.subsampling], "normalize_before": True}
    if is_conformer:
        values["encoder_conf"] |= _conformer_settings(encoder.positions)
    bidirectional = decoder.r_num_blocks > 0
    values["decoder"] = "bitransformer" if bidirectional else "transformer"
    if bidirectional:
        values["decoder_conf"]["r_num_blocks"] = decoder.r_num_blocks
        values["model_conf"]["reverse_weight"] = recipe.model.reverse_weight
    values |= _tokenizer_settings(tokenizer)
    values |= {"ctc": "ctc", "ctc_conf": {"ctc_blank_id": tokenizer.blank_id}}
    values |= {"cmvn": "global_cmvn"}
    values |= {"cmvn_conf": {"cmvn_file": CMVN_FILE, "is_json_cmvn": True}}
    values |= {"model": "asr_model", "dataset": "asr", "scheduler": "warmuplr"}
    values["dataset_conf"] |= _dataset_settings(recipe)
    values |= {"input_dim": recipe.features.num_mel_bins, "model_dir": f"exp/{recipe.name}"}
    return values | {"output_dim": tokenizer.vocab_size, "vocab_size": tokenizer.vocab_size}


def num_pieces(vocab_size: int) -> int:
    """Units that are pieces of BPE: all but `<blank>`, `<unk>` and `<sos/eos>`."""
    return max(20, vocab_size - 3)  # the least that a recipe allows


class _Reader:
    """Looks settings up, and knows which ones nobody has asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values
        self._asked = set(_CHECKED)

    def __call__(self, key: str, default: Any) -> Any:
        self._asked.add(key)
        return lookup(self._values, key, default)

    def unused(self) -> list[str]:
        """Dotted keys that had no part in the recipe, sections as one."""
        return sorted(self._unused(self._values, ""))

    def _unused(self, values: Mapping[str, Any], prefix: str) -> list[str]:
        unused: list[str] = []
        for name, value in values.items():
            key = f"{prefix}{name}"
            if key in self._asked:
                continue
            inside = any(asked.startswith(f"{key}.") for asked in self._asked)
            if inside and isinstance(value, Mapping):
                unused += self._unused(value, f"{key}.")
            else:
                unused.append(key)
        return unused


def _replace_training_settings(
    recipe: dict[str, Any], reader: _Reader, source: str, notes: Callable[[str], None]
) -> None:
    """How WeNet trained with what we do not have; the model is the same."""
    for key, known in _TRAINING_ONLY.items():
        found = reader(key, known[0])
        if found not in known:
            listed = ", ".join(known)
            notes(f"{source}: {key} {found!r} is not supported ({listed}); {known[0]} is used")
    if recipe["optim"]["name"] not in _TRAINING_ONLY["optim"]:
        recipe["optim"]["name"] = "adam"
    decay = reader("optim_conf.weight_decay", 0.0 if recipe["optim"]["name"] == "adam" else 0.01)
    if recipe["optim"]["name"] == "adamw":
        _put(recipe, "optim.weight_decay", decay)
    elif decay:
        notes(f"{source}: optim_conf.weight_decay {decay} is not supported with adam; 0 is used")


def _read_decoders(recipe: dict[str, Any], reader: _Reader, source: str) -> None:
    right = 0
    if reader("decoder", "bitransformer") == "bitransformer":
        right = reader("decoder_conf.r_num_blocks", 0)
        if not right:
            raise ConfigError(
                f"{source}: decoder bitransformer with decoder_conf.r_num_blocks 0 is not "
                "supported; supported: 1 or more, or decoder transformer"
            )
    _put(recipe, "model.decoder.r_num_blocks", right)
    _put(recipe, "model.reverse_weight", reader("model_conf.reverse_weight", 0.0) if right else 0.0)
    if not right:
        _put(recipe, "decode.reverse_weight", 0.0)


def _read_units(recipe: dict[str, Any], reader: _Reader) -> None:
    """What train.yaml tells of text; `importing` knows more, from the units themselves."""
    is_bpe = reader("tokenizer", "char") == "bpe"
    _put(recipe, "units.kind", "bpe" if is_bpe else "char")
    vocab_size = reader("output_dim", reader("vocab_size", None))
    if is_bpe and isinstance(vocab_size, int):
        _put(recipe, "units.bpe_size", num_pieces(vocab_size))
    third = reader("tokenizer_conf.special_tokens.<eos>", -1) == 2
    _put(recipe, "units.sos_eos", "third" if third else "last")
    _put(recipe, "text.case", "upper" if is_bpe else "keep")  # WeNet's BPE is of capitals
    _put(recipe, "text.spaces", "keep" if is_bpe else "remove")
    _put(recipe, "decode.unit", "word" if is_bpe else "char")


def _read_augmentation(recipe: dict[str, Any], reader: _Reader) -> None:
    data = "dataset_conf"
    speeds = reader(f"{data}.speed_perturb_conf.speeds", _SPEEDS)
    perturbed = reader(f"{data}.speed_perturb", False)
    _put(recipe, "augment.speeds", speeds if perturbed else (1.0,))
    masks = {
        "time_masks": reader(f"{data}.spec_aug_conf.num_t_mask", 2),
        "time_mask_frames": reader(f"{data}.spec_aug_conf.max_t", 50),
        "frequency_masks": reader(f"{data}.spec_aug_conf.num_f_mask", 2),
        "frequency_mask_bins": reader(f"{data}.spec_aug_conf.max_f", 10),
    }
    _put(recipe, "augment.spec_augment", masks if reader(f"{data}.spec_aug", True) else None)
    stretches = reader(f"{data}.spec_sub_conf.num_t_sub", 3)
    longest = reader(f"{data}.spec_sub_conf.max_t", 20)
    if reader(f"{data}.spec_sub", False):
        _put(recipe, "augment.substitutions", stretches)
        _put(recipe, "augment.substitution_frames", longest)
    trimmed = reader(f"{data}.spec_trim_conf.max_t", 20)
    _put(recipe, "augment.trim_frames", trimmed if reader(f"{data}.spec_trim", False) else 0)


def _read_batches(
    recipe: dict[str, Any], reader: _Reader, source: str, notes: Callable[[str], None]
) -> None:
    conf = "dataset_conf.batch_conf"
    kind = reader(f"{conf}.batch_type", "static")
    size = reader(f"{conf}.batch_size", 16)
    if kind == "static":
        _put(recipe, "batch.static_utterances", size)
    elif kind == "dynamic":
        frames = reader(f"{conf}.max_frames_in_batch", 12000)
        _put(recipe, "batch.max_padded_frames", frames)
    else:
        notes(
            f"{source}: {conf}.batch_type {kind!r} is not supported (static, dynamic); "
            "micro-batches are bounded by batch.max_padded_frames"
        )
    longest = reader("dataset_conf.filter_conf.max_length", 10240)
    shortest = reader("dataset_conf.filter_conf.min_length", 10)
    for key, frames in (("store.max_seconds", longest), ("store.min_seconds", shortest)):
        if not isinstance(frames, int | float):
            raise ConfigError(f"{source}: dataset_conf.filter_conf holds {frames!r}, not a number")
        _put(recipe, key, frames / _FRAMES_PER_S)


def _conformer_settings(wanted: str) -> dict[str, Any]:
    _, pos_enc, attention = next(
        key for key, ours in POSITIONS.items() if key[0] == "conformer" and ours == wanted
    )
    return {
        "activation_type": ACTIVATIONS["conformer"],
        "pos_enc_layer_type": pos_enc,
        "selfattention_layer_type": attention,
        "use_cnn_module": True,
    }


def _tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    is_char = tokenizer.kind == "char"
    sos_eos = tokenizer.sos_eos_id
    return {
        "tokenizer": "char" if is_char else "bpe",
        "tokenizer_conf": {
            "symbol_table_path": UNITS_FILE,
            "bpe_path": None if is_char else BPE_FILE,
            "non_lang_syms_path": None,
            "split_with_space": False,
            "is_multilingual": False,
            "num_languages": 1,
            "special_tokens": {
                "<blank>": tokenizer.blank_id,
                "<unk>": tokenizer.unk_id,
                "<sos>": sos_eos,
                "<eos>": sos_eos,
            },
        },
    }


def _dataset_settings(recipe: Recipe) -> dict[str, Any]:
    """What of dataset_conf is not a pair: filters, augmentation, batches."""
    augment, batch = recipe.augment, recipe.batch
    masks = augment.spec_augment
    settings: dict[str, Any] = {
        "filter_conf": {
            "max_length": round(min(recipe.store.max_seconds * _FRAMES_PER_S, _NO_BOUND)),
            "min_length": round(recipe.store.min_seconds * _FRAMES_PER_S),
        },
        "speed_perturb": augment.speeds == _SPEEDS,
        "spec_aug": masks is not None,
        "spec_sub": augment.substitutions > 0,
        "spec_trim": augment.trim_frames > 0,
        "shuffle": True,
        "sort": True,
        "sort_conf": {"sort_size": 500},
        "batch_conf": {"batch_type": "static", "batch_size": batch.static_utterances},
    }
    if masks is not None:
        settings["spec_aug_conf"] = {
            "num_t_mask": masks.time_masks,
            "num_f_mask": masks.frequency_masks,
            "max_t": masks.time_mask_frames,
            "max_f": masks.frequency_mask_bins,
        }
    if augment.substitutions:
        settings["spec_sub_conf"] = {
            "num_t_sub": augment.substitutions,
            "max_t": augment.substitution_frames,
        }
    if augment.trim_frames:
        settings["spec_trim_conf"] = {"max_t": augment.trim_frames}
    if batch.static_utterances is None:
        frames = 20000 if batch.max_padded_frames == "auto" else batch.max_padded_frames
        settings["batch_conf"] = {"batch_type": "dynamic", "max_frames_in_batch": frames}
    return settings


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = value
