"""Recordings to mono float32 samples at the recipe's rate: reading, resampling, speed."""

import functools
import io
import math
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np
import soundfile
import torch
from torch import Tensor

from rayasr import storage
from rayasr.data.archive import read_member
from rayasr.data.manifest import ARCHIVE_SEPARATOR
from rayasr.errors import DataError

FORMATS = "wav, flac, ogg, opus, mp3, aiff, au, sph and whatever else libsndfile opens"
MAX_OVERSHOOT_S = 0.5
"""A segment may end this much after its recording, as Kaldi's extract-segments allows."""

_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
_STREAM_SIZES = (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFFFFF - 36, 0x7FFFF000, 0xFFFFFFFF - 36)
"""Data sizes of wav files whose writer could not know the length (a pipe)."""


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
    name = str(path)
    try:
        if ARCHIVE_SEPARATOR in name:
            archive, _, member = name.partition(ARCHIVE_SEPARATOR)
            return _read(io.BytesIO(read_member(archive, member)), name, start_s, end_s)
        if storage.is_remote(name):
            return _read(io.BytesIO(storage.read_bytes(name)), name, start_s, end_s)
        with Path(name).open("rb", buffering=0) as file:
            return _read(file, name, start_s, end_s)
    except AudioError:
        raise
    except FileNotFoundError as error:
        raise AudioError(f"{name} does not exist; check the corpus", "missing_audio") from error
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror or error}") from error
    except DataError as error:
        raise AudioError(str(error)) from error


def resample(samples: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the rate of float32 (..., N) by windowed sinc interpolation, torchaudio's parameters.

    Result (..., ceil(N * to_rate / from_rate)). Six zero crossings, Hann window, cut-off at 0.99
    of the lower Nyquist frequency (https://ccrma.stanford.edu/~jos/resample/).
    """
    if from_rate == to_rate:
        return samples
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    taps, starts = _sinc_taps(old, new)
    taps, starts = taps.to(samples.device), starts.to(samples.device)
    num_out = -(-samples.shape[-1] * new // old)
    num_blocks = -(-num_out // new)
    num_taps = taps.shape[1]
    left = -int(starts[0])
    right = max(0, (num_blocks - 1) * old + int(starts[-1]) + num_taps - samples.shape[-1])
    padded = torch.nn.functional.pad(samples, (left, right))
    windows = padded.unfold(-1, num_taps, 1)  # (..., N + left + right - taps + 1, taps)
    index = (torch.arange(num_blocks, device=samples.device)[:, None] * old + starts + left).view(
        -1
    )
    picked = windows[..., index, :]
    picked = picked.view(*picked.shape[:-2], num_blocks, new, num_taps)
    out = torch.einsum("...bnk,nk->...bn", picked, taps)
    return out.flatten(-2)[..., :num_out]


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


@functools.lru_cache(maxsize=32)
def _sinc_taps(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Filters of the `new` output phases: float32 (new, taps), and the input index of each's first.

    Output sample b * new + p is the sum over k of taps[p, k] * input[b * old + starts[p] + k].
    """
    cutoff = min(old, new) * _ROLLOFF
    width = math.ceil(_ZERO_CROSSINGS * old / cutoff)
    phase = torch.arange(new)
    starts = phase * old // new - width
    index = starts[:, None] + torch.arange(2 * width + 2)  # (new, taps)
    t = (index.double() / old - phase[:, None].double() / new) * cutoff
    t = t.clamp(-_ZERO_CROSSINGS, _ZERO_CROSSINGS)
    window = torch.cos(t * math.pi / _ZERO_CROSSINGS / 2) ** 2
    return (torch.sinc(t) * window * (cutoff / old)).float(), starts


class _WavLayout(NamedTuple):
    """Where the samples of a wav file are, and how they are written."""

    is_pcm16: bool
    channels: int
    rate: int
    data_start: int
    data_bytes: int
    missing_bytes: int


def _read(
    file: BinaryIO | io.FileIO, name: str, start_s: float, end_s: float | None
) -> tuple[Tensor, int]:
    head = file.read(4096)
    if not head:
        raise AudioError(f"{name} is an empty file (0 bytes); leave it out", "empty_audio")
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        layout = _wav_layout(file, head)
        if layout is not None:
            if layout.missing_bytes > 0:
                raise AudioError(
                    f"{name} is truncated: {layout.missing_bytes} of "
                    f"{layout.data_bytes + layout.missing_bytes} data bytes are missing; "
                    "copy it again",
                    "truncated",
                )
            if layout.is_pcm16:
                return _read_pcm16(file, layout, name, start_s, end_s), layout.rate
    return _read_soundfile(file, name, start_s, end_s)


def _wav_layout(file: BinaryIO | io.FileIO, head: bytes) -> _WavLayout | None:
    """Layout of a wav file from its chunks; None where they are odd, then libsndfile may try."""
    size = file.seek(0, io.SEEK_END)
    position, fmt = 12, b""
    while position + 8 <= size:
        chunk = _at(file, head, position, 8)
        kind, length = chunk[:4], struct.unpack("<I", chunk[4:])[0]
        if kind == b"fmt ":
            fmt = _at(file, head, position + 8, min(length, 40))
        elif kind == b"data":
            break
        position += 8 + length + (length & 1)
    else:
        return None
    if len(fmt) < 16 or head[:4] == b"RF64":
        return None
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:  # WAVE_FORMAT_EXTENSIBLE: the real tag comes later
        tag = struct.unpack("<H", fmt[24:26])[0]
    if not (channels and rate):
        return None
    start = position + 8
    if length in _STREAM_SIZES:
        length = size - start
    available = max(0, min(length, size - start))
    is_pcm16 = tag == 1 and bits == 16 and block == 2 * channels
    return _WavLayout(is_pcm16, channels, rate, start, available, length - available)


def _at(file: BinaryIO | io.FileIO, head: bytes, position: int, length: int) -> bytes:
    """Bytes of a file at a position, from its first block where they are in it."""
    if position + length <= len(head):
        return head[position : position + length]
    file.seek(position)
    return file.read(length) or b""


def _read_pcm16(
    file: BinaryIO | io.FileIO, layout: _WavLayout, name: str, start_s: float, end_s: float | None
) -> Tensor:
    block = 2 * layout.channels
    first, last = _segment(layout.data_bytes // block, layout.rate, start_s, end_s, name)
    file.seek(layout.data_start + first * block)
    wanted = (last - first) * block
    data = file.read(wanted) or b""
    while len(data) < wanted and (more := file.read(wanted - len(data))):
        data += more
    samples = np.frombuffer(data, dtype="<i2").astype(np.float32)
    samples *= 1.0 / 32768.0
    if layout.channels > 1:
        samples = np.ascontiguousarray(samples.reshape(-1, layout.channels).T)
        return torch.from_numpy(samples)
    return torch.from_numpy(samples).unsqueeze(0)


def _read_soundfile(
    file: BinaryIO | io.FileIO, name: str, start_s: float, end_s: float | None
) -> tuple[Tensor, int]:
    """Everything but plain wav, through libsndfile."""
    file.seek(0)
    source = file if isinstance(file, io.BytesIO) else name
    try:
        with soundfile.SoundFile(source) as sound:
            first, last = _segment(sound.frames, sound.samplerate, start_s, end_s, name)
            if first:
                sound.seek(first)
            samples = sound.read(last - first, dtype="float32", always_2d=True)
            rate = int(sound.samplerate)
            # mp3 counts its encoder's delay, which decoders drop
            slack = round(0.1 * rate) if sound.format == "MP3" else 0
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise AudioError(
            f"{name} is not audio that can be read ({_libsndfile_reason(error)}); readable are "
            f"{FORMATS}; convert it, for instance: ffmpeg -i {Path(name).name} "
            f"{Path(name).stem}.wav"
        ) from error
    if len(samples) < last - first - slack:
        raise AudioError(
            f"{name} is truncated: {len(samples) / rate:.2f} s of {(last - first) / rate:.2f} s "
            "can be read; copy it again",
            "truncated",
        )
    return torch.from_numpy(np.ascontiguousarray(samples.T)), rate


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


def _libsndfile_reason(error: Exception) -> str:
    text = getattr(error, "error_string", "") or str(error)
    return str(text).rstrip(". ")
