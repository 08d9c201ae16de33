"""Recordings to text: any length, in the order given, one bad file never stops the rest."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rayasr.config import Mode, Recipe
from rayasr.data.audio import AudioError, mix_down, read_audio, resample
from rayasr.data.fbank import Fbank
from rayasr.decode.hypothesis import Hypothesis, joined
from rayasr.decode.recognizer import Reading, Recognizer
from rayasr.logs import PLAIN_INTERVAL_S, note
from rayasr.text import is_cjk

MAX_BATCH_FRAMES = 8000
QUIET_WINDOW_S = 0.2
"""A long recording is cut in the middle of its quietest stretch of this length."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was recognised in one file, or why nothing could be."""

    file: str
    nbest: tuple[Reading, ...]
    """Best first, as many as the recognizer's `decoding.nbest`; times from the file's start."""
    error: str | None = None

    @property
    def text(self) -> str:
        """What the best hypothesis says."""
        return self.nbest[0].text


@dataclass(frozen=True, slots=True)
class _Piece:
    """Fbank (frames, F) of a stretch of a recording that starts at `start_s`."""

    file: str
    start_s: float
    features: Tensor
    is_last: bool
    error: str | None = None


def transcribe(
    recognizer: Recognizer, files: Sequence[str | Path], mode: Mode, recipe: Recipe
) -> Iterator[Transcript]:
    """Transcripts of audio files, in order, each as soon as it is there.

    Full context needs memory with the square of the length, so recordings longer than the recipe's
    longest utterance (`store.max_seconds`) are read and decoded in pieces cut at quiet places. What
    is silent or too short for one encoder frame has an empty text.
    """
    fbank = Fbank(recipe.features)
    waiting: list[_Piece] = []
    parts: list[list[Hypothesis]] = []  # n-bests of a recording that goes on
    frames = 0
    said = time.monotonic()
    for piece in (piece for file in files for piece in _pieces(file, recipe, fbank)):
        if waiting and max(frames, len(piece.features)) * (len(waiting) + 1) > _max_frames(recipe):
            yield from _flush(recognizer, waiting, parts, mode)
            frames = 0
        waiting.append(piece)
        frames = max(frames, len(piece.features))
        if piece.start_s and time.monotonic() - said > PLAIN_INTERVAL_S:
            said = time.monotonic()
            note(f"{piece.file}: {piece.start_s:.0f} s so far")
    yield from _flush(recognizer, waiting, parts, mode)


def quiet_cut(samples: Tensor, sample_rate: int) -> int:
    """Where to cut samples (N,): in the middle of the quietest stretch of the second half."""
    width = max(1, round(QUIET_WINDOW_S * sample_rate))
    start = len(samples) // 2
    tail = samples[start:].double().square()
    if len(tail) < width:
        return len(samples)
    sums = torch.nn.functional.pad(tail.cumsum(0), (1, 0))
    energy = sums[width:] - sums[:-width]
    return start + int(energy.argmin()) + width // 2


def _max_frames(recipe: Recipe) -> int:
    """Frames decoded together: few, so that the first transcripts come soon."""
    return min(recipe.decode.max_padded_frames, MAX_BATCH_FRAMES)


def _flush(
    recognizer: Recognizer, waiting: list[_Piece], parts: list[list[Hypothesis]], mode: Mode
) -> Iterator[Transcript]:
    """Decode the waiting pieces together; transcripts of the recordings that end with them."""
    found = recognizer.decode_batch([piece.features for piece in waiting], [mode])
    for piece, nbest in zip(waiting, found.nbests[mode], strict=True):
        parts.append([item.placed(piece.start_s) for item in nbest])
        if piece.is_last:
            yield Transcript(piece.file, _readings(recognizer, parts), piece.error)
            parts.clear()
    waiting.clear()


def _readings(
    recognizer: Recognizer, nbests: Sequence[Sequence[Hypothesis]]
) -> tuple[Reading, ...]:
    """The best ways to read a recording whose pieces were decoded apart."""
    rows: list[list[Hypothesis]] = [[]]
    for nbest in nbests:
        longer = [[*row, item] for row in rows for item in nbest]
        longer.sort(key=lambda row: sum(item.score for item in row), reverse=True)
        rows = longer[: recognizer.decoding.nbest]
    return tuple(Reading(_text(recognizer, row), joined(row)) for row in rows)


def _text(recognizer: Recognizer, parts: Sequence[Hypothesis]) -> str:
    text = ""
    for hypothesis in parts:
        more = recognizer.text(hypothesis)
        apart = text and more and not (is_cjk(text[-1]) or is_cjk(more[0]))
        text += f" {more}" if apart else more
    return text


def _pieces(file: str | Path, recipe: Recipe, fbank: Fbank) -> Iterator[_Piece]:
    """A recording's pieces; an unreadable one is a single piece without frames, with its error."""
    rate, longest_s = recipe.features.sample_rate, recipe.store.max_seconds
    name, start_s = str(file), 0.0
    nothing = torch.zeros(0, recipe.features.num_mel_bins)
    while True:
        try:
            stretch = _read_stretch(file, start_s, longest_s)
        except AudioError as error:
            yield _Piece(name, start_s, nothing, True, str(error))
            return
        if stretch is None:
            yield _Piece(name, start_s, nothing, True)
            return
        recorded, recorded_rate = stretch
        is_last = recorded.shape[1] < longest_s * recorded_rate - 2  # for rounding
        try:
            samples = resample(mix_down(recorded, file), recorded_rate, rate)
        except AudioError as error:
            silent = error.reason == "silent"
            if is_last or not silent:
                yield _Piece(name, start_s, nothing, True, None if silent else str(error))
                return
            start_s += longest_s
            continue
        if is_last:
            yield _Piece(name, start_s, fbank(samples), True)
            return
        cut = quiet_cut(samples, rate)
        yield _Piece(name, start_s, fbank(samples[:cut]), False)
        start_s += cut / rate


def _read_stretch(file: str | Path, start_s: float, longest_s: float) -> tuple[Tensor, int] | None:
    """Samples (channels, N) of at most `longest_s` seconds, fewer only at the recording's end.

    None where it ended before: the stretch before this one was silent to the end.
    """
    try:
        return read_audio(file, start_s, start_s + longest_s)
    except AudioError as error:
        if error.reason != "bad_segment":
            raise
    try:
        return read_audio(file, start_s)
    except AudioError as error:
        if error.reason != "bad_segment" or start_s == 0:
            raise
        return None
