"""Small makers of recordings and corpora for tests."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile

if TYPE_CHECKING:
    from rayasr.config import Recipe
    from rayasr.data.cmvn import CmvnStats
    from rayasr.data.store import Store
    from rayasr.tokenizer import Tokenizer

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


def make_tone_corpus(
    folder: Path, *, train: int = 60, dev: int = 6, test: int = 6, rate: int = 8000, seed: int = 0
) -> Path:
    """Write an AISHELL-1 layout in which each digit is a tone of its own: learnt in a minute."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(0.2 * rate)) / rate
    lines = []
    for split, count, first in (("train", train, 2), ("dev", dev, 724), ("test", test, 764)):
        for i in range(count):
            speaker = f"S{first + i % 3:04d}"
            key = f"BAC009{speaker}W{121 + i // 3:04d}"
            digits = rng.integers(0, 5, rng.integers(2, 6))
            pieces = []
            for digit in digits:
                pieces += [np.sin(2 * np.pi * (300 + 300 * digit) * times), np.zeros(rate // 20)]
            samples = 0.3 * np.concatenate(pieces)
            samples += 0.003 * rng.standard_normal(len(samples))
            path = folder / "data_aishell" / "wav" / split / speaker / f"{key}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, samples.astype(np.float32), rate)
            lines.append(f"{key} {''.join(DIGITS[d] for d in digits)}")
    write_lines(folder / "data_aishell" / "transcript" / "aishell_transcript_v0.8.txt", lines)
    return folder


def make_store(out: Path, corpus: Path, recipe: "Recipe") -> "Store":
    """The store of a corpus, as `prepare_store` makes it but in this process, without Ray."""
    from rayasr.config import CorpusConfig
    from rayasr.corpora.read import read_corpora
    from rayasr.data.extraction import ExtractionSettings, make_shard
    from rayasr.data.store import Store
    from rayasr.data.store_writer import finish_store, finished_shards, plan_store

    corpora = [CorpusConfig(path=str(corpus))]
    manifest = read_corpora(corpora, dev_fraction=0.05, seed=0, notes=lambda _: None)
    plan = plan_store(manifest, recipe)
    shards = out / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    for spec in plan.specs:
        make_shard(spec, ExtractionSettings(recipe, plan.roots, str(shards)))
    finish_store(str(out), recipe, plan, finished_shards(str(shards), plan))
    return Store.open(out)


def make_model(
    folder: Path, recipe: "Recipe", tokenizer: "Tokenizer", cmvn: "CmvnStats | None" = None
) -> Path:
    """Write a model folder with random weights, sure enough of its units that hypotheses differ."""
    import torch

    from rayasr.checkpoint import new_model, save_model
    from rayasr.data.cmvn import CmvnStats

    bins = recipe.features.num_mel_bins
    noise = np.random.default_rng(0).normal(8.0, 3.0, (500, bins))
    cmvn = cmvn or CmvnStats.zeros(bins).add(noise)
    torch.manual_seed(0)
    model = new_model(recipe, tokenizer, cmvn)
    with torch.no_grad():
        model.ctc.ctc_lo.weight *= 4.0
    return save_model(folder, model.state_dict(), recipe, tokenizer, cmvn)


def tiny_training_recipe(**changes: str | int | float | bool | None) -> "Recipe":
    """A recipe that takes milliseconds a step, four micro-batches each; `optim__lr=1` changes one.

    It has what makes exactness hard: dropout, chunks, speeds, masks, a moving average.
    """
    from rayasr.config import parse_recipe

    values: dict[str, dict[str, object]] = {
        "text": {"spaces": "remove"},
        "features": {"sample_rate": 8000, "num_mel_bins": 20},
        "store": {"shard_utterances": 8},
        "augment": {"spec_augment": {"time_mask_frames": 5, "frequency_mask_bins": 3}},
        "batch": {"micro_batches": 4, "max_padded_frames": 450, "shuffle_window": 50},
        "model": {
            "encoder": {
                "output_size": 16,
                "linear_units": 32,
                "num_blocks": 1,
                "subsampling_channels": 4,
                "convolution_kernel": 5,
            },
            "decoder": {"linear_units": 32, "num_blocks": 1, "r_num_blocks": 1},
        },
        "optim": {"lr": 0.002, "schedule": "cosine", "ema_decay": 0.9},
        "train": {"epochs": 3, "log_every_steps": 1},
        "checkpoint": {"keep_last": 3},
        "average": {"best": 2},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        values.setdefault(section, {})[name] = value
    return parse_recipe(values)
