"""Drives an exported model the way WeNet's C++ runtime does (runtime/core/decoder).

Only what a `torch::jit` module offers is used: features arrive in pieces of the decoding window,
caches travel between calls, CTC search happens outside, and `forward_attention_decoder` scores the
hypotheses that it found.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rayasr.decode.ctc_search import ctc_greedy, ctc_prefix_beam
from rayasr.decode.hypothesis import Hypothesis


@dataclass(frozen=True)
class Decoded:
    """What the runtime has at the end of an utterance."""

    log_probs: Tensor  # (T', V)
    greedy: tuple[int, ...]
    nbest: list[Hypothesis]
    rescored: tuple[int, ...]


class RuntimeDriver:
    """One exported model with the runtime's options."""

    def __init__(
        self,
        module: Any,  # torch.jit.load(path)
        chunk_size: int,
        left_chunks: int = -1,
        *,
        beam_size: int = 10,
        ctc_weight: float = 0.5,
        reverse_weight: float = 0.0,
    ) -> None:
        self.module = module.eval()
        self.rate = module.subsampling_rate()
        self.right_context = module.right_context()
        self.sos = module.sos_symbol()
        self.eos = module.eos_symbol()
        assert reverse_weight == 0 or module.is_bidirectional_decoder()
        self.chunk_size, self.left_chunks = chunk_size, left_chunks
        self.beam_size, self.ctc_weight = beam_size, ctc_weight
        self.reverse_weight = reverse_weight

    @torch.no_grad()
    def decode(self, features: Tensor) -> Decoded:
        """One utterance; features (T, F) are raw fbank."""
        att_cache = cnn_cache = torch.zeros(0, 0, 0, 0)
        offset, encoder_outs, log_probs = 0, [], []
        for window in self._windows(features):
            out, att_cache, cnn_cache = self.module.forward_encoder_chunk(
                window[None], offset, self.chunk_size * self.left_chunks, att_cache, cnn_cache
            )
            offset += out.size(1)
            log_probs.append(self.module.ctc_activation(out)[0])
            encoder_outs.append(out)
        scores = torch.cat(log_probs)
        length = torch.tensor([len(scores)])
        nbest = ctc_prefix_beam(scores[None], length, self.beam_size)[0]
        return Decoded(
            log_probs=scores,
            greedy=ctc_greedy(scores[None], length)[0].units,
            nbest=nbest,
            rescored=self._rescore(nbest, torch.cat(encoder_outs, dim=1)),
        )

    def _windows(self, features: Tensor) -> Iterator[Tensor]:
        """Features of each call: what is left of the one before, and a chunk's new frames.

        A rest too short for more than one encoder frame is dropped, as the runtime does.
        """
        kept = 1 + self.right_context - self.rate  # frames that the next window needs again
        first = (self.chunk_size - 1) * self.rate + self.right_context + 1
        start, cached = 0, 0
        while start < len(features):
            new = first if start == 0 else self.chunk_size * self.rate
            if self.chunk_size <= 0:
                new = len(features)
            end = min(start + new, len(features))
            if cached + end - start > self.right_context + 1:
                yield features[start - cached : end]
                if end - start >= kept:
                    cached = kept
            start = end

    def _rescore(self, nbest: list[Hypothesis], encoder_out: Tensor) -> tuple[int, ...]:
        """The best of the n-best by the decoders' scores plus the weighted CTC score."""
        longest = max(len(hypothesis.units) for hypothesis in nbest) + 1
        hyps = torch.zeros(len(nbest), longest, dtype=torch.long)  # padded with 0, without <eos>
        lengths = torch.zeros(len(nbest), dtype=torch.long)
        for i, hypothesis in enumerate(nbest):
            lengths[i] = len(hypothesis.units) + 1
            hyps[i, : lengths[i]] = torch.tensor([self.sos, *hypothesis.units])
        left, right = self.module.forward_attention_decoder(
            hyps, lengths, encoder_out, self.reverse_weight
        )
        best, best_score = nbest[0].units, float("-inf")
        for i, hypothesis in enumerate(nbest):
            score = self._attention_score(left[i], hypothesis.units)
            if self.reverse_weight > 0:
                reversed_score = self._attention_score(right[i], hypothesis.units[::-1])
                score = score * (1 - self.reverse_weight) + reversed_score * self.reverse_weight
            score += self.ctc_weight * hypothesis.score
            if score > best_score:
                best, best_score = hypothesis.units, score
        return best

    def _attention_score(self, log_probs: Tensor, units: tuple[int, ...]) -> float:
        """Sum over the units and <eos>; log_probs (L, V)."""
        steps = [*units, self.eos]
        return float(sum(log_probs[i, unit] for i, unit in enumerate(steps)))
