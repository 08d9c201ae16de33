"""What hypotheses cannot show: log-probabilities on one long probe, held against the checkpoint's.

On short utterances a wrong history changes nothing, and a split may lack the units that a defect
would change. So recordings are strung together until they outlast the longest history of the
export, and an exported model has to give the checkpoint's log-probabilities on that.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rayasr.certify.certificate import context_name
from rayasr.certify.checkpoint_runtime import CheckpointRuntime
from rayasr.certify.int8_runtime import Int8Maker
from rayasr.certify.runtime import OpenRuntime
from rayasr.checkpoint import LoadedModel
from rayasr.decode.ctc_search import ctc_greedy
from rayasr.export.info import ExportedModel
from rayasr.export.torchscript import int8_kernels, quantized

PROBE_S = 10.0
"""Shortest probe."""
MAX_UNITS = 60
"""Steps of the decoders that are compared."""
TOLERANCE = 1e-2
"""Largest difference of a float32 model in a log-probability: chunks or masks, all kernels."""
NEARER = 0.8
"""Another context explains a model if it brings the mean difference down to this share."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far log-probabilities are from others; infinite where there are not as many frames."""

    largest: float
    means: tuple[float, ...]
    """Mean of |difference| of CTC's, then of each decoder's that both have."""

    @classmethod
    def between(cls, expected: Sequence[Tensor], found: Sequence[Tensor]) -> "Drift":
        """`found` may lack the decoders, and a last frame, which WeNet's runtime drops."""
        largest, means = 0.0, []
        for wanted, got in zip(expected, found, strict=False):
            if not 0 <= len(wanted) - len(got) <= 1 or not bool(got.isfinite().all()):
                return cls(math.inf, (math.inf,))
            difference = (wanted[: len(got)] - got).abs()
            largest = max(largest, float(difference.max()) if len(got) else 0.0)
            means.append(float(difference.mean()) if len(got) else 0.0)
        return cls(largest, tuple(means))


def divergence(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Kullback-Leibler divergence in nats per frame and per decoder step: what a change harms."""
    total = 0.0
    for wanted, got in zip(expected, found, strict=True):
        wanted, got = wanted.double(), got.double()
        total += float((wanted.exp() * (wanted - got)).sum(1).mean())
    return total


def probe_seconds(loaded: LoadedModel, models: Sequence[ExportedModel]) -> float:
    """How long a probe must be to outlast twice the history of every model."""
    subsampling = loaded.recipe.model.encoder.subsampling
    frame_s = subsampling * loaded.recipe.features.frame_shift_ms / 1000.0
    frames = max(item.chunk_size * (2 * max(item.left_chunks, 1) + 3) for item in models)
    return max(PROBE_S, frames * frame_s)


class Probe:
    """A long recording, and what the checkpoint makes of it in any context."""

    def __init__(self, loaded: LoadedModel, samples: Tensor) -> None:
        self._loaded, self._samples = loaded, samples
        self._known: dict[tuple[int, int], list[Tensor]] = {}
        self._units: tuple[int, ...] = ()
        log_probs = self.log_probs(-1, -1)[0]
        (best,) = ctc_greedy(log_probs[None], torch.tensor([len(log_probs)]))
        self._units = best.units[:MAX_UNITS]

    def log_probs(
        self, chunk_size: int, left_chunks: int, int8_skip: tuple[str, ...] | None = None
    ) -> list[Tensor]:
        """The checkpoint's, as OpenRuntime's; with `int8_skip` those of int8 but for these."""
        loaded = self._loaded
        if int8_skip is None:
            runtime = CheckpointRuntime(loaded, "ctc_greedy_search", chunk_size, left_chunks)
            return runtime.log_probs(self._samples, self._units)
        loaded = replace(loaded, model=quantized(loaded.model, int8_skip))
        with int8_kernels():
            runtime = CheckpointRuntime(loaded, "ctc_greedy_search", chunk_size, left_chunks)
            return runtime.log_probs(self._samples, self._units)

    def faults(
        self, runtime: OpenRuntime, model: ExportedModel, int8: Int8Maker
    ) -> tuple[Drift, list[str]]:
        """How far a runtime's model is from the checkpoint, and what is wrong with that."""
        found = runtime.log_probs(self._samples, self._units)
        context = model.chunk_size, model.left_chunks
        drift = Drift.between(self._expected(*context), found)
        if (other := self._better_context(found, model, drift)) is not None:
            return drift, [f"behaves as in {context_name(*other)}"]
        what, wrong = "the checkpoint", drift
        if model.precision == "int8":
            made = int8.open(model, model.int8_skip).log_probs(self._samples, self._units)
            what, wrong = "int8 made anew", Drift.between(made, found)
        if wrong.largest <= TOLERANCE:
            return drift, []
        amount = f"{wrong.largest:.2g}, rounding explains {TOLERANCE:g}"
        return drift, [f"gives other log-probabilities than {what} (by {amount})"]

    def _better_context(
        self, found: Sequence[Tensor], model: ExportedModel, drift: Drift
    ) -> tuple[int, int] | None:
        """The context that explains CTC's log-probabilities clearly better than the stated one."""
        stated = drift.means[0]
        if stated <= TOLERANCE / 100 or not math.isfinite(stated):
            return None
        means = {
            context: Drift.between(self._expected(*context), found).means[0]
            for context in _alternatives(model.chunk_size, model.left_chunks)
        }
        best = min(means, key=means.__getitem__, default=None)
        return best if best is not None and means[best] < NEARER * stated else None

    def _expected(self, chunk_size: int, left_chunks: int) -> list[Tensor]:
        """`log_probs` of float32, computed once."""
        if (chunk_size, left_chunks) not in self._known:
            self._known[chunk_size, left_chunks] = self.log_probs(chunk_size, left_chunks)
        return self._known[chunk_size, left_chunks]


def _alternatives(chunk_size: int, left_chunks: int) -> Iterator[tuple[int, int]]:
    """Contexts that a model may have by mistake."""
    if chunk_size <= 0:
        yield from ((16, -1), (16, 4))
        return
    yield -1, -1
    yield 2 * chunk_size, left_chunks
    if chunk_size > 1:
        yield chunk_size // 2, left_chunks
    if left_chunks < 0:
        yield from ((chunk_size, left) for left in (0, 1, 2, 4))
        return
    others = {0, 1, left_chunks - 1, left_chunks + 1, 2 * left_chunks, -1} - {left_chunks}
    yield from ((chunk_size, left) for left in sorted(others) if left >= -1)
