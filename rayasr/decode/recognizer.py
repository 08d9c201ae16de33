"""Features to hypotheses: one encoder pass serves every decoding mode."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayasr.checkpoint import LoadedModel
from rayasr.config import Mode
from rayasr.decode.attention_search import attention_beam
from rayasr.decode.ctc_search import ctc_alignment, ctc_greedy, ctc_prefix_beam
from rayasr.decode.hypothesis import Hypothesis, best_of
from rayasr.decode.rescoring import ScoredNbest, score_nbest
from rayasr.model_config import fewest_frames

Nbests = dict[Mode, list[list[Hypothesis]]]
"""By mode, for each utterance its hypotheses, best first; times in seconds."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How to search; a model folder's decoding.json, or what a command asked for."""

    chunk_size: int = -1
    """Encoder frames per chunk; -1: full context."""
    left_chunks: int = -1
    """Chunks of history; -1: all."""
    beam_size: int = 10
    ctc_weight: float = 0.5
    reverse_weight: float = 0.5
    length_penalty: float = 0.0
    nbest: int = 1
    """Hypotheses to hand out per utterance and mode; greedy search has one."""

    @classmethod
    def of(cls, loaded: LoadedModel, **changes: Any) -> "Decoding":
        """What the model folder says, with changes."""
        defaults: dict[str, Any] = {
            name: loaded.decoding[name]
            for name in ("beam_size", "ctc_weight", "reverse_weight")
            if name in loaded.decoding
        }
        defaults["length_penalty"] = loaded.recipe.decode.length_penalty
        return cls(**(defaults | changes))


@dataclass(frozen=True)
class Decoded:
    """Hypotheses of some utterances by mode, and what rescoring chose from."""

    nbests: Nbests
    scored: list[ScoredNbest | None]
    """By utterance; None where attention_rescoring was not asked for or there was no audio."""

    @cached_property
    def hypotheses(self) -> dict[Mode, list[Hypothesis]]:
        """The best hypothesis of each utterance, by mode."""
        return {mode: [nbest[0] for nbest in nbests] for mode, nbests in self.nbests.items()}


@dataclass(frozen=True, slots=True)
class Reading:
    """A hypothesis and what it says."""

    text: str
    hypothesis: Hypothesis


class Recognizer:
    """Decodes features with one model; results do not depend on what else is in the batch."""

    def __init__(self, loaded: LoadedModel, decoding: Decoding | None = None) -> None:
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.decoding = decoding if decoding is not None else Decoding.of(loaded)
        subsampling = loaded.recipe.model.encoder.subsampling
        self.frame_s = subsampling * loaded.recipe.features.frame_shift_ms / 1000.0
        self._fewest_frames = fewest_frames(1, subsampling)
        self._device = next(loaded.model.parameters()).device

    @torch.no_grad()
    def decode_batch(self, features: Sequence[Tensor], modes: Sequence[Mode]) -> Decoded:
        """Decode utterances together; `features`: float32 (frames, F) each, fbank before CMVN.

        An utterance too short for one encoder frame has an empty hypothesis.
        """
        long = [i for i, item in enumerate(features) if len(item) >= self._fewest_frames]
        empty = [Hypothesis((), 0.0, ())]
        nbests: Nbests = {mode: [empty] * len(features) for mode in modes}
        scored: list[ScoredNbest | None] = [None] * len(features)
        if long:
            found, rescored = self._decode([features[i] for i in long], modes)
            for mode, results in found.items():
                for i, nbest in zip(long, results, strict=True):
                    nbests[mode][i] = [item.placed(0.0, self.frame_s) for item in nbest]
            for i, parts in zip(long, rescored, strict=False):
                scored[i] = parts
        return Decoded(nbests, scored)

    def text(self, hypothesis: Hypothesis) -> str:
        """What a hypothesis says."""
        return self.tokenizer.decode(hypothesis.units)

    def describe(self, reading: Reading) -> dict[str, Any]:
        """For `--json`: the text, the unit that each time and confidence belongs to, the score."""
        hypothesis = reading.hypothesis
        return {
            "text": reading.text,
            "score": round(hypothesis.score, 6),
            "confidence": round(hypothesis.confidence, 4),
            "units": [self.tokenizer.units[unit] for unit in hypothesis.units],
            "times": [round(time_s, 3) for time_s in hypothesis.times],
            "unit_confidences": [round(value, 4) for value in hypothesis.unit_confidences],
        }

    def _decode(
        self, features: Sequence[Tensor], modes: Sequence[Mode]
    ) -> tuple[Nbests, list[ScoredNbest]]:
        settings = self.decoding
        encoder_out, lengths = self.model.encode(
            pad_sequence(list(features), batch_first=True).to(self._device),
            torch.tensor([len(item) for item in features], device=self._device),
            settings.chunk_size,
            settings.left_chunks,
        )  # (B, T', D), (B,)
        log_probs = self.model.ctc_log_probs(encoder_out)  # (B, T', V)
        frames, count = lengths.cpu(), settings.nbest
        found: Nbests = {}
        scored: list[ScoredNbest] = []
        if "ctc_greedy_search" in modes:
            found["ctc_greedy_search"] = [[item] for item in ctc_greedy(log_probs, frames)]
        if "ctc_prefix_beam_search" in modes or "attention_rescoring" in modes:
            nbests = ctc_prefix_beam(log_probs, frames, settings.beam_size)
            found["ctc_prefix_beam_search"] = [best_of(nbest, count) for nbest in nbests]
        if "attention_rescoring" in modes:
            scored = score_nbest(self.model, nbests, encoder_out, lengths)
            weights = settings.ctc_weight, settings.reverse_weight
            found["attention_rescoring"] = [item.ranked(*weights, count) for item in scored]
        if "attention" in modes:
            nbests = attention_beam(
                self.model, encoder_out, lengths, settings.beam_size, settings.length_penalty, count
            )
            found["attention"] = _aligned(nbests, log_probs, frames)
        return {mode: found[mode] for mode in modes}, scored


def _aligned(
    nbests: Sequence[Sequence[Hypothesis]], log_probs: Tensor, lengths: Tensor
) -> list[list[Hypothesis]]:
    """The hypotheses with times on their best CTC path; `log_probs` (B, T', V), `lengths` (B,)."""
    owner = torch.tensor([i for i, nbest in enumerate(nbests) for _ in nbest])
    flat = [item for nbest in nbests for item in nbest]
    ends = ctc_alignment(log_probs.cpu()[owner], lengths[owner], [item.units for item in flat])
    timed = iter(replace(item, times=times) for item, times in zip(flat, ends, strict=True))
    return [[next(timed) for _ in nbest] for nbest in nbests]
