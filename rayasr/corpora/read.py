"""Corpora in any known layout to one manifest; a dev split is made where there is none."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from rayasr.config import CorpusConfig
from rayasr.corpora import aishell, kaldi, librispeech, table, wenet_list
from rayasr.data.manifest import SPLITS, Manifest, Reject, Utterance, check_manifest
from rayasr.errors import DataError

READERS: dict[str, ModuleType] = {
    "aishell": aishell,
    "kaldi": kaldi,
    "wenet_list": wenet_list,
    "librispeech": librispeech,
    "table": table,
}
"""In the order in which `auto` looks; each has LOOKS_LIKE, find(path) and read(root, found, …)."""

FEWEST_SPEAKERS = 3
"""With fewer, holding one out for dev would take half of the training data or all of it."""


def read_corpora(
    corpora: Sequence[CorpusConfig],
    *,
    dev_fraction: float,
    seed: int,
    notes: Callable[[str], None],
) -> Manifest:
    """List the utterances of all corpora; raises DataError for one that is missing or empty.

    A corpus with training data and no dev split gives `dev_fraction` of its training speakers to
    dev, chosen by `seed`; notes say so.
    """
    if not corpora:
        raise DataError("no corpus given; name a folder with --corpus, or in the recipe's corpora")
    roots: list[str] = []
    utterances: list[Utterance] = []
    rejects: list[Reject] = []
    for index, corpus in enumerate(corpora):
        root, found_utterances, found_rejects = _read_corpus(corpus, notes)
        roots.append(str(root))
        if index > 0:
            found_utterances = [replace(item, corpus=index) for item in found_utterances]
        utterances += found_utterances
        rejects += found_rejects
    manifest = check_manifest(Manifest(tuple(roots), tuple(utterances), tuple(rejects)))
    for index in range(len(roots)):
        manifest = _with_dev(manifest, index, dev_fraction, seed, notes)
    return manifest


def _read_corpus(
    corpus: CorpusConfig, notes: Callable[[str], None]
) -> tuple[Path, list[Utterance], list[Reject]]:
    if "://" in corpus.path:
        raise DataError(f"{corpus.path} is not on a file system; copy or mount the corpus first")
    path = Path(corpus.path).expanduser().resolve()
    if not path.exists():
        raise DataError(f"corpus {path} does not exist; check --corpus or the recipe's corpora")
    readers = READERS if corpus.format == "auto" else {corpus.format: READERS[corpus.format]}
    root = path if path.is_dir() else path.parent
    for name, reader in readers.items():  # noqa: B007 (both are used below)
        if (found := reader.find(path)) is not None:
            break
    else:
        looked = "; ".join(reader.LOOKS_LIKE for reader in readers.values())
        empty = path.is_dir() and next(path.iterdir(), None) is None
        what = "is empty" if empty else "is no corpus that is known"
        raise DataError(f"{path} {what}; looked for {looked}")
    listing = reader.read(root, found, notes)
    if not listing.utterances and not listing.rejects:
        raise DataError(f"{path} (read as {name}) holds no utterance; add recordings and texts")
    notes(f"{path}: {name}, {_count(listing.utterances)}; {len(listing.rejects)} rejected")
    return root, listing.utterances, listing.rejects


def _count(utterances: Sequence[Utterance]) -> str:
    counts = Counter(item.split for item in utterances)
    order = [*(split for split in SPLITS if split in counts), *sorted(counts.keys() - set(SPLITS))]
    parts = ", ".join(f"{split} {counts[split]}" for split in order)
    return f"{len(utterances)} utterances" + (f" ({parts})" if parts else "")


def _with_dev(
    manifest: Manifest, index: int, fraction: float, seed: int, notes: Callable[[str], None]
) -> Manifest:
    """The manifest with a dev split for one corpus, where it has training data and no dev."""
    ours = [item for item in manifest.utterances if item.corpus == index]
    train = [item for item in ours if item.split == "train"]
    if not train or any(item.split == "dev" for item in ours):
        return manifest
    root = manifest.roots[index]
    speakers = {item.speaker for item in train}
    if len(train) < 2:
        notes(f"{root}: no dev split, and too little to make one")
        return manifest
    by_speaker = FEWEST_SPEAKERS <= len(speakers) < len(train)  # else one each, or not known
    groups = sorted(speakers) if by_speaker else [item.key for item in train]
    count = max(1, round(fraction * len(groups)))
    held_out = set(sorted(groups, key=lambda name: _draw(seed, name))[:count])
    moved = {item.key for item in train if (item.speaker if by_speaker else item.key) in held_out}
    kind = "speakers" if by_speaker else "utterances"
    few = not by_speaker and len(speakers) < len(train)
    why = f" (only {len(speakers)} speakers: dev shares them with train)" if few else ""
    notes(
        f"{root}: no dev split; {count} of {len(groups)} training {kind} ({len(moved)} utterances) "
        f"held out by seed {seed}{why}"
    )
    utterances = tuple(
        replace(item, split="dev") if item.corpus == index and item.key in moved else item
        for item in manifest.utterances
    )
    return Manifest(manifest.roots, utterances, manifest.rejects)


def _draw(seed: int, name: str) -> bytes:
    """A number that depends on nothing else, so that new utterances leave the old choice alone."""
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
