"""Utterances of one or several corpora, and what had to be left out of them with its reason."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

SPLITS = ("train", "dev", "test")
"""The splits rayasr itself trains, validates and tests on; a corpus may have others."""

ARCHIVE_SEPARATOR = "::"
"""Between an archive and the path inside it: `wav/S0002.tar.gz::train/S0002/x.wav`."""

REJECT_REASONS = (
    "missing_audio",
    "missing_text",
    "duplicate_key",
    "empty_text",
    "unknown_unit",
    "unreadable",
    "empty_audio",
    "truncated",
    "not_finite",
    "silent",
    "too_short",
    "too_long",
    "too_few_frames",
    "bad_segment",
    "command_in_wav_scp",
)


@dataclass(frozen=True, slots=True)
class Utterance:
    """One recording, or a segment of one, with what is said in it."""

    key: str
    audio: str
    """Path relative to the corpus folder, or absolute; `ARCHIVE::MEMBER` inside an archive."""
    text: str
    """As the corpus has it, not normalised."""
    speaker: str
    split: str
    corpus: int = 0
    """Index into Manifest.roots."""
    start_s: float = 0.0
    end_s: float | None = None
    """End of the segment in seconds; None: the end of the file."""
    size: int = 0
    """Bytes of the audio file; 0 where unknown."""


@dataclass(frozen=True, slots=True)
class Reject:
    """One utterance left out, and why."""

    key: str
    split: str
    audio: str
    reason: str
    """One of REJECT_REASONS."""
    detail: str = ""
    text: str | None = None
    """What is said, by which decoding counts a test utterance; None where nobody knows."""
    speaker: str = ""

    def normalized(self, rule: Callable[[str], str]) -> "Reject":
        """The same with its text, where that is known, changed by a rule."""
        return self if self.text is None else replace(self, text=rule(self.text))


@dataclass(frozen=True)
class Manifest:
    """What one or several corpora hold."""

    roots: tuple[str, ...]
    """Absolute folders, one per corpus."""
    utterances: tuple[Utterance, ...]
    rejects: tuple[Reject, ...] = ()

    def audio_path(self, utterance: Utterance) -> str:
        """Where the audio of an utterance is, absolute."""
        return str(Path(self.roots[utterance.corpus], utterance.audio))

    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have utterances, the usual three first."""
        there = {utterance.split for utterance in self.utterances}
        known = [split for split in SPLITS if split in there]
        return (*known, *sorted(there.difference(SPLITS)))


def check_manifest(manifest: Manifest) -> Manifest:
    """Move duplicate keys, and empty text in train and dev, to the rejects.

    Of several utterances with one key the first stays, within a corpus and over corpora. Other
    splits keep empty text: nothing leaves the denominator of a test.
    """
    first: dict[str, Utterance] = {}
    kept: list[Utterance] = []
    rejects = list(manifest.rejects)
    for utterance in manifest.utterances:
        earlier = first.setdefault(utterance.key, utterance)
        if earlier is not utterance:
            detail = f"{manifest.audio_path(earlier)} in {earlier.split} has this key too"
            rejects.append(reject(utterance, "duplicate_key", detail))
        elif not is_test(utterance.split) and not utterance.text.strip():
            rejects.append(reject(utterance, "empty_text"))
        else:
            kept.append(utterance)
    return Manifest(manifest.roots, tuple(kept), tuple(rejects))


def is_test(split: str) -> bool:
    """Whether a split is one whose errors are reported, from which nothing may be left out."""
    return split not in ("train", "dev")


def reject(utterance: Utterance, reason: str, detail: str = "") -> Reject:
    """The reject that takes the place of an utterance."""
    named = utterance.key, utterance.split, utterance.audio
    return Reject(*named, reason, detail, utterance.text, utterance.speaker)
