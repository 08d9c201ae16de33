"""Fine-tuning on units a model never saw: what it learns of them, and what it forgets.

    python benchmarks/bench_finetune.py digits RUN ../shared/data/fsdd_aishell --out /tmp/tune
    python benchmarks/bench_finetune.py an4 RUN ../shared/data/an4 --out /tmp/tune_an4

RUN is a trained run of configs/digits.yaml or configs/an4.yaml. espeak-ng speaks a small corpus of
words with new units; voices and sentences of its test split are in no other. `rayasr run
--init-from RUN` trains on that corpus and on RUN's own together, in this process; both test splits
are decoded from audio before and after, in the mode and with the weights that each model has chosen
on its own dev split.
"""

import argparse
import hashlib
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
import torch
from process_tree import cpu_seconds

from rayasr.checkpoint import LoadedModel, load_model
from rayasr.config import CorpusConfig, Recipe
from rayasr.corpora.espeak import Line, speak_apart
from rayasr.corpora.synthetic import DEV_VOICES, TEST_VOICES, TRAIN_VOICES
from rayasr.data.audio import resample
from rayasr.decode.split import decode_split
from rayasr.score import align, read_text_file

VOICES = {"train": TRAIN_VOICES, "dev": DEV_VOICES, "test": TEST_VOICES}


@dataclass(frozen=True)
class Task:
    """What is spoken, and how the model is tuned."""

    slots: dict[str, tuple[tuple[str, ...], ...]]
    """By language of espeak: one word from each slot makes a sentence."""
    space: str
    rate: int
    sentences: dict[str, int]
    """Per speaker, by split."""
    settings: tuple[str, ...]


DIGITS = tuple("零一二三四五六七八九")
TASKS = {
    "digits": Task(
        {"cmn": (DIGITS, ("加", "减", "乘", "除"), DIGITS, ("等于",), DIGITS)},
        space="",
        rate=8000,
        sentences={"train": 14, "dev": 6, "test": 20},
        settings=("optim.lr=0.0005", "optim.warmup_steps=100", "train.epochs=20"),
    ),
    "an4": Task(
        {
            "de": (
                ("FÜNF", "ZWÖLF", "FÜNFZEHN", "ZWEI", "SIEBEN"),
                ("GRÜNE", "SCHÖNE", "BÖSE", "ROTE"),
                ("TÜREN", "HÜTE", "SÖHNE", "BLUMEN"),
            ),
            "es": (
                ("MAÑANA", "EL NIÑO", "LA NIÑA", "EL PERRO"),
                ("DEL", "CON EL", "SIN EL"),
                ("SEÑOR", "OTOÑO", "BAÑO", "MUNDO"),
            ),
            "en-us": (
                ("AT", "BEFORE", "AFTER"),
                ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "NINE", "TEN"),
                ("O'CLOCK",),
            ),
        },
        space=" ",
        rate=16000,
        sentences={"train": 12, "dev": 2, "test": 6},
        settings=("optim.lr=0.0005", "optim.warmup_steps=100", "train.epochs=16"),
    ),
}


def main() -> None:
    """Speak, tune, and print both test splits before and after."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("run", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--freeze")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task, out = TASKS[arguments.task], arguments.out
    spoken = out / "spoken"
    if not spoken.is_dir():
        seconds = speak_corpus(task, spoken)
        print(", ".join(f"{split} {value:.0f} s" for split, value in seconds.items()))
    command = [sys.executable, "-m", "rayasr", "run", str(arguments.run / "model" / "recipe.yaml")]
    command += ["--corpus", str(arguments.corpus), "--corpus", str(spoken)]
    command += ["--out", str(out / "run"), "--init-from", str(arguments.run), "--workers", "0"]
    command += ["--freeze", arguments.freeze] if arguments.freeze else []
    for setting in (*task.settings, "train.validate_every_epochs=5"):
        command += ["--set", setting]
    cpu_seconds([*command, "--until", "prepare"])
    used = cpu_seconds([*command, "--until", "train"])
    cpu_seconds([*command, "--until", "decode"])
    print(f"{used:.0f} CPU s of fine-tuning")
    report(load_model(arguments.run), load_model(out / "run"), arguments.corpus, spoken)


def speak_corpus(task: Task, folder: Path) -> dict[str, float]:
    """Write a Kaldi folder per split; returns the seconds of each."""
    rng = np.random.default_rng(7)
    seconds = dict.fromkeys(VOICES, 0.0)
    for split, voices in VOICES.items():
        target = folder / split
        target.mkdir(parents=True)
        rows: list[tuple[str, str, str]] = []
        for (language, slots), (number, voice) in product(task.slots.items(), enumerate(voices)):
            known = [t for t in map(task.space.join, product(*slots)) if split_of(t) == split]
            texts = rng.choice(known, task.sentences[split])
            manner = {
                "voice": f"{language}+{voice}".rstrip("+"),
                "rate": int(rng.integers(160, 200)),
            }
            rate, recordings = speak_apart([Line(text, **manner) for text in texts])
            for index, (text, recording) in enumerate(zip(texts, recordings, strict=True)):
                key = f"{language}{number:02d}-{split}-{index:03d}"
                samples = finish(recording, rate, task.rate, rng)
                soundfile.write(target / f"{key}.wav", samples, task.rate)
                seconds[split] += len(samples) / task.rate
                rows.append((key, f"{language}{number:02d}-{split}", text))
        rows.sort()
        write(target / "wav.scp", [f"{key} {key}.wav" for key, _, _ in rows])
        write(target / "utt2spk", [f"{key} {speaker}" for key, speaker, _ in rows])
        write(target / "text", [f"{key} {text}" for key, _, text in rows])
    return seconds


def split_of(text: str) -> str:
    """The only split in which a sentence is spoken."""
    percent = hashlib.sha256(text.encode()).digest()[0] * 100 // 256
    return "train" if percent < 60 else "dev" if percent < 75 else "test"


def finish(recording: bytes, rate: int, wanted: int, rng: np.random.Generator) -> np.ndarray:
    """Resampled samples with pauses and a noise floor."""
    speech = torch.frombuffer(bytearray(recording), dtype=torch.int16).float() / 32768
    samples = np.pad(resample(speech, rate, wanted).numpy(), wanted // 8)
    samples *= rng.uniform(0.2, 0.7) / max(float(np.abs(samples).max()), 1e-3)
    return samples + rng.uniform(1e-4, 1e-3) * rng.standard_normal(len(samples))


def write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def report(before: LoadedModel, after: LoadedModel, corpus: Path, spoken: Path) -> None:
    """Errors of both test splits, and how many of the new units are heard."""
    new = set(after.tokenizer.units) - set(before.tokenizer.units)
    print(f"new units: {' '.join(sorted(new))}")
    for name, place in ((corpus.name, corpus), ("spoken", spoken)):
        for label, loaded in (("before", before), ("after", after)):
            recipe = loaded.recipe.model_copy(update={"corpora": (CorpusConfig(path=str(place)),)})
            print(f"{name} test, {label}: {errors(loaded, recipe, new)}")


def errors(loaded: LoadedModel, recipe: Recipe, new: set[str]) -> str:
    """The error rate of the model's own mode, and new units said, heard and imagined."""
    mode = loaded.decoding["default_mode"]
    with TemporaryDirectory() as folder:
        counts = decode_split(loaded, recipe, "test", [mode], folder)[mode]
        said, heard = (read_text_file(Path(folder) / "test" / mode / n) for n in ("ref", "hyp"))
    found: Counter[str] = Counter()
    for key, text in said.items():
        for reference, hypothesis in align(list(text), list(heard.get(key, ""))):
            found["said"] += reference in new
            found["right"] += reference in new and reference == hypothesis
            found["imagined"] += hypothesis in new and reference != hypothesis
    rate = counts.get("cer", counts.get("wer"))
    line = f"{mode}: {counts['errors']} errors of {counts['reference_units']} ({rate:.2f} %)"
    if not found["said"]:
        return f"{line}; new units imagined: {found['imagined']}"
    wrong = found["said"] - found["right"]
    return f"{line}; new units: {wrong} of {found['said']} missed or wrong"


if __name__ == "__main__":
    main()
