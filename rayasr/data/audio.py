"""Recordings to mono float32 samples at the recipe's rate: reading, resampling, speed."""

import functools
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import soundfile
import torch
from torch import Tensor

from rayasr import storage
from rayasr.data.archive import MissingMemberError, read_member
from rayasr.data.audio_headers import HEAD_BYTES, WavLayout, missing_bytes, wav_layout
from rayasr.data.manifest import ARCHIVE_SEPARATOR
from rayasr.errors import DataError

FORMATS = "wav, flac, ogg, opus, mp3, aiff, au, sph and whatever else libsndfile opens"
MAX_OVERSHOOT_S = 0.5
"""A segment may end this much after its recording, as Kaldi's extract-segments allows."""

_File = BinaryIO | io.FileIO
_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_MATRIX_COLUMNS = 64
_MAX_MATRIX = 1 << 22


class AudioError(DataError):
    """A recording that cannot be used; `reason` is one of `REJECT_REASONS`."""

    def __init__(self, message: str, reason: str = "unreadable") -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return AudioError, (str(self), self.reason)


def load_audio(
    path: str | Path, sample_rate: int, start_s: float = 0.0, end_s: float | None = None
) -> Tensor:
    """Mono samples at `sample_rate`: float32 (N,) in [-1, 1], channels averaged.

    Raises AudioError with its reason for a recording, or a segment of one, that is unreadable,
    truncated, empty, not finite or silent (all samples alike).
    """
    samples, rate = read_audio(path, start_s, end_s)
    return resample(mix_down(samples, path), rate, sample_rate)


def mix_down(samples: Tensor, path: str | Path) -> Tensor:
    """Mean over channels of (channels, N), which are looked at first; raises as `load_audio`."""
    if samples.shape[-1] == 0:
        raise AudioError(f"{path} holds no samples; leave it out", "empty_audio")
    lowest, highest = torch.aminmax(samples)  # NaN is passed on by both
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise AudioError(f"{path} holds NaN or infinite samples; convert it again", "not_finite")
    if lowest == highest:
        raise AudioError(f"{path} is silent: every sample is {lowest:g}; leave it out", "silent")
    return samples[0] if samples.shape[0] == 1 else samples.mean(0)


def read_audio(
    path: str | Path, start_s: float = 0.0, end_s: float | None = None
) -> tuple[Tensor, int]:
    """Samples as they are recorded: float32 (channels, N) in [-1, 1], and the rate in Hz.

    `ARCHIVE::MEMBER` reads from inside a tar archive. Raises AudioError.
    """
    with _opened(path) as (file, name):
        layout = _layout(file, name)
        if layout is not None:
            segment = _segment(layout.num_samples, layout.rate, start_s, end_s, name)
            return _read_pcm16(file, layout, *segment), layout.rate
        return _read_soundfile(file, name, start_s, end_s)


def read_blocks(path: str | Path, block_s: float) -> Iterator[tuple[Tensor, int]]:
    """`read_audio` of the whole in blocks of `block_s` seconds, whose samples are never all there.

    Raises AudioError: at once where the header shows that the end is missing, after what is before
    it where a file is found damaged further on (flac, mp3).
    """
    with _opened(path) as (file, name):
        layout = _layout(file, name)
        if layout is None:
            yield from _blocks_soundfile(file, name, block_s)
            return
        size = max(1, round(block_s * layout.rate))
        for first in range(0, layout.num_samples, size):
            last = min(first + size, layout.num_samples)
            yield _read_pcm16(file, layout, first, last), layout.rate


def resample(samples: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the rate of float32 (..., N) by windowed sinc interpolation, torchaudio's parameters.

    Result (..., ceil(N * to_rate / from_rate)). Six zero crossings, Hann window, cut-off at 0.99
    of the lower Nyquist frequency (https://ccrma.stanford.edu/~jos/resample/).
    """
    if from_rate == to_rate:
        return samples
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    num_out = -(-samples.shape[-1] * new // old)
    if num_out == 0:
        return samples[..., :0]
    if (old + 64) * new > _MAX_MATRIX:
        return _resample_by_gathering(samples, old, new, num_out)
    # several blocks of `new` outputs at once: one wide matrix product instead of a narrow one
    blocks = max(1, _MATRIX_COLUMNS // new)
    matrix, left = _sinc_matrix(old, new, blocks)
    matrix = matrix.to(samples.device)  # (inputs, blocks * new)
    num_rows = -(-num_out // (blocks * new))
    num_inputs = len(matrix)
    right = (num_rows - 1) * blocks * old + num_inputs - left - samples.shape[-1]
    padded = torch.nn.functional.pad(samples, (left, max(0, right)))
    windows = padded.unfold(-1, num_inputs, blocks * old)[..., :num_rows, :]
    return (windows @ matrix).flatten(-2)[..., :num_out]


def perturb_speed(samples: Tensor, sample_rate: int, speed: float) -> Tensor:
    """Play float32 (..., N) `speed` times as fast, pitch included, as sox's speed effect does."""
    return resample(samples, round(sample_rate * speed), sample_rate)


@overload
def perturbed_length(num_samples: int, sample_rate: int, speed: float) -> int: ...
@overload
def perturbed_length(
    num_samples: np.ndarray[Any, Any], sample_rate: int, speed: float
) -> np.ndarray[Any, Any]: ...
def perturbed_length(
    num_samples: int | np.ndarray[Any, Any], sample_rate: int, speed: float
) -> int | np.ndarray[Any, Any]:
    """Exactly how many samples `perturb_speed` makes of `num_samples` (an int or int64 array)."""
    from_rate = round(sample_rate * speed)
    divisor = math.gcd(from_rate, sample_rate)
    return -(-num_samples * (sample_rate // divisor) // (from_rate // divisor))


def _resample_by_gathering(samples: Tensor, old: int, new: int, num_out: int) -> Tensor:
    """`resample` for rates with a tiny common divisor, whose matrix would be huge."""
    taps, starts = _sinc_taps(old, new, new)
    num_taps = taps.shape[1]
    out_index = torch.arange(num_out)
    phase = out_index % new
    first = starts[phase] + out_index // new * old
    left = -int(starts[0])
    right = max(0, int(first[-1]) + num_taps - samples.shape[-1])
    windows = torch.nn.functional.pad(samples, (left, right)).unfold(-1, num_taps, 1)
    picked = windows[..., (first + left).to(samples.device), :]  # (..., num_out, taps)
    return (picked * taps.to(samples.device)[phase.to(samples.device)]).sum(-1)


@functools.lru_cache(maxsize=32)
def _sinc_matrix(old: int, new: int, blocks: int) -> tuple[Tensor, int]:
    """Filters as one matrix, float32 (inputs, blocks * new), and how far it looks back."""
    taps, starts = _sinc_taps(old, new, blocks * new)
    first = starts - starts[0]
    matrix = torch.zeros(int(first[-1]) + taps.shape[1], blocks * new)
    rows = first[:, None] + torch.arange(taps.shape[1])  # (blocks * new, taps)
    matrix.scatter_(0, rows.T, taps.T)
    return matrix, -int(starts[0])


@functools.lru_cache(maxsize=32)
def _sinc_taps(old: int, new: int, num_phases: int) -> tuple[Tensor, Tensor]:
    """Filters of the first outputs: float32 (num_phases, taps), and the input each begins at.

    Output p is the sum over k of taps[p, k] * input[starts[p] + k].
    """
    cutoff = min(old, new) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * old / cutoff)
    phase = torch.arange(num_phases)
    starts = phase * old // new - width
    index = starts[:, None] + torch.arange(2 * width + 2)  # (num_phases, taps)
    t = (index.double() / old - phase[:, None].double() / new) * cutoff
    t = t.clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(t * math.pi / _ZERO_CROSSINGS / 2) ** 2
    return (torch.sinc(t) * window * (cutoff / old)).float(), starts


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[_File, str]]:
    """A recording's bytes and its name; what goes wrong while it is open becomes an AudioError."""
    name = str(path)
    try:
        if ARCHIVE_SEPARATOR in name:
            archive, _, member = name.partition(ARCHIVE_SEPARATOR)
            yield io.BytesIO(read_member(archive, member)), name
        elif storage.is_remote(name):
            yield io.BytesIO(storage.read_bytes(name)), name
        else:
            with Path(name).open("rb", buffering=0) as file:
                yield file, name
    except AudioError:
        raise
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check the corpus", "missing_audio") from error
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror or error}") from error
    except DataError as error:
        is_missing = isinstance(error, MissingMemberError)
        raise AudioError(str(error), "missing_audio" if is_missing else "unreadable") from error


def _layout(file: _File, name: str) -> WavLayout | None:
    """Where a plain 16-bit wav file has its samples; None for the others, which libsndfile reads.

    Raises AudioError for a file that is empty or lacks its end.
    """
    head = file.read(HEAD_BYTES) or b""
    if not head:
        raise AudioError(f"{name} is an empty file (0 bytes); leave it out", "empty_audio")
    layout = wav_layout(file, head)
    missing = missing_bytes(file, head) if layout is None else layout.missing_bytes
    if missing > 0:
        raise AudioError(
            f"{name} is truncated: its end is missing (bytes: {missing} or more); copy it again",
            "truncated",
        )
    return layout if layout is not None and layout.is_pcm16 else None


def _read_pcm16(file: _File, layout: WavLayout, first: int, last: int) -> Tensor:
    """Samples [first, last) of each channel."""
    block = 2 * layout.channels
    file.seek(layout.data_start + first * block)
    wanted = (last - first) * block
    data = file.read(wanted) or b""
    while len(data) < wanted and (more := file.read(wanted - len(data))):
        data += more
    return pcm16_samples(data, layout.channels)


def pcm16_samples(data: bytes, channels: int = 1) -> Tensor:
    """16-bit little-endian samples as float32 (channels, N) in [-1, 1]."""
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32)
    samples *= 1.0 / 32768.0
    if channels > 1:
        return torch.from_numpy(np.ascontiguousarray(samples.reshape(-1, channels).T))
    return torch.from_numpy(samples).unsqueeze(0)


def _read_soundfile(
    file: _File, name: str, start_s: float, end_s: float | None
) -> tuple[Tensor, int]:
    """Everything but plain wav, through libsndfile."""
    with _open_soundfile(file, name) as sound:
        first, last = _segment(sound.frames, sound.samplerate, start_s, end_s, name)
        samples = _read_frames(sound, last - first, first)
        _check_length(sound, name, last - first, samples.shape[1])
    return samples, sound.samplerate


def _blocks_soundfile(file: _File, name: str, block_s: float) -> Iterator[tuple[Tensor, int]]:
    with _open_soundfile(file, name) as sound:
        size, done = max(1, round(block_s * sound.samplerate)), 0
        while (samples := _read_frames(sound, size)).shape[1]:
            done += samples.shape[1]
            yield samples, sound.samplerate
        _check_length(sound, name, sound.frames, done)


def _open_soundfile(file: _File, name: str) -> soundfile.SoundFile:
    file.seek(0)
    try:
        return soundfile.SoundFile(file if isinstance(file, io.BytesIO) else name)
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(_not_audio(name, error)) from error


def _read_frames(sound: soundfile.SoundFile, count: int, first: int = 0) -> Tensor:
    """The next `count` samples (channels, N), from `first` on if it is given; none if damaged."""
    try:
        if first:
            sound.seek(first)
        samples = sound.read(count, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, RuntimeError):
        samples = np.empty((0, sound.channels), np.float32)
    return torch.from_numpy(np.ascontiguousarray(samples.T))


def _check_length(sound: soundfile.SoundFile, name: str, promised: int, found: int) -> None:
    # mp3 counts its encoder's delay, which decoders drop
    slack = round(0.1 * sound.samplerate) if sound.format == "MP3" else 0
    if found < promised - slack:
        raise AudioError(
            f"{name} is truncated or damaged: its header promises "
            f"{promised / sound.samplerate:.2f} s which cannot all be read; copy it again",
            "truncated",
        )


def _not_audio(name: str, error: Exception) -> str:
    cause = str(getattr(error, "error_string", "") or "damaged").rstrip(". ")
    file = Path(name.rpartition(ARCHIVE_SEPARATOR)[2])
    return (
        f"{name} cannot be read as audio ({cause}); {FORMATS} can: "
        f"convert it, for instance with ffmpeg -i {file.name} {file.stem}.wav"
    )


def _segment(
    num_samples: int, rate: int, start_s: float, end_s: float | None, name: str
) -> tuple[int, int]:
    """First sample of a segment and the one after its last; raises AudioError."""
    if start_s == 0.0 and end_s is None:
        return 0, num_samples
    first = round(start_s * rate)
    last = num_samples if end_s is None else round(end_s * rate)
    overshoot = last - num_samples
    if first < 0 or first >= min(last, num_samples) or overshoot > MAX_OVERSHOOT_S * rate:
        until = "its end" if end_s is None else f"{end_s:g} s"
        raise AudioError(
            f"segment {start_s:g} s to {until} is not inside {name}, which is "
            f"{num_samples / rate:.2f} s long; correct the segment",
            "bad_segment",
        )
    return first, min(last, num_samples)
