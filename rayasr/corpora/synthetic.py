"""A corpus that speaks itself: Mandarin of a small grammar, in AISHELL-1's layout.

Half an hour by default, enough to learn the grammar's characters and to read unseen speakers. The
same seed gives the same bytes. Test speakers have voices, and test sentences words in an order,
that training never hears.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from rayasr.corpora.espeak import Line, speak_apart
from rayasr.data.audio import resample
from rayasr.errors import ConfigError, DataError
from rayasr.storage import output_error, read_json, write_json

SAMPLE_RATE = 16000
LANGUAGE = "cmn"
DONE = "synthetic.json"
"""Written last; says with which settings the corpus was made."""
VERSION = 1
"""Raised when the same settings give another corpus."""

TRAIN_VOICES = ("", "f1", "m1", "f3", "m2", "f4", "m4", "f5", "m5", "m7", "Andy", "m8")
DEV_VOICES = ("m6", "Alex")
TEST_VOICES = ("m3", "f2", "Mike")
"""espeak's variants of the Mandarin voice; no voice speaks in two splits. Further variants differ
so much from each other that half an hour is not enough to learn them all."""

MOST_SPEAKERS = {"train": 700, "dev": 40, "test": 200}
"""Limits of AISHELL's speaker numbers, which go by split."""

_NUMBERS = ("一", "二", "三", "四", "五", "六", "七", "八", "九", "十")
_CITIES = ("北京", "上海", "南京", "西安")
_ACTIONS = ("起床", "吃饭", "开会", "睡觉")
GRAMMAR: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("请", "我要"), ("打开", "关上"), ("客厅", "卧室"), ("的",), ("灯", "电视", "窗户")),
    (("今天", "明天", "后天"), ("上午", "下午", "晚上"), _CITIES, ("下雨", "下雪", "刮风")),
    (("早上", "下午", "晚上"), _NUMBERS, ("点半", "点钟"), ("叫我", "叫他"), _ACTIONS),
    (
        ("我", "他", "小李", "小王"),
        ("想", "不想"),
        ("听音乐", "看新闻", "买水果", "喝茶"),
        ("要", "不要"),
        _ACTIONS,
    ),
    (("我", "他", "小李", "小王"), ("买了",), _NUMBERS, ("本书", "斤水果", "杯茶")),
    (("今天", "明天", "后天"), ("从",), _CITIES, ("到",), _CITIES, ("坐",), ("火车", "汽车")),
    (("卧室", *_CITIES), ("温度",), ("二十", "三十", "四十"), _NUMBERS[:9], ("度",)),
)
"""Patterns: one choice from each slot, strung together."""


@dataclass(frozen=True)
class SyntheticSize:
    """How much is spoken; the defaults make about half an hour."""

    train_speakers: int = 36
    train_sentences: int = 14
    """Whole sentences per training speaker."""
    train_phrases: int = 16
    """Pieces of sentences per training speaker: short recordings teach alignment first."""
    dev_speakers: int = 4
    dev_sentences: int = 12
    test_speakers: int = 6
    test_sentences: int = 16

    def of(self, split: str) -> tuple[int, int, int]:
        """Speakers, and sentences and phrases per speaker, of a split."""
        values = asdict(self)
        names = ("speakers", "sentences", "phrases")
        speakers, sentences, phrases = (values.get(f"{split}_{name}", 0) for name in names)
        return speakers, sentences, phrases


@dataclass(frozen=True)
class Speaker:
    """One synthetic person and what they say."""

    name: str
    split: str
    lines: tuple[Line, ...]

    def keys(self) -> list[str]:
        """Utterance ids in AISHELL's form: BAC009S0002W0121 and on."""
        return [f"BAC009{self.name}W{121 + i:04d}" for i in range(len(self.lines))]


def make_synthetic_corpus(
    folder: str | Path,
    *,
    seed: int = 0,
    size: SyntheticSize | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Speak a corpus into FOLDER/data_aishell, or find it finished; returns what `DONE` says.

    Raises ConfigError without the extra `demo`, DataError where another corpus is in the way.
    """
    size = size or SyntheticSize()
    target = Path(folder).absolute() / "data_aishell"
    settings = {"seed": seed, "version": VERSION, **asdict(size)}
    if target.exists():
        return _finished(target, settings)
    speakers = plan_speakers(seed, size)
    partial = target.with_name(".data_aishell.partial")
    try:
        if partial.exists():  # of a run that was stopped
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        seconds = _speak_all(partial, speakers, seed, progress or (lambda *_: None))
        transcript = partial / "transcript" / "aishell_transcript_v0.8.txt"
        transcript.parent.mkdir()
        transcript.write_text("".join(_transcript(speakers)), encoding="utf-8")
        utterances = sum(len(speaker.lines) for speaker in speakers)
        summary = {"settings": settings, "utterances": utterances, "seconds": round(seconds, 2)}
        write_json(partial / DONE, summary)
        partial.rename(target)
    except OSError as error:
        raise output_error(target, error) from error
    return summary


def plan_speakers(seed: int, size: SyntheticSize) -> list[Speaker]:
    """All speakers with their sentences; a pure function of its arguments; raises ConfigError."""
    rng = np.random.default_rng(seed)
    speakers = []
    for split, voices, first in (
        ("train", TRAIN_VOICES, 2),
        ("dev", DEV_VOICES, 724),
        ("test", TEST_VOICES, 764),
    ):
        num_speakers, num_sentences, num_phrases = size.of(split)
        if not 1 <= num_speakers <= (most := MOST_SPEAKERS[split]):
            raise ConfigError(f"{split} speakers: 1 to {most}, found {num_speakers}")
        if num_sentences < 1:
            raise ConfigError(f"{split} sentences: at least 1, found {num_sentences}")
        sentences = _sentences(rng, split, seed)
        for i in range(num_speakers):
            manner = Line(
                text="",
                voice=f"{LANGUAGE}+{voices[i % len(voices)]}".rstrip("+"),
                rate=int(rng.integers(170, 221)),
                pitch=int(rng.integers(35, 66)),
                pitch_range=int(rng.integers(40, 71)),
            )
            texts = [next(sentences) for _ in range(num_sentences)]
            texts += [_phrase(rng) for _ in range(num_phrases)]
            lines = tuple(replace(manner, text=text) for text in texts)
            speakers.append(Speaker(f"S{first + i:04d}", split, lines))
    return speakers


def split_of_sentence(sentence: str, seed: int) -> str:
    """The only split in which a sentence is spoken: 80 % train, 8 % dev, 12 % test."""
    percent = hashlib.sha256(f"{seed} {sentence}".encode()).digest()[0] * 100 // 256
    return "train" if percent < 80 else "dev" if percent < 88 else "test"


def _sentences(rng: np.random.Generator, split: str, seed: int) -> Iterator[str]:
    """Random sentences of one split without end."""
    while True:
        pattern = GRAMMAR[rng.integers(len(GRAMMAR))]
        sentence = "".join(slot[rng.integers(len(slot))] for slot in pattern)
        if split_of_sentence(sentence, seed) == split:
            yield sentence


def _phrase(rng: np.random.Generator) -> str:
    """One to three neighbouring words of a random sentence, never all of it."""
    pattern = GRAMMAR[rng.integers(len(GRAMMAR))]
    length = int(rng.integers(1, min(4, len(pattern))))
    first = int(rng.integers(len(pattern) - length + 1))
    return "".join(slot[rng.integers(len(slot))] for slot in pattern[first : first + length])


def _speak_all(
    folder: Path, speakers: list[Speaker], seed: int, progress: Callable[[int, int], None]
) -> float:
    """Write the recordings of all speakers; returns their seconds."""
    total = sum(len(speaker.lines) for speaker in speakers)
    done, seconds = 0, 0.0
    threads = max(1, min(4, os.cpu_count() or 1))  # each waits for a process of its own
    with ThreadPoolExecutor(threads) as pool:
        try:
            speech = pool.map(lambda speaker: speak_apart(speaker.lines), speakers)
            for speaker, (rate, recordings) in zip(speakers, speech, strict=True):
                place = folder / "wav" / speaker.split / speaker.name
                place.mkdir(parents=True)
                rng = np.random.default_rng([seed, int(speaker.name[1:])])
                for key, recording in zip(speaker.keys(), recordings, strict=True):
                    samples = _finish(recording, rate, rng)
                    soundfile.write(place / f"{key}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
                    seconds += len(samples) / SAMPLE_RATE
                    done += 1
                    progress(done, total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return seconds


def _finish(recording: bytes, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Resampled int16 samples at a level, with pauses and a noise floor, drawn from `rng`."""
    speech = torch.frombuffer(bytearray(recording), dtype=torch.int16).float() / 32768
    samples = resample(speech, rate, SAMPLE_RATE).numpy()
    before, after = rng.integers(800, 3200, 2)  # 50 to 200 ms
    samples = np.pad(samples, (int(before), int(after)))
    samples *= rng.uniform(0.2, 0.7) / max(float(np.abs(samples).max()), 1e-3)
    samples += rng.uniform(1e-4, 1e-3) * rng.standard_normal(len(samples))
    levels: np.ndarray = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    return levels


def _transcript(speakers: list[Speaker]) -> Iterator[str]:
    for speaker in speakers:
        for key, line in zip(speaker.keys(), speaker.lines, strict=True):
            yield f"{key} {line.text}\n"


def _finished(target: Path, settings: dict[str, Any]) -> dict[str, Any]:
    if not (target / DONE).is_file():
        raise DataError(f"{target} holds a corpus of another kind; choose another folder")
    summary: dict[str, Any] = read_json(target / DONE)
    made_with = summary.get("settings", {})
    for name, value in settings.items():
        if made_with.get(name) != value:
            raise DataError(
                f"{target} was made with {name} {made_with.get(name)}, not {value}; "
                "delete it or choose another folder"
            )
    return summary
