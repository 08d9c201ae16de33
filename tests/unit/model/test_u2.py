"""The model as a whole: scripting, sizes, chunks, and decoding unit by unit."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from rayasr.model.masks import padding_mask
from rayasr.model.u2 import U2Model, build_model
from rayasr.model_config import ModelConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "conformer": {},
    "transformer": {"kind": "transformer"},
    "absolute positions": {"positions": "absolute"},
    "batch norm": {"causal_convolution": False, "convolution_norm": "batch_norm"},
    "not causal": {"causal_convolution": False},
    "conv2d6": {"subsampling": 6},
    "conv2d8, few channels": {"subsampling": 8, "subsampling_channels": 4},
    "all dropouts": {"attention_dropout_rate": 0.1},
}


def small_model(right_blocks: int = 1, **encoder: Any) -> U2Model:
    sizes = {"output_size": 16, "linear_units": 32, "num_blocks": 2, "attention_heads": 2}
    decoder = {"linear_units": 32, "num_blocks": 2, "attention_heads": 2}
    config = ModelConfig.model_validate(
        {"encoder": sizes | encoder, "decoder": decoder | {"r_num_blocks": right_blocks}}
    )
    torch.manual_seed(1)
    return build_model(config, num_mel_bins=20, vocab_size=11, sos_eos_id=2)


def batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    features = torch.randn(3, 120, 20)
    tokens = torch.tensor([[3, 4, 5, 6], [7, 8, 9, -1], [3, 3, -1, -1]])
    return features, torch.tensor([120, 97, 60]), tokens, torch.tensor([4, 3, 2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_encoder_scripts_saves_and_computes_the_same(variant: str) -> None:
    right_blocks = 0 if variant in ("transformer", "not causal") else 1
    model = small_model(right_blocks, **VARIANTS[variant])
    stored = io.BytesIO()
    torch.jit.save(torch.jit.script(model), stored)
    stored.seek(0)
    scripted = torch.jit.load(stored).eval()
    model.eval()
    features, lengths, tokens, token_lengths = batch()
    with torch.no_grad():
        ours = model(features, lengths, tokens, token_lengths)
        theirs = scripted(features, lengths, tokens, token_lengths)
        torch.testing.assert_close(tuple(ours), tuple(theirs), rtol=1e-5, atol=0.0)
        chunk = scripted.forward_encoder_chunk(
            features[:1, :67], 0, -1, torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)
        )
        frames = scripted.encode(features[:1, :67], torch.tensor([67]))[0]
        assert torch.allclose(chunk[0], frames, atol=1e-5)
        hyps = torch.tensor([[2, 3, 4], [2, 5, 2]])
        left, right = scripted.forward_attention_decoder(hyps, torch.tensor([3, 2]), frames, 0.3)
    assert left.shape == (2, 3, 11)
    assert right.dim() == 3
    assert scripted.subsampling_rate() == model.encoder.embed.rate
    assert scripted.is_bidirectional_decoder() == bool(right_blocks)
    assert (scripted.sos_symbol(), scripted.eos_symbol()) == (2, 2)
    assert scripted.right_context() == {4: 6, 6: 10, 8: 14}[scripted.subsampling_rate()]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_gets_a_gradient(variant: str) -> None:
    model = small_model(**VARIANTS[variant]).train()
    losses = model(*batch())
    (losses.ctc + losses.attention).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_batch_size_changes_nothing(variant: str) -> None:
    model = small_model(**VARIANTS[variant]).eval()
    features, lengths, tokens, token_lengths = batch()
    with torch.no_grad():
        together = model(features, lengths, tokens, token_lengths)
        alone = [
            model(
                features[i : i + 1, :n],
                lengths[i : i + 1],
                tokens[i : i + 1],
                token_lengths[i : i + 1],
            )
            for i, n in enumerate(lengths.tolist())
        ]
    for part in range(len(together)):
        total = sum(float(losses[part]) for losses in alone)
        assert total == pytest.approx(float(together[part]), rel=1e-5)


def test_unmasked_convolution_leaks_padding_as_wenet_does() -> None:
    model = small_model(causal_convolution=False, mask_convolution=False).eval()
    features, lengths, _, _ = batch()
    with torch.no_grad():
        together = model.encode(features, lengths)[0][2, :14]
        alone = model.encode(features[2:, :60], lengths[2:])[0][0]
    assert (together - alone).abs().max() > 1e-4


@pytest.mark.parametrize(("chunk", "left"), [(4, -1), (4, 2), (16, 1)])
def test_streaming_equals_the_chunk_mask(chunk: int, left: int) -> None:
    model = small_model().eval()
    features = batch()[0][:1]
    att_cache, cnn_cache = torch.zeros(0, 0, 0, 0), torch.zeros(0, 0, 0, 0)
    frames = []
    with torch.no_grad():
        whole = model.encode(features, torch.tensor([120]), chunk, left)[0]
        for start in range(0, 120 - 6, 4 * chunk):
            out, att_cache, cnn_cache = model.forward_encoder_chunk(
                features[:, start : start + 4 * chunk + 3],
                start // 4,
                left * chunk,
                att_cache,
                cnn_cache,
            )
            frames.append(out)
    assert torch.allclose(torch.cat(frames, 1), whole, atol=1e-5)


def test_decoding_unit_by_unit_equals_teacher_forcing_after_reordering() -> None:
    model = small_model().eval()
    features, lengths, _, _ = batch()
    hyps = torch.tensor([[2, 3, 4, 5], [2, 6, 7, 8], [2, 9, 3, 4]])
    order = torch.tensor([2, 0, 0])
    with torch.no_grad():
        frames, frame_lengths = model.encode(features, lengths)
        mask = padding_mask(frame_lengths, frames.size(1))[:, None]
        _, cache = model.decoder_step(hyps[:, :1], frames, mask)
        _, cache = model.decoder_step(hyps[:, :2], frames, mask, cache)
        cache = [tensor.index_select(0, order) for tensor in cache]
        hyps, frames, mask = hyps[order], frames[order], mask[order]
        step, _ = model.decoder_step(hyps[:, :3], frames, mask, cache)
        whole, _ = model.decoder_log_probs(hyps, torch.full((3,), 4), frames, mask, 0.0)
        fresh, _ = model.decoder_step(hyps[:, :3], frames, mask)
    assert torch.allclose(step, whole[:, 2], atol=1e-5)
    assert torch.allclose(fresh, whole[:, 2], atol=1e-5)


@pytest.mark.parametrize("right_blocks", [0, 1])
def test_hypotheses_of_an_utterance_share_its_frames(right_blocks: int) -> None:
    model = small_model(right_blocks).eval()
    features, lengths, _, _ = batch()
    hyps = torch.tensor(
        [[2, 3, 4, 5], [2, 6, 2, 2], [2, 2, 2, 2], [2, 9, 3, 2], [2, 5, 5, 5], [2, 8, 2, 2]]
    )
    counts = torch.tensor([4, 2, 1, 3, 4, 2])
    with torch.no_grad():
        frames, frame_lengths = model.encode(features, lengths)
        mask = padding_mask(frame_lengths, frames.size(1))[:, None]  # three utterances, two each
        repeated = frames.repeat_interleave(2, 0), mask.repeat_interleave(2, 0)
        shared = model.decoder_log_probs(hyps, counts, frames, mask, 0.5)
        apart = model.decoder_log_probs(hyps, counts, *repeated, 0.5)
        _, cache = model.decoder_step(hyps[:, :1], frames, mask)
        assert [part.size(0) for part in cache] == [6, 3] * 2
        step, _ = model.decoder_step(hyps[:, :2], frames, mask, cache)
        step_apart, _ = model.decoder_step(hyps[:, :2], *repeated)
    torch.testing.assert_close(shared, apart, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(step, step_apart, rtol=0.0, atol=1e-5)


def test_training_draws_from_torchs_generator_only() -> None:
    model = small_model(dynamic_left_chunks=True).train()
    data = batch()
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(float(model(*data).attention.detach()))
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("encoder", "decoder", "millions"),
    [
        (
            {"convolution_kernel": 8, "attention_dropout_rate": 0.1},
            {"num_blocks": 3, "r_num_blocks": 3},
            48.35,
        ),
        ({"kind": "transformer"}, {"num_blocks": 6, "r_num_blocks": 0}, 30.4),
    ],
)
def test_published_sizes(encoder: Any, decoder: Any, millions: float) -> None:
    config = ModelConfig.model_validate({"encoder": encoder, "decoder": decoder})
    with torch.device("meta"):
        model = build_model(config, num_mel_bins=80, vocab_size=4233, sos_eos_id=2)
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)
