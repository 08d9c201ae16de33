"""Ours against torchaudio's fbank on one core, and the other steps of a recording beside it.

    python benchmarks/bench_fbank.py [--rounds 15] [--count 20]

Both sides take turns in one run; each figure is CPU seconds per audio hour, min / median / max of
the rounds, each round COUNT recordings of speech-like noise. Needs the extra `torchaudio` (only
its file compliance/kaldi.py is loaded). Aim: the ratio at 5 s at least 1.8.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor

from rayasr.data.audio import perturb_speed, read_audio, resample
from rayasr.data.fbank import Fbank
from rayasr.feature_config import FeatureConfig

RATE = 16000


def main() -> None:
    """Print the table of fbank by length, then reading, resampling and speed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours, theirs = Fbank(FeatureConfig()), Fbank(FeatureConfig(backend="torchaudio"))
    print(f"torch {torch.__version__}, one thread; CPU s per audio hour, min / median / max")
    for seconds in (1, 2, 5, 10):
        waves = [speech_like(seconds, seed) for seed in range(options.count)]
        sides = compare([theirs, ours], waves, options.rounds)
        ratio = statistics.median(t / o for t, o in zip(*sides, strict=True))
        print(
            f"fbank {seconds:2d} s   torchaudio {row(sides[0], seconds)}   "
            f"ours {row(sides[1], seconds)}   ratio {ratio:.2f}"
        )
    differences = [(ours(wave) - theirs(wave)).abs() for wave in waves]
    highest = max(float(d.max()) for d in differences)
    mean = statistics.fmean(float(d.mean()) for d in differences)
    print(f"difference   max {highest:.1e}   mean {mean:.1e}   (allowed 1e-3, 2e-5)")
    bench_steps(options.count, options.rounds)


def bench_steps(count: int, rounds: int) -> None:
    """Reading a 16-bit wav (libsndfile beside it), changing speed, changing rate; 5 s each."""
    waves = [speech_like(5, seed) for seed in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{i}.wav") for i in range(count)]
        for path, wave in zip(paths, waves, strict=True):
            soundfile.write(path, wave.numpy(), RATE)
        works: dict[str, Callable[[int], object]] = {
            "read wav, libsndfile": lambda i: soundfile.read(paths[i], dtype="float32"),
            "read wav, ours": lambda i: read_audio(paths[i]),
            "speed 0.9": lambda i: perturb_speed(waves[i], RATE, 0.9),
            "speed 1.1": lambda i: perturb_speed(waves[i], RATE, 1.1),
            "8 to 16 kHz": lambda i: resample(waves[i][: 5 * 8000], 8000, RATE),
        }
        timings = compare(list(works.values()), list(range(count)), rounds)
    for name, timing in zip(works, timings, strict=True):
        print(f"{name:22s} {row(timing, 5)}")


def speech_like(seconds: int, seed: int) -> Tensor:
    """Noise that falls off with frequency and comes and goes, float32 (N,), rounded to int16."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(seconds * RATE, generator=generator)
    spectrum = torch.fft.rfft(noise)
    spectrum /= torch.arange(1, len(spectrum) + 1).sqrt()
    loudness = torch.linspace(0, seconds * 6, seconds * RATE).sin().abs() + 0.01
    wave = torch.fft.irfft(spectrum, seconds * RATE) * loudness
    return (wave * (8000 / wave.abs().max())).round() / 32768


def compare(
    works: list[Callable[[Any], object]], inputs: list[Any], rounds: int
) -> list[list[float]]:
    """CPU seconds per call of each work, one figure a round; the works take turns."""
    timings: list[list[float]] = [[] for _ in works]
    for _ in range(rounds + 1):
        for work, timing in zip(works, timings, strict=True):
            begin = time.process_time()
            for item in inputs:
                work(item)
            timing.append((time.process_time() - begin) / len(inputs))
    return [timing[1:] for timing in timings]  # the first round warms up


def row(timing: list[float], seconds: int) -> str:
    """Min, median and max per audio hour."""
    figures = (min(timing), statistics.median(timing), max(timing))
    return " / ".join(f"{figure * 3600 / seconds:.2f}" for figure in figures)


if __name__ == "__main__":
    main()
