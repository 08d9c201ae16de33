"""Features to hypotheses: one encoder pass serves every decoding mode."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rayasr.checkpoint import LoadedModel
from rayasr.config import Mode
from rayasr.decode.attention_search import attention_beam
from rayasr.decode.ctc_search import (
    CtcHypothesis,
    ctc_alignment,
    ctc_greedy,
    ctc_prefix_beam,
)
from rayasr.decode.rescoring import ScoredNbest, score_nbest
from rayasr.model_config import fewest_frames


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What one search found in one utterance."""

    units: tuple[int, ...]
    score: float
    """Log-probability, or rescoring's total."""
    times: tuple[float, ...]
    """Seconds at which each unit ends; () where the units cannot be aligned."""


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


@dataclass(frozen=True, slots=True)
class Decoded:
    """Hypotheses of some utterances by mode, and what rescoring chose from."""

    hypotheses: dict[Mode, list[Hypothesis]]
    scored: list[ScoredNbest | None]
    """By utterance; None where attention_rescoring was not asked for or there was no audio."""


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
        empty = Hypothesis((), 0.0, ())
        hypotheses: dict[Mode, list[Hypothesis]] = {mode: [empty] * len(features) for mode in modes}
        scored: list[ScoredNbest | None] = [None] * len(features)
        if long:
            found, nbests = self._decode([features[i] for i in long], modes)
            for mode, results in found.items():
                for i, result in zip(long, results, strict=True):
                    hypotheses[mode][i] = result
            for i, nbest in zip(long, nbests, strict=False):
                scored[i] = nbest
        return Decoded(hypotheses, scored)

    def text(self, hypothesis: Hypothesis) -> str:
        """What a hypothesis says."""
        return self.tokenizer.decode(hypothesis.units)

    def _decode(
        self, features: Sequence[Tensor], modes: Sequence[Mode]
    ) -> tuple[Mapping[Mode, list[Hypothesis]], list[ScoredNbest]]:
        settings = self.decoding
        encoder_out, lengths = self.model.encode(
            pad_sequence(list(features), batch_first=True).to(self._device),
            torch.tensor([len(item) for item in features], device=self._device),
            settings.chunk_size,
            settings.left_chunks,
        )  # (B, T', D), (B,)
        log_probs = self.model.ctc_log_probs(encoder_out)  # (B, T', V)
        frames = lengths.cpu()
        found: dict[Mode, list[Hypothesis]] = {}
        scored: list[ScoredNbest] = []
        if "ctc_greedy_search" in modes:
            found["ctc_greedy_search"] = self._timed(ctc_greedy(log_probs, frames))
        if "ctc_prefix_beam_search" in modes or "attention_rescoring" in modes:
            nbests = ctc_prefix_beam(log_probs, frames, settings.beam_size)
            found["ctc_prefix_beam_search"] = self._timed([nbest[0] for nbest in nbests])
        if "attention_rescoring" in modes:
            scored = score_nbest(self.model, nbests, encoder_out, lengths)
            weights = settings.ctc_weight, settings.reverse_weight
            found["attention_rescoring"] = self._timed([item.best(*weights) for item in scored])
        if "attention" in modes:
            results = attention_beam(
                self.model, encoder_out, lengths, settings.beam_size, settings.length_penalty
            )
            times = ctc_alignment(log_probs.cpu(), frames, [item.units for item in results])
            found["attention"] = self._timed(
                [
                    CtcHypothesis(item.units, item.score, ends)
                    for item, ends in zip(results, times, strict=True)
                ]
            )
        return {mode: found[mode] for mode in modes}, scored

    def _timed(self, hypotheses: Sequence[CtcHypothesis]) -> list[Hypothesis]:
        return [
            Hypothesis(item.units, item.score, tuple(t * self.frame_s for t in item.times))
            for item in hypotheses
        ]
