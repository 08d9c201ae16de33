"""Which modules to leave out of int8 where it costs too much: the `--int8-skip` to export with.

One module after the other is made int8 alone, on the recordings that the export got wrong; then as
few of the worst as bring the errors back are left out.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rayasr.certify.int8_runtime import Int8Maker
from rayasr.certify.probe import Probe, divergence
from rayasr.config import Mode
from rayasr.export.info import ExportedModel
from rayasr.export.torchscript import int8_layers
from rayasr.logs import progress
from rayasr.score import score_texts

MAX_AUDIO_S = 20.0
"""Of the recordings that are decoded again and again: bounds the time."""
USEFUL_SHARE = 0.7
"""An int8 model that keeps more of its weights in float32 is not worth having."""


@dataclass(frozen=True)
class Lost:
    """An utterance in which an int8 model makes more errors than the checkpoint."""

    key: str
    samples: Tensor
    reference: str
    checkpoint_errors: int
    more_errors: int


def advise(
    int8: Int8Maker,
    model: ExportedModel,
    mode: Mode,
    lost: Sequence[Lost],
    allowed_errors: float,
) -> str:
    """What to export an int8 model with that makes too many errors, as a sentence.

    `allowed_errors` are those that the whole split may have more than the checkpoint.
    """
    trial = _Trial(int8, model, mode, lost, allowed_errors)
    if trial.is_enough(()):
        return (
            f"{model.name}: int8 made anew of the checkpoint does not lose this, so the file is "
            "not what the checkpoint gives; export again"
        )
    harmful = trial.harmful()
    skip = (*model.int8_skip, *harmful)
    share = trial.float_share(skip)
    if not harmful or share > USEFUL_SHARE:
        return f"{model.name}: int8 is not for this model; use the float32 one"
    return (
        f"{model.name}: int8 harms some modules most; leave them out by --int8-skip "
        f"{','.join(skip)} ({share:.0%} of the linear layers' weights stay float32)"
    )


def modules_of(layers: Sequence[str]) -> list[str]:
    """The modules whose layers are all their own (an attention, a feed-forward), or the layer."""
    groups: dict[str, bool] = {}
    for layer in layers:
        parent = layer.rpartition(".")[0]
        inside = [name for name in layers if name.startswith(f"{parent}.")]
        whole = all("." not in name.removeprefix(f"{parent}.") for name in inside)
        groups[parent if whole else layer] = True
    return list(groups)


class _Trial:
    """The worst recordings, decoded by int8 with this or that left out."""

    def __init__(
        self,
        int8: Int8Maker,
        model: ExportedModel,
        mode: Mode,
        lost: Sequence[Lost],
        allowed_errors: float,
    ) -> None:
        self._int8, self._model, self._mode = int8, model, mode
        self._loaded = int8.loaded
        self._lost = _worst(lost, round(MAX_AUDIO_S * self._loaded.recipe.features.sample_rate))
        share = sum(item.more_errors for item in self._lost) / sum(i.more_errors for i in lost)
        self._allowed = allowed_errors * share

    def is_enough(self, skip: Sequence[str]) -> bool:
        """Whether int8 without the modules of `skip` too makes no more errors than are allowed."""
        runtime = self._int8.open(self._model, (*self._model.int8_skip, *skip))
        texts = {item.key: runtime.transcribe(item.samples) for item in self._lost}
        references = {item.key: item.reference for item in self._lost}
        counts = score_texts(references, texts, self._loaded.recipe.decode.unit).counts
        before = sum(item.checkpoint_errors for item in self._lost)
        return counts.errors - before <= self._allowed

    def harmful(self) -> list[str]:
        """Modules that have to stay float32, none of them for nothing; [] where all have to."""
        ranked = self.ranked()
        # as many of the worst as are enough, taking it that more is never worse ...
        counts = range(1, len(ranked))
        found = bisect_left(counts, True, key=lambda count: self.is_enough(ranked[:count]))
        if found == len(counts):
            return []
        chosen = ranked[: counts[found]]
        with progress("int8 without", len(chosen)) as bar:
            for done, name in enumerate(reversed(chosen), 1):  # ... and of those the needed ones
                fewer = [other for other in chosen if other != name]
                chosen = fewer if fewer and self.is_enough(fewer) else chosen
                bar.update(done, name)
        return chosen

    def ranked(self) -> list[str]:
        """Modules whose int8 alone changes the checkpoint's probabilities most, worst first."""
        network = self._loaded.model
        layers = int8_layers(network, self._model.int8_skip)
        groups = modules_of(layers)
        if self._mode not in ("attention", "attention_rescoring"):
            groups = [name for name in groups if not name.startswith("decoder.")]
        probe = Probe(self._loaded, torch.cat([item.samples for item in self._lost]))
        context = self._model.chunk_size, self._model.left_chunks
        expected = probe.log_probs(*context)
        damage = {}
        with progress("int8 by module", len(groups)) as bar:
            for done, name in enumerate(groups, 1):
                others = tuple(layer for layer in layers if not f"{layer}.".startswith(f"{name}."))
                found = probe.log_probs(*context, (*self._model.int8_skip, *others))
                damage[name] = divergence(expected, found)
                bar.update(done, name)
        return sorted(damage, key=damage.__getitem__, reverse=True)

    def float_share(self, skip: Sequence[str]) -> float:
        """Share of the linear layers' weights that int8 without `skip` leaves in float32."""
        network = self._loaded.model
        weights = network.state_dict()
        sizes = {name: weights[f"{name}.weight"].numel() for name in int8_layers(network)}
        left_out = sizes.keys() - set(int8_layers(network, skip))
        return float(sum(sizes[name] for name in left_out) / sum(sizes.values()))


def _worst(lost: Sequence[Lost], max_samples: int) -> list[Lost]:
    """Those with the most additional errors, as many as have so many samples, at least one."""
    chosen: list[Lost] = []
    for item in sorted(lost, key=lambda item: -item.more_errors):
        total = sum(len(other.samples) for other in chosen) + len(item.samples)
        if chosen and total > max_samples:
            break
        chosen.append(item)
    return chosen
