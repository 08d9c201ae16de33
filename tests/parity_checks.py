"""Differences between our model and WeNet's on ../shared/parity, one `Check` per quantity.

Used by tests/unit/model/test_parity.py and benchmarks/parity_table.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayasr.config import OptimConfig
from rayasr.model.losses import Losses, add_sos_eos, attention_loss, ctc_loss, reverse_units
from rayasr.model.masks import padding_mask
from rayasr.model.u2 import U2Model, build_model
from rayasr.model_config import ModelConfig
from rayasr.train.optim import build_optimizer, clip_gradients, learning_rate, set_learning_rate
from rayasr.train.step import combine
from rayasr.wenet.weights import read_weights
from tests.wenet_models import read_recipe

FIXTURES = (
    "u2pp_trained",
    "unified",
    "u2_conformer/causal_layernorm",
    "u2_conformer/batchnorm_noncausal",
)


class Check(NamedTuple):
    name: str
    difference: float
    tolerance: float


class Fixture(NamedTuple):
    """One model of WeNet's, loaded as ours, with its batch and expected values."""

    model: U2Model
    config: ModelConfig
    arrays: dict[str, Tensor]
    facts: dict[str, Any]
    features: Tensor  # (B, T, F), padded with 0
    lengths: Tensor
    units: Tensor  # (B, L), padded with -1
    unit_lengths: Tensor

    def losses(self, dtype: torch.dtype = torch.float32, chunk_size: int = -1) -> Losses:
        batch = (self.features.to(dtype), self.lengths, self.units, self.unit_lengths)
        return self.model(*batch, chunk_size=chunk_size)

    def loss(self, losses: Losses) -> Tensor:
        """What a training step of this batch alone would lower."""
        return combine(losses, self.config, len(self.lengths), int(self.unit_lengths.sum()))[0]

    def left_decoder(self, chunk_size: int) -> tuple[Tensor, int]:
        """The left decoder's loss, and how many units it ranks first, given those before them."""
        frames, lengths = self.model.encode(self.features, self.lengths, chunk_size)
        bias = self.model.memory_bias(padding_mask(lengths, frames.size(1)), frames)
        inputs, targets = add_sos_eos(self.units, self.unit_lengths, self.model.sos_eos_id)
        logits, _ = self.model.left_logits(inputs, frames, bias, None)
        loss = attention_loss(logits, targets, self.config.label_smoothing)
        return loss, int((logits.argmax(2) == targets).sum())


def read_arrays(path: Path) -> dict[str, Tensor]:
    with np.load(path) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def load_fixture(parity: Path, name: str) -> Fixture:
    folder = parity / name
    arrays = read_arrays(folder / "fixture.npz")
    speech = read_arrays(parity / "u2pp_trained" / "fixture.npz")
    facts = json.loads((folder / "fixture.json").read_text())
    model = load_model(folder, facts["vocab_size"], facts["sos"])
    lengths = speech["feats_lengths"].long()
    features = torch.nn.utils.rnn.pad_sequence(
        list(speech["feats"].split(lengths.tolist())), batch_first=True
    )
    units, unit_lengths = arrays["target"].long(), arrays["target_lengths"].long()
    config = load_config(folder)
    return Fixture(model, config, arrays, facts, features, lengths, units, unit_lengths)


def load_config(folder: Path) -> ModelConfig:
    """WeNet's train.yaml as our section `model`."""
    return read_recipe(folder).model


def load_model(folder: Path, vocab_size: int, sos_eos_id: int) -> U2Model:
    """WeNet's final.pt, every name but the position tables, in eval mode."""
    config = load_config(folder)
    model = build_model(config, num_mel_bins=80, vocab_size=vocab_size, sos_eos_id=sos_eos_id)
    if (folder / "final.pt").exists():
        model.load_state_dict(read_weights(folder / "final.pt", lambda _: None))
    return model.eval()


def gap(ours: Tensor, wenet: Tensor) -> float:
    """Largest absolute difference; raises where shapes differ."""
    if ours.shape != wenet.shape:
        raise AssertionError(f"shape {tuple(ours.shape)}, WeNet's {tuple(wenet.shape)}")
    return float((ours.detach() - wenet).abs().max())


def number(value: Tensor) -> float:
    return float(value.detach())


def relative(ours: float, wenet: float) -> float:
    return abs(ours - wenet) / max(abs(wenet), 1e-12)


def encoder_checks(fixture: Fixture) -> Iterator[Check]:
    """Encoder frames and CTC log-probabilities at full context and in chunks."""
    arrays = fixture.arrays
    for name in [n for n in arrays if n.startswith("enc_") and arrays[n].dim() == 2]:
        if "pad" in name:
            continue
        chunk, left = -1, -1
        if name != "enc_full":
            _, chunk_text, left_text = name.split("_")
            chunk = int(chunk_text[1:])
            left = -1 if left_text == "lall" else int(left_text[1:])
        with torch.no_grad():
            frames, lengths = fixture.model.encode(fixture.features, fixture.lengths, chunk, left)
        yield Check("encoder lengths", gap(lengths, arrays["enc_lengths"].long()), 0.0)
        valid = torch.cat([frames[i, :n] for i, n in enumerate(lengths.tolist())])
        yield Check(name, gap(valid, arrays[name]), 2e-4)
        log_probs = name.replace("enc_", "ctc_logp_")
        if log_probs in arrays:
            yield Check(log_probs, gap(fixture.model.ctc_log_probs(valid), arrays[log_probs]), 2e-4)


def loss_checks(fixture: Fixture) -> Iterator[Check]:
    """Losses at full context and chunk 16, by utterances and by units, and decoder inputs."""
    count, facts = len(fixture.lengths), fixture.facts["losses"]
    for chunk in (-1, 16):
        wenet = facts["batch_normalized"] if chunk < 0 else facts["batch_normalized"].get("chunk16")
        by_units = facts["length_normalized"] if chunk < 0 else {}
        if wenet is None:
            continue
        with torch.no_grad():
            ours = fixture.losses(chunk_size=chunk)
            left, correct = fixture.left_decoder(chunk)
        label = "full" if chunk < 0 else "chunk 16"
        pairs = {
            "loss": (fixture.loss(ours) * count, wenet["loss"]),
            "loss_ctc": (ours.ctc, wenet["loss_ctc"]),
            "loss_att": (ours.attention, wenet["loss_att"]),
            "loss_att_left": (left, wenet["loss_att_left"]),
        }
        for name, (value, expected) in pairs.items():
            yield Check(f"{name} ({label})", relative(number(value) / count, expected), 1e-5)
        if by_units:
            num_units = int(fixture.unit_lengths.sum()) + count  # with the ends
            value = number(ours.attention) / num_units
            yield Check("loss_att by units", relative(value, by_units["loss_att"]), 1e-5)
            accuracy = relative(correct / num_units, wenet["th_accuracy"])
            yield Check("th_accuracy", accuracy, 1e-6)
    inputs, targets = add_sos_eos(fixture.units, fixture.unit_lengths, fixture.facts["sos"])
    yield Check("ys_in", gap(inputs, fixture.arrays["ys_in"].long()), 0.0)
    yield Check("ys_out", gap(targets, fixture.arrays["ys_out"].long()), 0.0)
    if "r_ys_in" in fixture.arrays:
        units = reverse_units(fixture.units, fixture.unit_lengths, -1)
        inputs, targets = add_sos_eos(units, fixture.unit_lengths, fixture.facts["sos"])
        yield Check("r_ys_in", gap(inputs, fixture.arrays["r_ys_in"].long()), 0.0)
        yield Check("r_ys_out", gap(targets, fixture.arrays["r_ys_out"].long()), 0.0)


def ctc_checks(fixture: Fixture) -> Iterator[Check]:
    """CTC loss of each utterance of the padded batch."""
    model = fixture.model
    with torch.no_grad():
        frames, lengths = model.encode(fixture.features, fixture.lengths)
        logits = model.ctc(frames)
    for i, wenet in enumerate(fixture.arrays["ctc_loss_per_utt"].tolist()):
        one = slice(i, i + 1)
        loss = ctc_loss(logits[one], lengths[one], fixture.units[one], fixture.unit_lengths[one])
        yield Check("ctc loss per utterance, abs", abs(float(loss) - wenet), 1e-3)


def gradient_checks(fixture: Fixture, dtype: torch.dtype) -> Iterator[Check]:
    """Gradient norms of all parameters and the stored gradients; leaves the model in float32.

    The tolerance is relative to the norm with a floor of 1e-5 (float64: 1e-6, floor 1e-8).
    """
    name = str(dtype).removeprefix("torch.")
    tolerance, floor = (1e-3, 1e-5) if dtype == torch.float32 else (1e-6, 1e-8)
    model = fixture.model.to(dtype)
    model.zero_grad()
    losses = fixture.losses(dtype)
    loss, ctc = fixture.loss(losses), losses.ctc / len(fixture.lengths)
    loss.backward()
    wenet = fixture.facts["losses"][name]
    for key, value in (("loss", loss), ("loss_ctc", ctc)):
        difference = relative(number(value), wenet[key])
        yield Check(f"{key} {name}", difference, 1e-5 if floor > 1e-6 else 1e-6)
    norms = fixture.facts["grad_norms"][name]
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        norm = norms[parameter]
        difference = abs(float(p.grad.norm()) - norm)
        relative_difference = difference / norm if difference > floor else 0.0
        yield Check(f"gradient norm {name}", relative_difference, tolerance)
        stored = fixture.arrays.get(f"grad.{parameter}")
        if stored is not None and dtype == torch.float32:
            error = float((p.grad - stored).norm())
            yield Check("stored gradients", error / norm if error > floor else 0.0, tolerance)
    model.float().zero_grad()


def decoder_checks(fixture: Fixture) -> Iterator[Check]:
    """Teacher-forced log-probabilities of five hypotheses, and the same unit by unit."""
    facts = fixture.facts["decoder_scores"]
    i = facts["utt_index"]
    model, frames = fixture.model, int(fixture.lengths[i])
    hyps = fixture.arrays["dec_hyps_in"].long()
    lengths = torch.tensor([len(h) + 1 for h in facts["hyps"]])
    with torch.no_grad():
        encoder_out, _ = model.encode(
            fixture.features[i : i + 1, :frames], fixture.lengths[i : i + 1]
        )
        left, right = model.forward_attention_decoder(hyps, lengths, encoder_out, 0.5)
        inside = padding_mask(lengths, hyps.size(1))  # what follows <eos> is nobody's business
        stored = fixture.arrays["dec_left_logp"]
        yield Check("dec_left_logp", gap(left[inside], stored[inside]), 2e-4)
        if "dec_right_logp" in fixture.arrays:
            stored_right = fixture.arrays["dec_right_logp"][inside]
            yield Check("dec_right_logp", gap(right[inside], stored_right), 2e-4)
        memory = encoder_out.expand(len(hyps), -1, -1)
        mask = torch.ones(len(hyps), 1, memory.size(1), dtype=torch.bool)
        cache = None
        for step in range(hyps.size(1)):
            log_probs, cache = model.decoder_step(hyps[:, : step + 1], memory, mask, cache)
            rows = inside[:, step]
            yield Check("decoder_step", gap(log_probs[rows], stored[rows, step]), 2e-4)


def streaming_checks(fixture: Fixture) -> Iterator[Check]:
    """Encoder frames and caches, chunk by chunk as WeNet's runtime calls."""
    stream = fixture.facts["stream"]
    i = fixture.facts["keys"].index(stream["key"])
    features = fixture.features[i : i + 1, : stream["frames"]]
    for name, run in stream["runs"].items():
        att_cache, cnn_cache = torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)
        frames: list[Tensor] = []
        for chunk in run["chunks"]:
            begin, end = chunk["feats"]
            with torch.no_grad():
                out, att_cache, cnn_cache = fixture.model.forward_encoder_chunk(
                    features[:, begin:end],
                    chunk["offset"],
                    run["required_cache_size"],
                    att_cache,
                    cnn_cache,
                )
            frames.append(out[0])
            assert list(att_cache.shape) == chunk["att_cache"], name
            assert list(cnn_cache.shape) == chunk["cnn_cache"], name
        arrays = fixture.arrays
        yield Check(f"stream_{name}", gap(torch.cat(frames), arrays[f"stream_{name}"]), 2e-4)
        cnn = arrays[f"stream_{name}.cnn_cache"]
        yield Check(f"stream_{name}.cnn_cache", gap(cnn_cache, cnn), 2e-4)
        whole = arrays.get(f"stream_{name}.att_cache")
        if whole is not None:
            yield Check(f"stream_{name}.att_cache", gap(att_cache, whole), 2e-4)
        else:
            layer0 = arrays[f"stream_{name}.att_cache_layer0"]
            yield Check(f"stream_{name}.att_cache", gap(att_cache[0], layer0), 2e-4)


def batch_norm_checks(fixture: Fixture) -> Iterator[Check]:
    """One forward and backward in train mode, dropout off, and the running statistics after it."""
    wenet, model = fixture.facts["bn_train_mode"], fixture.model.train()
    for module in model.modules():
        if hasattr(module, "rate") and isinstance(module.rate, float):
            module.rate = 0.0
    loss = fixture.loss(fixture.losses())
    loss.backward()
    yield Check("batch norm: loss in training", relative(number(loss), wenet["loss"]), 1e-5)
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        difference = abs(float(p.grad.norm()) - wenet["grad_norms"][name])
        value = difference / wenet["grad_norms"][name] if difference > 1e-5 else 0.0
        yield Check("batch norm: gradient norms", value, 1e-3)
    state = model.state_dict()
    for name, array in fixture.arrays.items():
        if name.startswith("bn_after_one_forward."):
            ours = state[name.removeprefix("bn_after_one_forward.")]
            yield Check("batch norm: running statistics", gap(ours, array), 2e-4)


def trajectory_checks(parity: Path, steps_of_four: int = 100) -> Iterator[Check]:
    """WeNet's training run of 100 micro-batches, with 1 and with 4 of them per update."""
    facts = json.loads((parity / "trajectory" / "trajectory.json").read_text())
    arrays = read_arrays(parity / "trajectory" / "trajectory.npz")
    yield from run_trajectory(parity, facts["runs"], arrays, 1, 100)
    yield from run_trajectory(parity, facts["runs"], arrays, 4, steps_of_four)


def run_trajectory(
    parity: Path, runs: dict[str, Any], arrays: dict[str, Tensor], accumulate: int, steps: int
) -> Iterator[Check]:
    wenet = runs[f"accum{accumulate}_float32"]
    folder = parity / "trajectory"
    model = load_model(folder, len(arrays["init.ctc.ctc_lo.bias"]), 2).train()
    model.load_state_dict({k[5:]: v for k, v in arrays.items() if k.startswith("init.")})
    config, losses_config = OptimConfig(lr=0.001, warmup_steps=50), load_config(folder)
    optimizer = build_optimizer(model, config)
    parameters = list(model.parameters())
    for step in range(steps):
        batch = {
            key: arrays[f"batch{step % 5}.{key}"]
            for key in ("feats", "feats_lengths", "target", "target_lengths")
        }
        units = batch["target"].long()
        losses = model(
            batch["feats"].float(),
            batch["feats_lengths"].long(),
            units,
            batch["target_lengths"].long(),
        )
        loss, ctc, _ = combine(losses, losses_config, len(units), 0)
        (loss / accumulate).backward()
        for key, value in (("loss", loss), ("loss_ctc", ctc)):
            difference = relative(number(value), wenet[key][step])
            label = f"trajectory accum {accumulate}: {key}"
            if step < 20:
                yield Check(f"{label}, first 20", difference, 1e-5)
            yield Check(label, difference, 1e-3)
        update, rest = divmod(step + 1, accumulate)
        if rest == 0:
            lr = learning_rate(config, update - 1, steps)
            yield Check("trajectory: learning rate", abs(lr - wenet["lr_used"][update - 1]), 1e-9)
            set_learning_rate(optimizer, lr)
            norm = clip_gradients([p.grad for p in parameters if p.grad is not None], 5.0, None)
            difference = relative(float(norm), wenet["grad_norm"][update - 1])
            yield Check(f"trajectory accum {accumulate}: gradient norm", difference, 1e-2)
            optimizer.step()
            optimizer.zero_grad()


def all_checks(parity: Path) -> Iterator[tuple[str, Check]]:
    """Every check, with the fixture it belongs to."""
    for name in FIXTURES:
        fixture = load_fixture(parity, name)
        for part in (encoder_checks, loss_checks, ctc_checks, decoder_checks):
            yield from ((name, check) for check in part(fixture))
        for dtype in (torch.float32, torch.float64):
            yield from ((name, check) for check in gradient_checks(fixture, dtype))
        fixture = load_fixture(parity, name)  # float64 and back rounds nothing, but be plain
        if "stream" in fixture.facts:
            yield from ((name, check) for check in streaming_checks(fixture))
        if "bn_train_mode" in fixture.facts:
            yield from ((name, check) for check in batch_norm_checks(fixture))
    yield from (("trajectory", check) for check in trajectory_checks(parity))
