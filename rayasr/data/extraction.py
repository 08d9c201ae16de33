"""What one Ray Data task of `rayasr data prepare` does: the recordings of a shard to its file."""

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rayasr import storage
from rayasr.config import Recipe
from rayasr.data.audio import (
    AudioError,
    mix_down,
    perturb_speed,
    perturbed_length,
    read_audio,
    resample,
)
from rayasr.data.cmvn import CmvnStats
from rayasr.data.fbank import Fbank, num_frames
from rayasr.data.manifest import Reject, Utterance, is_test, reject
from rayasr.data.shard import Row, ShardSpec, ShardWriter, damaged_rows, read_summary
from rayasr.errors import DataError


@dataclass(frozen=True)
class ExtractionSettings:
    """What all shards of a store have in common; sent once to every Ray worker."""

    recipe: Recipe
    roots: tuple[str, ...]
    """Absolute folders, one per corpus."""
    folder: str
    """STORE/shards."""
    verify: bool = False
    """Look at what is there, and make anew what is damaged or made of other audio."""


class ShardReport(NamedTuple):
    """What a task says back."""

    name: str
    num_utterances: int
    num_rejects: int
    seconds: float
    rebuilt: str
    """Why a shard that was there has been made anew, else ''."""


def make_shard(spec: ShardSpec, settings: ExtractionSettings) -> ShardReport:
    """Extract all utterances of a shard and write it; the same bytes however often it runs.

    Recordings that cannot be used become rejects; raises DataError where the output fails.
    """
    torch.set_num_threads(1)  # Ray counts one CPU per task, and results depend on the threads
    path = storage.join(settings.folder, spec.name)
    rebuilt = ""
    if settings.verify and storage.exists(path):
        rebuilt = _find_damage(spec, settings, path)
        if not rebuilt:
            return _report(path, "")
    extractor = Extractor(settings.recipe, spec.split)
    rejects: list[Reject] = []
    metadata = {"split": spec.split, "payload": settings.recipe.store.payload}
    with ShardWriter(path, extractor.num_payloads, metadata) as writer:
        for utterance, min_frames in zip(spec.utterances, spec.min_frames, strict=True):
            try:
                row = extractor(utterance, settings.roots[utterance.corpus], min_frames)
            except AudioError as error:
                rejects.append(reject(utterance, error.reason, str(error)))
                continue
            writer.add(row)
        writer.finish(rejects, extractor.cmvn)
    return _report(path, rebuilt)


class Extractor:
    """Turns recordings into rows, summing CMVN over those of the training split."""

    def __init__(self, recipe: Recipe, split: str) -> None:
        self._recipe = recipe
        self._any_length = is_test(split)
        self._speeds = recipe.speeds(split)
        self._plain_speed = min(self._speeds, key=lambda speed: abs(speed - 1.0))
        self._dither = recipe.features.dither if split == "train" else 0.0
        self._fbank = Fbank(recipe.features)
        self._keeps_samples = recipe.store.payload == "pcm"
        self.num_payloads = 1 if self._keeps_samples else len(self._speeds)
        self.cmvn = CmvnStats.zeros(recipe.features.num_mel_bins) if split == "train" else None

    def __call__(self, utterance: Utterance, root: str, min_frames: int) -> Row:
        """Row of one utterance; raises AudioError with the reason for which it is rejected."""
        rate = self._recipe.features.sample_rate
        samples, native_rate, channels = self.load(utterance, root)
        frames = self._frames(len(samples))
        self._check(len(samples), min(frames), min_frames)
        if self._keeps_samples:
            payloads = [self._pcm(samples)]
        else:
            payloads = [self._fbank_payload(samples, s, utterance.key) for s in self._speeds]
        return Row(
            utterance,
            num_samples=len(samples),
            seconds=len(samples) / rate,
            rate=native_rate,
            channels=channels,
            source_crc32=zlib.crc32(samples.numpy().data),
            frames=frames,
            payloads=payloads,
        )

    def load(self, utterance: Utterance, root: str) -> tuple[Tensor, int, int]:
        """Samples float32 (N,) at the recipe's rate; the recording's own rate and channels."""
        path = str(Path(root, utterance.audio))
        recorded, rate = read_audio(path, utterance.start_s, utterance.end_s)
        mono = mix_down(recorded, path)
        return resample(mono, rate, self._recipe.features.sample_rate), rate, len(recorded)

    def _pcm(self, samples: Tensor) -> bytes:
        """Samples as int16; their features at speed 1 are counted for CMVN, without dither."""
        pcm = (samples * 32768.0).round().clamp(-32768, 32767).to(torch.int16)
        if self.cmvn is not None:
            self.cmvn = self.cmvn.add(self._fbank(pcm.float() / 32768.0).numpy())
        return pcm.numpy().astype("<i2").tobytes()

    def _fbank_payload(self, samples: Tensor, speed: float, key: str) -> bytes:
        """Float16 fbank (frames, F) at one speed; dither's noise depends on key and speed alone."""
        rate = self._recipe.features.sample_rate
        varied = samples if speed == 1.0 else perturb_speed(samples, rate, speed)
        generator = None
        if self._dither:
            digest = hashlib.sha256(f"{key} {speed}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        features = self._fbank(varied, dither=self._dither, generator=generator).numpy()
        if self.cmvn is not None and speed == self._plain_speed:
            self.cmvn = self.cmvn.add(features)
        return features.astype("<f2").tobytes()

    def _frames(self, num_samples: int) -> list[int]:
        """Frames at each speed factor."""
        features = self._recipe.features
        lengths = (perturbed_length(num_samples, features.sample_rate, s) for s in self._speeds)
        return [int(num_frames(length, features)) for length in lengths]

    def _check(self, num_samples: int, fewest_frames: int, min_frames: int) -> None:
        """Raise AudioError where a recording is too short, too long, or too short for its text.

        A test recording may have any length: it is a reject only where it has no frame at all.
        """
        store = self._recipe.store
        seconds = num_samples / self._recipe.features.sample_rate
        if self._any_length and fewest_frames >= 1:
            return
        if seconds > store.max_seconds:
            limit = f"store.max_seconds is {store.max_seconds:g}"
            raise AudioError(f"{seconds:.2f} s long; {limit}", "too_long")
        if seconds < store.min_seconds or fewest_frames < 1:
            limit = f"store.min_seconds is {store.min_seconds:g}"
            raise AudioError(f"{seconds:.3f} s long; {limit}", "too_short")
        if fewest_frames < min_frames:
            needs = f"its units need {min_frames} for CTC"
            raise AudioError(
                f"{fewest_frames} frames at the fastest speed; {needs}", "too_few_frames"
            )


def _find_damage(spec: ShardSpec, settings: ExtractionSettings, path: str) -> str:
    """Why a shard that is there has to be made again; '' where it is good."""
    summary = read_summary(path)
    if summary is None:
        return "its file was damaged"
    if not storage.is_remote(path) and (keys := list(damaged_rows(path, summary.table))):
        return f"{len(keys)} rows were damaged, {keys[0]} first"
    extractor = Extractor(settings.recipe, spec.split)
    columns = (summary.table[name].to_pylist() for name in ("key", "source_crc32"))
    known = dict(zip(*columns, strict=True))
    rejected = {item.key: item.reason for item in summary.rejects}
    for utterance in spec.utterances:
        try:
            samples, _, _ = extractor.load(utterance, settings.roots[utterance.corpus])
            found: int | str = zlib.crc32(samples.numpy().data)
        except AudioError as error:
            found = error.reason
        expected = known.get(utterance.key, rejected.get(utterance.key))
        too_long_or_short = isinstance(expected, str) and expected.startswith("too_")
        if found != expected and not too_long_or_short:
            return f"the audio of {utterance.key} has changed"
    return ""


def _report(path: str, rebuilt: str) -> ShardReport:
    """Report of a shard as it is on disk."""
    summary = read_summary(path)
    if summary is None:
        raise DataError(f"{path} could not be read back after it was written; check the disk")
    seconds = float(np.sum(summary.table["seconds"].to_numpy()))
    return ShardReport(
        Path(path).name, summary.table.num_rows, len(summary.rejects), seconds, rebuilt
    )
