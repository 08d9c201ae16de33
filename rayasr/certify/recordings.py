"""A split of a corpus as samples, as often as wanted: every runtime hears the same."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from rayasr.config import Recipe
from rayasr.data.audio import AudioError, load_audio
from rayasr.decode.split import corpus_material, list_split
from rayasr.errors import DataError
from rayasr.logs import note


class Recordings:
    """The recordings of a split of the recipe's corpora; raises DataError for one without any.

    What cannot be read is said once and left out: as its reference stays, its units are deletions.
    """

    def __init__(self, recipe: Recipe, split: str) -> None:
        self._manifest, self._utterances = list_split(recipe, split)
        material = corpus_material(recipe, split, self._manifest, self._utterances, iter(()))
        self.split = split
        self.corpus = self._manifest.roots[0]
        self.references: Mapping[str, str] = material.references
        self.speakers: Mapping[str, str] = material.speakers
        self.sample_rate = recipe.features.sample_rate
        self._unusable: set[str] = set()

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Key and float32 samples (N,) of each utterance that has any, in the corpus's order."""
        return self.of({item.key for item in self._utterances})

    def of(self, keys: Collection[str]) -> Iterator[tuple[str, Tensor]]:
        """The same for some utterances."""
        for item in self._utterances:
            if item.key not in keys or item.key in self._unusable:
                continue
            path = self._manifest.audio_path(item)
            try:
                yield item.key, load_audio(path, self.sample_rate, item.start_s, item.end_s)
            except AudioError as error:
                self._unusable.add(item.key)
                note(f"{item.key}: {error}; all of its text counts as deletions")

    def __len__(self) -> int:
        return len(self._utterances)

    def strung(self, seconds: float) -> Tensor:
        """The first recordings one behind the other until so long, again from the start if short.

        Raises DataError where none can be used.
        """
        parts: list[Tensor] = []
        wanted, found = round(seconds * self.sample_rate), 0
        while found < wanted:
            for _, samples in self:
                parts.append(samples)
                found += len(samples)
                if found >= wanted:
                    break
            if not found:
                raise DataError(
                    f"{self.corpus}: no recording of the split '{self.split}' is usable"
                )
        return torch.cat(parts)[:wanted]
