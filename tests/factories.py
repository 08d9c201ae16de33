"""Small makers of recordings and corpora for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

DIGITS = "零一二三四五六七八九"


def write_wav(path: Path, seconds: float = 1.0, rate: int = 16000, seed: int = 0) -> Path:
    """Write noise with a tone of its own per seed as 16-bit mono (the suffix says the format)."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    samples = 0.02 * rng.standard_normal(len(times))
    samples += 0.2 * np.sin(2 * np.pi * (200 + 50 * (seed % 20)) * times)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples.astype(np.float32), rate, subtype=None)
    return path


def digit_text(seed: int, longest: int = 5) -> str:
    """A random string of Chinese digits."""
    rng = np.random.default_rng([seed, 1])
    return "".join(DIGITS[i] for i in rng.integers(0, 10, rng.integers(1, longest + 1)))


def make_aishell_corpus(
    folder: Path,
    train: int = 12,
    dev: int = 4,
    test: int = 4,
    *,
    speakers: int = 2,
    seconds: tuple[float, float] = (0.8, 1.6),
    rate: int = 16000,
    seed: int = 0,
) -> Path:
    """Write FOLDER/data_aishell with that many utterances a split; speakers are per split.

    The tone of a recording follows from its text's first digit, so that there is a little to learn.
    """
    rng = np.random.default_rng(seed)
    lines = []
    first_speaker = {"train": 2, "dev": 724, "test": 764}
    for split, count in (("train", train), ("dev", dev), ("test", test)):
        for i in range(count):
            speaker = f"S{first_speaker[split] + i % speakers:04d}"
            key = f"BAC009{speaker}W{121 + i // speakers:04d}"
            text = digit_text(int(rng.integers(1 << 30)))
            path = folder / "data_aishell" / "wav" / split / speaker / f"{key}.wav"
            write_wav(path, float(rng.uniform(*seconds)), rate, seed=DIGITS.index(text[0]))
            lines.append(f"{key} {text}\n")
    transcript = folder / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt"
    transcript.parent.mkdir(parents=True, exist_ok=True)
    transcript.write_text("".join(lines), encoding="utf-8")
    return folder


def make_kaldi_corpus(
    folder: Path, splits: Mapping[str, int] | None = None, *, seconds: float = 1.0
) -> Path:
    """Write a Kaldi folder per split (paths relative to it); `{"": 5}` makes a single folder."""
    for split, count in (splits if splits is not None else {"train": 6, "test": 2}).items():
        inside = folder / split
        keys = [f"{split or 'all'}-spk{i % 2}-{i:03d}" for i in range(count)]
        for i, key in enumerate(keys):
            write_wav(inside / "audio" / f"{key}.wav", seconds, seed=i)
        write_lines(inside / "wav.scp", [f"{key} audio/{key}.wav" for key in keys])
        write_lines(inside / "text", [f"{key} {digit_text(i)}" for i, key in enumerate(keys)])
        write_lines(inside / "utt2spk", [f"{key} {key.rsplit('-', 1)[0]}" for key in keys])
    return folder


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """Write lines of text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path
