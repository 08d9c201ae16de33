"""Audio that is still coming in: blocks of a file, PCM from a pipe, resampling piece by piece."""

import math
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path

import torch
from torch import Tensor

from rayasr.data.audio import AudioError, pcm16_samples, read_blocks, resample

BLOCK_S = 0.1
"""Audio that is read at a time."""

_REACH = 8
"""Inputs of `resample` on either side of an output, in samples of the lower rate: six zero
crossings, a roll-off, and one to round up."""


class OnlineResampler:
    """`resample` of a recording that comes in pieces.

    It works in whole blocks, in which `old` samples become `new`: 10 to 40 ms at the usual rates,
    up to a second where two rates have no common divisor.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        divisor = math.gcd(from_rate, to_rate)
        self._old, self._new = from_rate // divisor, to_rate // divisor
        self._rates = from_rate, to_rate
        reach = _REACH * max(1.0, self._old / self._new)  # in samples of `from_rate`
        self._around = math.ceil(reach / self._old)  # blocks whose samples a block also needs
        self._kept = torch.zeros(self._around * self._old)  # before the beginning all is 0
        self._missing = 0  # outputs that are due for what has come

    def accept(self, samples: Tensor) -> Tensor:
        """The outputs that float32 (N,) completes."""
        if self._old == self._new:
            return samples
        self._kept = torch.cat([self._kept, samples])
        done = len(self._kept) // self._old - 2 * self._around
        if done <= 0:
            return samples[:0]
        end = (done + 2 * self._around) * self._old
        out = resample(self._kept[:end], *self._rates)
        self._kept = self._kept[done * self._old :]
        return out[self._around * self._new : (self._around + done) * self._new]

    def finish(self) -> Tensor:
        """The outputs that are left at the end."""
        if self._old == self._new:
            return self._kept[:0]
        return resample(self._kept, *self._rates)[self._around * self._new :]


def file_samples(path: str | Path, sample_rate: int) -> Iterator[Tensor]:
    """Mono float32 samples (N,) of a recording at `sample_rate`, block by block.

    Raises AudioError; a file that is damaged further on gives what is before that first.
    """
    resampler: OnlineResampler | None = None
    for samples, rate in read_blocks(path, BLOCK_S):
        if not bool(samples.isfinite().all()):
            raise AudioError(f"{path} holds NaN or infinite samples; convert it", "not_finite")
        resampler = resampler or OnlineResampler(rate, sample_rate)
        yield resampler.accept(samples[0] if len(samples) == 1 else samples.mean(0))
    if resampler is not None:
        yield resampler.finish()


def pcm_samples(
    file: BufferedIOBase, from_rate: int, sample_rate: int, notes: Callable[[str], None]
) -> Iterator[Tensor]:
    """Samples (N,) at `sample_rate` of 16-bit little-endian mono PCM, as soon as they come.

    Half a sample at the end is dropped and told.
    """
    resampler = OnlineResampler(from_rate, sample_rate)
    size, rest = 2 * max(1, round(BLOCK_S * from_rate)), b""
    while data := file.read1(size):
        data = rest + data
        whole = len(data) - len(data) % 2
        rest = data[whole:]
        yield resampler.accept(pcm16_samples(data[:whole])[0])
    if rest:
        notes("the audio ended in the middle of a sample; its last byte is dropped")
    yield resampler.finish()
