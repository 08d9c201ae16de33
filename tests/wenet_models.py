"""WeNet's trained models of ../shared/parity as ours, for tests of the model, search and export."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from rayasr.checkpoint import LoadedModel, cmvn_tensors, default_decoding
from rayasr.config import Recipe
from rayasr.data.cmvn import CmvnStats
from rayasr.model.u2 import build_model
from rayasr.tokenizer import Tokenizer

ENCODER_KEYS = (
    "output_size",
    "attention_heads",
    "linear_units",
    "num_blocks",
    "dropout_rate",
    "positional_dropout_rate",
    "attention_dropout_rate",
)
DECODER_KEYS = (
    "attention_heads",
    "linear_units",
    "num_blocks",
    "dropout_rate",
    "positional_dropout_rate",
    "self_attention_dropout_rate",
    "src_attention_dropout_rate",
)


def model_config(wenet: dict[str, Any]) -> dict[str, Any]:
    """Our `model` section for what a WeNet train.yaml says."""
    encoder, decoder, model = wenet["encoder_conf"], wenet["decoder_conf"], wenet["model_conf"]
    ours = {key: encoder[key] for key in ENCODER_KEYS if key in encoder}
    ours["kind"] = wenet["encoder"]
    ours["dynamic_chunk"] = encoder.get("use_dynamic_chunk", False)
    ours["dynamic_left_chunks"] = encoder.get("use_dynamic_left_chunk", False)
    if wenet["encoder"] == "conformer":
        ours["convolution_kernel"] = encoder.get("cnn_module_kernel", 15)
        ours["causal_convolution"] = encoder.get("causal", False)
        ours["convolution_norm"] = encoder.get("cnn_module_norm", "batch_norm")
        ours["mask_convolution"] = False
    right = decoder.get("r_num_blocks", 0) if wenet["decoder"] == "bitransformer" else 0
    return {
        "encoder": ours,
        "decoder": {key: decoder[key] for key in DECODER_KEYS if key in decoder}
        | {"r_num_blocks": right},
        "ctc_weight": model["ctc_weight"],
        "reverse_weight": model.get("reverse_weight", 0.0),
        "label_smoothing": model["lsm_weight"],
        "length_normalized_loss": model["length_normalized_loss"],
    }


def load_wenet(folder: Path) -> LoadedModel:
    """A folder with WeNet's final.pt, train.yaml, units.txt and global_cmvn."""
    wenet = yaml.safe_load((folder / "train.yaml").read_text())
    recipe = Recipe.model_validate({"name": folder.name, "model": model_config(wenet)})
    tokenizer = Tokenizer.load(folder)
    cmvn = CmvnStats.from_json(json.loads((folder / "global_cmvn").read_text()))
    model = build_model(
        recipe.model,
        num_mel_bins=recipe.features.num_mel_bins,
        vocab_size=tokenizer.vocab_size,
        sos_eos_id=tokenizer.sos_eos_id,
        cmvn=cmvn_tensors(cmvn),
    )
    weights = torch.load(folder / "final.pt", weights_only=True)
    tables = [name for name in weights if name.endswith(".pe")]  # positions: computed, not stored
    model.load_state_dict({k: v for k, v in weights.items() if k not in tables})
    return LoadedModel(model.eval(), recipe, tokenizer, cmvn, default_decoding(recipe), folder)
