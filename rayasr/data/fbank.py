"""Log mel filter banks as Kaldi and torchaudio compute them, in fewer passes over the samples.

Windows are written straight into the transform's padded buffer, the power spectrum stays in the
transform's memory, and each group of mel bins reads only its part of the spectrum. The roundings up
to the transform are torchaudio's, operation by operation: bins with little energy beside loud ones
would otherwise differ by 0.01.
"""

import functools
import importlib.util
import math
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from torch import Tensor

from rayasr.errors import ConfigError
from rayasr.feature_config import FeatureConfig

PREEMPHASIS = 0.97
INT16_SCALE = 32768.0
ENERGY_FLOOR = float(np.finfo(np.float32).eps)
"""Least mel energy at int16 scale, before the logarithm."""

_ROW_BLOCK = 16
"""Windows are transformed in multiples of this many: matrix products of fewer rows add up in
another order, and a frame's bits would depend on what it was computed with."""

_MEL_GROUP = 16
"""Mel bins multiplied at a time: each group reads only the part of the spectrum it covers."""


@overload
def num_frames(num_samples: int, config: FeatureConfig) -> int: ...
@overload
def num_frames(
    num_samples: np.ndarray[Any, Any], config: FeatureConfig
) -> np.ndarray[Any, Any]: ...
def num_frames(
    num_samples: int | np.ndarray[Any, Any], config: FeatureConfig
) -> int | np.ndarray[Any, Any]:
    """How many frames `Fbank` makes of so many samples (an int or an int64 array)."""
    length, shift = config.window_samples
    # whole windows only, or one window centred on every shift
    spare = shift - length if config.snip_edges else shift // 2
    if isinstance(num_samples, np.ndarray):
        return np.asarray(np.maximum(0, (num_samples + spare) // shift))
    return max(0, (num_samples + spare) // shift)


class Fbank:
    """Samples to log mel energies by one recipe; raises ConfigError where the backend is missing.

    The constants follow the samples to their device.
    """

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        self.length, self.shift = config.window_samples
        self._constants: dict[torch.device, _Constants] = {}
        if config.backend == "torchaudio":
            load_torchaudio_kaldi()

    def __call__(
        self, samples: Tensor, *, dither: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Float32 (N,) in [-1, 1] to float32 (frames, mel): int16 scale, natural logarithm.

        `dither` is the deviation of the Gaussian noise added to each sample, at int16 scale;
        `generator` (of the samples' device) makes it repeatable. Too short a recording has
        0 frames.
        """
        return self.batch([samples], dither=dither, generator=generator)[0]

    def batch(
        self,
        samples: Sequence[Tensor],
        *,
        dither: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """The same for several recordings of one device, their windows in one transform."""
        waves = [_dithered(wave, dither, generator) for wave in samples]
        counts = [num_frames(wave.shape[-1], self.config) for wave in waves]
        if self.config.backend == "torchaudio":
            pairs = zip(waves, counts, strict=True)
            return [self._by_torchaudio(wave, count) for wave, count in pairs]
        if not waves:
            return []
        constants = self._constants_on(waves[0].device)
        num_rows = sum(counts)
        windows = waves[0].new_empty(num_rows + -num_rows % _ROW_BLOCK, constants.padded_length)
        windows[:, self.length :] = 0.0
        windows[num_rows:] = 0.0
        row = 0
        for wave, count in zip(waves, counts, strict=True):
            if count:
                self._write_windows(wave, windows[row : row + count, : self.length], constants)
            row += count
        return list(torch.split(_log_mel(windows, constants)[:num_rows], counts))

    def _write_windows(self, wave: Tensor, out: Tensor, constants: "_Constants") -> None:
        """Weighted windows (frames, length) of one recording, mean out and pre-emphasised."""
        if not self.config.snip_edges:
            wave = _reflected(wave, self.length, self.shift, len(out))
        plain = wave.contiguous().as_strided(out.shape, (self.shift, 1))
        centred = plain - plain.mean(1, keepdim=True)
        torch.sub(centred[:, 1:], centred[:, :-1] * PREEMPHASIS, out=out[:, 1:])
        # a window's first sample has none before it: Kaldi takes it for its own predecessor
        torch.sub(centred[:, :1], centred[:, :1] * PREEMPHASIS, out=out[:, :1])
        out.mul_(constants.window)

    def _constants_on(self, device: torch.device) -> "_Constants":
        if device not in self._constants:
            self._constants[device] = _make_constants(self.config, self.length, device)
        return self._constants[device]

    def _by_torchaudio(self, wave: Tensor, count: int) -> Tensor:
        if count == 0:
            return wave.new_empty(0, self.config.num_mel_bins)
        features: Tensor = load_torchaudio_kaldi().fbank(
            (wave * INT16_SCALE).unsqueeze(0),
            num_mel_bins=self.config.num_mel_bins,
            frame_length=self.config.frame_length_ms,
            frame_shift=self.config.frame_shift_ms,
            sample_frequency=float(self.config.sample_rate),
            low_freq=self.config.low_freq,
            high_freq=self.config.high_freq,
            snip_edges=self.config.snip_edges,
            window_type=self.config.window,
            energy_floor=0.0,
            dither=0.0,
        )
        if self.config.noise_floor:
            features = torch.maximum(features, energy_floor(self.config).to(wave.device).log())
        return features


def mel_banks(config: FeatureConfig, padded_length: int) -> Tensor:
    """Triangular filters on the mel axis: float32 (mel, padded_length / 2 + 1).

    In float32 throughout, as Kaldi and torchaudio do: where a loud harmonic falls on the foot of a
    filter, the rounding of its small weight shows (0.01 in the logarithm).
    """
    low, high = (1127.0 * math.log(1.0 + edge / 700.0) for edge in config.band)
    delta = (high - low) / (config.num_mel_bins + 1)
    bins = torch.arange(config.num_mel_bins)[:, None]
    left, center, right = (low + (bins + offset) * delta for offset in (0.0, 1.0, 2.0))
    frequency = (config.sample_rate / padded_length) * torch.arange(padded_length / 2)
    mel = 1127.0 * (1.0 + frequency / 700.0).log()
    up, down = (mel - left) / (center - left), (right - mel) / (right - center)
    banks = torch.minimum(up, down).clamp_(min=0.0)
    return torch.nn.functional.pad(banks, (0, 1))  # Kaldi leaves the Nyquist bin out


def analysis_window(config: FeatureConfig, length: int) -> Tensor:
    """Povey's or Hamming's window, float32 (length,)."""
    if config.window == "hamming":
        return torch.hamming_window(length, periodic=False)
    return torch.hann_window(length, periodic=False).pow(0.85)


def energy_floor(config: FeatureConfig) -> Tensor:
    """The least energy of each mel bin, before the logarithm: float32 (mel,).

    Expected energies of white noise of deviation `noise_floor` behind pre-emphasis and window.
    """
    length = config.window_samples[0]
    padded = _padded(length)
    window = analysis_window(config, length).double()
    frequency = torch.arange(padded // 2 + 1).double() * (2.0 * math.pi / padded)
    # |1 - a e^-iw|^2, where neighbouring samples of the window are not quite alike
    same, next_one = window.square().sum(), (window[1:] * window[:-1]).sum()
    power = (1.0 + PREEMPHASIS**2) * same - 2.0 * PREEMPHASIS * frequency.cos() * next_one
    energies = config.noise_floor**2 * (mel_banks(config, padded).double() @ power)
    return energies.clamp(min=ENERGY_FLOOR).float()


@functools.cache
def load_torchaudio_kaldi() -> Any:
    """torchaudio.compliance.kaldi, that one file; raises ConfigError where it is not installed.

    Importing torchaudio itself loads a native library built for CUDA, which fails on other
    machines, and this file does not need it.
    """
    spec = importlib.util.find_spec("torchaudio")
    if spec is None or spec.origin is None:
        raise ConfigError(
            "features.backend: torchaudio is not installed; run pip install 'rayasr[torchaudio]' "
            "or set features.backend=rayasr"
        )
    file = Path(spec.origin).parent / "compliance" / "kaldi.py"
    kaldi_spec = importlib.util.spec_from_file_location("rayasr_torchaudio_kaldi", file)
    if kaldi_spec is None or kaldi_spec.loader is None:
        raise ConfigError(f"cannot load {file}; set features.backend=rayasr")
    kaldi = importlib.util.module_from_spec(kaldi_spec)
    before = sys.modules.get("torchaudio")
    sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # what the file imports
    try:
        kaldi_spec.loader.exec_module(kaldi)
    except (ImportError, OSError) as error:
        raise ConfigError(f"cannot load {file} ({error}); set features.backend=rayasr") from error
    finally:
        if before is None:
            del sys.modules["torchaudio"]
        else:
            sys.modules["torchaudio"] = before
    return kaldi


class _Constants(NamedTuple):
    """What does not depend on the samples, on one device."""

    padded_length: int
    window: Tensor  # (length,) float32, int16 scale included
    groups: list[tuple[slice, slice, Tensor]]  # columns of the spectrum, mel bins, weights
    floor: Tensor  # (mel,)


def _make_constants(config: FeatureConfig, length: int, device: torch.device) -> _Constants:
    padded = _padded(length)
    banks = mel_banks(config, padded)
    groups = []
    for first in range(0, config.num_mel_bins, _MEL_GROUP):
        rows = banks[first : first + _MEL_GROUP]
        used = rows.sum(0).nonzero().flatten().tolist() or [0]
        low, high = used[0], used[-1] + 1
        # real and imaginary parts lie side by side, so each weight is there twice
        weights = rows[:, low:high].repeat_interleave(2, dim=1).T.contiguous()
        mel_bins = slice(first, first + len(rows))
        groups.append((slice(2 * low, 2 * high), mel_bins, weights.to(device)))
    window = (analysis_window(config, length) * INT16_SCALE).to(device)
    return _Constants(padded, window, groups, energy_floor(config).to(device))


def _padded(length: int) -> int:
    """The transform's size: the next power of two."""
    return 1 << (length - 1).bit_length()


def _log_mel(windows: Tensor, constants: _Constants) -> Tensor:
    """Windows (rows, padded_length) to log mel energies (rows, mel)."""
    num_mel_bins = constants.groups[-1][1].stop
    energies = windows.new_empty(len(windows), num_mel_bins)
    if len(windows) == 0:
        return energies  # MKL refuses to transform nothing
    spectrum = torch.view_as_real(torch.fft.rfft(windows)).flatten(1)  # (rows, 2 * bins)
    power = spectrum.square_()
    for columns, mel_bins, weights in constants.groups:
        torch.mm(power[:, columns], weights, out=energies[:, mel_bins])
    return torch.maximum(energies, constants.floor, out=energies).log_()


def _dithered(wave: Tensor, dither: float, generator: torch.Generator | None) -> Tensor:
    if dither == 0.0:
        return wave
    noise = torch.empty_like(wave).normal_(generator=generator)
    return torch.add(wave, noise, alpha=dither / INT16_SCALE)


def _reflected(wave: Tensor, length: int, shift: int, count: int) -> Tensor:
    """Samples mirrored at both ends (…2 1 0 0 1 2…), so that windows are centred on the shifts."""
    num_samples = len(wave)
    first = shift // 2 - length // 2
    index = torch.arange(first, first + (count - 1) * shift + length, device=wave.device)
    index = index.remainder(2 * num_samples)
    return wave[torch.minimum(index, 2 * num_samples - 1 - index)]
