"""Decode a whole split, score it and leave the files; choose a model's decoding settings on dev."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import kaldialign
import torch
from torch import Tensor

from rayasr import storage
from rayasr.checkpoint import LoadedModel, save_decoding
from rayasr.config import DECODE_MODES, DecodeConfig, Mode, Recipe
from rayasr.corpora.read import read_corpora
from rayasr.data.audio import AudioError, load_audio
from rayasr.data.batch_plan import fixed_batches
from rayasr.data.fbank import Fbank
from rayasr.data.manifest import Manifest, Reject, Utterance, is_test
from rayasr.data.store import Store
from rayasr.decode.hypothesis import Hypothesis
from rayasr.decode.recognizer import Decoded, Decoding, Nbests, Recognizer
from rayasr.decode.rescoring import ScoredNbest
from rayasr.decode.shards import MAX_PADDING, padding, shards_of
from rayasr.errors import DataError, RayasrError
from rayasr.logs import note, progress
from rayasr.score import UNIT_RULES, Score, alignment_text, score_texts, write_text_file
from rayasr.text import normalize_text, split_units

LOADED_AT_ONCE = 256
"""Recordings of a corpus folder in memory together; batches are made among them by length."""

Rows = Iterator[list[tuple[int, Tensor]]]
"""Batches of (position in the split, features)."""


@dataclass(frozen=True)
class Material:
    """What is to be decoded: a split of a store, or of a corpus folder."""

    name: str
    keys: Sequence[str]
    """Those that no batch names have no audio and get an empty hypothesis."""
    references: Mapping[str, str]
    speakers: Mapping[str, str]
    features: str
    """What the features are, for a person."""
    batches: Rows


def from_store(store: Store, split: str, max_padded_frames: int) -> Material:
    """A split of a store, with the store's features; raises DataError for one it lacks."""
    columns = store.split(split)
    speakers = [columns.speaker_names[i] for i in columns.speakers]
    shards = shards_of(store, split, max_padded_frames)

    def batches() -> Rows:
        for shard in shards:
            for rows in shard.batches:
                yield [(i, store.features(split, i)) for i in rows]

    known = list(zip(columns.keys, columns.texts, speakers, strict=True))
    kind = "float32 features" if store.info["payload"] == "pcm" else "the store's float16 features"
    features = f"{kind}, {padding(shards, columns.frames[:, 0]):.1%} padding"
    return _material(split, known, store.rejects, features, batches())


def from_corpora(recipe: Recipe, split: str, max_padded_frames: int) -> Material:
    """A split of the recipe's corpora, with float32 features computed from the recordings.

    A recording that cannot be used gets an empty hypothesis: its units count as deletions.
    """
    manifest, utterances = list_split(recipe, split)
    batches = _corpus_batches(manifest, utterances, recipe, max_padded_frames)
    return corpus_material(recipe, split, manifest, utterances, batches)


def list_split(recipe: Recipe, split: str) -> tuple[Manifest, list[Utterance]]:
    """The recipe's corpora, and a split's utterances in them; raises DataError for none."""
    manifest = read_corpora(
        recipe.corpora, dev_fraction=recipe.store.dev_fraction, seed=recipe.seed, notes=note
    )
    utterances = [item for item in manifest.utterances if item.split == split]
    if not utterances:
        there = ", ".join(manifest.splits()) or "none"
        raise DataError(f"{manifest.roots[0]} has no split '{split}'; it has {there}")
    return manifest, utterances


def corpus_material(
    recipe: Recipe, split: str, manifest: Manifest, utterances: Sequence[Utterance], batches: Rows
) -> Material:
    """What `list_split` found, with normalised references and a test's rejects, and `batches`."""
    rule = partial(normalize_text, config=recipe.text)
    known = [(item.key, rule(item.text), item.speaker) for item in utterances]
    rejects = [item.normalized(rule) for item in manifest.rejects]
    return _material(split, known, rejects, "float32 features", batches)


def _material(
    split: str,
    known: Sequence[tuple[str, str, str]],
    rejects: Iterable[Reject],
    features: str,
    batches: Rows,
) -> Material:
    """The utterances that `batches` has features of (key, text, speaker), and a test's rejects.

    Nothing leaves a test: what was rejected gets an empty hypothesis. Not counted are a second
    recording under a key that is there, and what was said in a recording whose text is missing.
    """
    keys = {key for key, _, _ in known}
    ours = [item for item in rejects if item.split == split and item.key not in keys]
    counted = {item.key: item for item in ours if is_test(split) and item.text is not None}
    left_out = {item.key: item for item in ours if item.key not in counted}
    _say_rejected(split, counted, "all of their text counts as deletions")
    hint = "; an older store lacks their texts, `rayasr data prepare` again keeps them"
    _say_rejected(split, left_out, f"they are not counted{hint if is_test(split) else ''}")
    rows = [*known, *((key, item.text or "", item.speaker) for key, item in counted.items())]
    return Material(
        split,
        [key for key, _, _ in rows],
        {key: text for key, text, _ in rows},
        {key: speaker for key, _, speaker in rows if speaker},
        features,
        batches,
    )


def _say_rejected(split: str, rejects: Mapping[str, Reject], how: str) -> None:
    if rejects:
        first = next(iter(rejects.values()))
        what = f"{len(rejects)} utterance(s) rejected, first {first.key} ({first.reason})"
        note(f"{split}: {what}; {how}")


def decode_split(
    loaded: LoadedModel,
    source: Store | Recipe,
    split: str,
    modes: Sequence[Mode],
    out: str | Path,
    *,
    decoding: Decoding | None = None,
    config: DecodeConfig | None = None,
) -> dict[str, dict[str, Any]]:
    """Decode and score one split of a store, or of a recipe's corpora; result.json's part by mode.

    Leaves OUT/SPLIT/MODE/{hyp, ref, alignments, utterances.jsonl}. All modes share one encoder
    pass. References are scored as text: a unit that the model lacks is an error. Without a `config`
    the bound of a batch and the scored unit are those of the model's recipe.
    """
    config = config or loaded.recipe.decode
    find = from_store if isinstance(source, Store) else from_corpora
    material = find(source, split, config.max_padded_frames)  # type: ignore[arg-type]
    decoded = decode_material(Recognizer(loaded, decoding), material, modes)
    return report_split(loaded, material, decoded.hypotheses, out, config)


def report_split(
    loaded: LoadedModel,
    material: Material,
    found: Mapping[Mode, Sequence[Hypothesis]],
    out: str | Path,
    config: DecodeConfig,
) -> dict[str, dict[str, Any]]:
    """Score what was found, in the order of `material.keys`, and leave it in OUT/SPLIT/MODE."""
    results: dict[str, dict[str, Any]] = {}
    split = material.name
    for mode, hypotheses in found.items():
        pairs = zip(material.keys, hypotheses, strict=True)
        texts = {key: loaded.tokenizer.decode(item.units) for key, item in pairs}
        score = score_texts(material.references, texts, config.unit, material.speakers)
        _write_mode(Path(out) / split / mode, material, texts, hypotheses, score)
        results[mode] = score.to_json()
        note(f"{split} {mode}: {score.sentence()}")
    rule = text_rule(loaded.recipe)
    note(f"{split}: counted in {UNIT_RULES[config.unit]}; {rule}; {material.features}")
    return results


def text_rule(recipe: Recipe) -> str:
    """How texts were normalised before scoring, for a person."""
    text = recipe.text
    parts = [f"case {text.case}" if text.case == "keep" else f"{text.case} case"]
    parts.append("punctuation " + ("removed" if text.punctuation == "remove" else "kept"))
    return "text NFKC, " + ", ".join(parts)


def write_result(
    out: str | Path, default_mode: str, splits: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Write OUT/result.json; raises DataError."""
    result = {"default_mode": default_mode, "splits": splits}
    storage.write_json(storage.join(out, "result.json"), result)
    return result


def choose_and_keep(loaded: LoadedModel, store: Store, config: DecodeConfig) -> LoadedModel:
    """The model with the settings of `choose_decoding`, which its folder keeps if it can."""
    chosen = choose_decoding(loaded, store, config)
    if chosen["chosen_on"]:
        weight = f"{chosen['default_mode']}, CTC weight {chosen['ctc_weight']:g} in rescoring"
        note(f"chosen on {chosen['chosen_on']}: {weight}")
    if chosen != loaded.decoding:
        try:
            save_decoding(loaded.path, chosen)
        except RayasrError as error:
            note(f"the choice is not kept: {error}")
    return replace(loaded, decoding=chosen)


def choose_decoding(
    loaded: LoadedModel, store: Store, config: DecodeConfig, split: str = "dev"
) -> dict[str, Any]:
    """Rescoring's CTC weight and the default mode with the fewest errors on dev: decoding.json.

    Equal errors: of modes the cheaper one; of weights the middle of the longest run of best ones,
    which is farthest from where errors begin (of two middles the larger).
    """
    chosen: dict[str, Any] = {
        "default_mode": config.modes[0],
        "ctc_weight": loaded.decoding.get("ctc_weight", 0.5),
        "reverse_weight": config.reverse_weight,
        "beam_size": config.beam_size,
        "chosen_on": None,
    }
    if split not in store.info["splits"] or not len(store.split(split)):
        note(f"the store has no {split} split; decoding settings stay {chosen['default_mode']}")
        return chosen
    settings = Decoding.of(loaded, beam_size=config.beam_size, reverse_weight=config.reverse_weight)
    recognizer = Recognizer(loaded, settings)
    material = from_store(store, split, config.max_padded_frames)
    modes = [mode for mode in DECODE_MODES if mode in config.modes]
    decoded = decode_material(recognizer, material, modes)
    count = _ErrorCounter(recognizer, material, config)
    errors = {mode: count.errors(decoded.hypotheses[mode]) for mode in modes}
    if "attention_rescoring" in modes:
        weights = tuple(sorted(set(config.ctc_weights))) or (float(chosen["ctc_weight"]),)
        by_weight = [count.rescored_errors(decoded.scored, weight) for weight in weights]
        best = middle_of_best(by_weight)
        chosen["ctc_weight"] = weights[best]
        errors["attention_rescoring"] = by_weight[best]
        chosen["errors_by_ctc_weight"] = dict(zip(map(str, weights), by_weight, strict=True))
    chosen["default_mode"] = min(modes, key=errors.__getitem__)  # ties: the first, the cheapest
    chosen |= {"chosen_on": split, "errors": errors, "reference_units": count.reference_units}
    return chosen


def middle_of_best(errors: Sequence[int]) -> int:
    """Position in the middle of the longest run of smallest values; of two the later one."""
    least = min(errors)
    longest, start = (0, 0), 0
    for i, value in enumerate([*errors, least + 1]):
        if value != least:
            longest = max(longest, (i - start, start), key=lambda run: run[0])
            start = i + 1
    length, first = longest
    return first + length // 2


class _ErrorCounter:
    """Errors of hypotheses for a split, each text compared once."""

    def __init__(self, recognizer: Recognizer, material: Material, config: DecodeConfig) -> None:
        self._recognizer = recognizer
        self._unit = config.unit
        self._reverse_weight = config.reverse_weight
        self._references = [
            split_units(material.references[key], config.unit) for key in material.keys
        ]
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}
        self.reference_units = sum(map(len, self._references))

    def errors(self, hypotheses: Sequence[Hypothesis]) -> int:
        return sum(self._one(i, item.units) for i, item in enumerate(hypotheses))

    def rescored_errors(self, scored: Sequence[ScoredNbest | None], ctc_weight: float) -> int:
        """Errors of what rescoring would choose with another CTC weight."""
        return sum(
            self._one(i, item.best(ctc_weight, self._reverse_weight).units if item else ())
            for i, item in enumerate(scored)
        )

    def _one(self, i: int, units: tuple[int, ...]) -> int:
        if (i, units) not in self._known:
            text = split_units(self._recognizer.tokenizer.decode(units), self._unit)
            distance = kaldialign.edit_distance(self._references[i], text)
            self._known[i, units] = int(distance["total"])
        return self._known[i, units]


def decode_material(recognizer: Recognizer, material: Material, modes: Sequence[Mode]) -> Decoded:
    """Decode everything, in the order of `material.keys`."""
    total = len(material.keys)
    nothing = [Hypothesis((), 0.0, ())]
    nbests: Nbests = {mode: [nothing] * total for mode in modes}
    scored: list[ScoredNbest | None] = [None] * total
    done = 0
    with progress(f"decode {material.name}", total) as bar:
        for batch in material.batches:
            found = recognizer.decode_batch([features for _, features in batch], modes)
            for position, (i, _) in enumerate(batch):
                scored[i] = found.scored[position]
                for mode in modes:
                    nbests[mode][i] = found.nbests[mode][position]
            done += len(batch)
            bar.update(done)
    return Decoded(nbests, scored)


def _corpus_batches(
    manifest: Manifest, utterances: Sequence[Utterance], recipe: Recipe, max_padded_frames: int
) -> Rows:
    fbank = Fbank(recipe.features)
    for start in range(0, len(utterances), LOADED_AT_ONCE):
        loaded = []
        for item in utterances[start : start + LOADED_AT_ONCE]:
            try:
                path = manifest.audio_path(item)
                rate = recipe.features.sample_rate
                loaded.append(fbank(load_audio(path, rate, item.start_s, item.end_s)))
            except AudioError as error:
                note(f"{item.key}: {error}; all of its text counts as deletions")
                loaded.append(torch.zeros(0, recipe.features.num_mel_bins))
        lengths = torch.tensor([len(features) for features in loaded]).numpy()
        for rows in fixed_batches(lengths, max_padded_frames, max_padding=MAX_PADDING):
            yield [(start + i, loaded[i]) for i in rows]


def _write_mode(
    folder: Path,
    material: Material,
    texts: Mapping[str, str],
    hypotheses: Sequence[Hypothesis],
    score: Score,
) -> None:
    write_text_file(folder / "hyp", texts)
    write_text_file(folder / "ref", material.references)
    storage.write_atomic(folder / "alignments", alignment_text(score))
    lines = []
    for item, hypothesis in zip(score.utterances, hypotheses, strict=True):
        counts = item.counts
        row = {
            "key": item.key,
            "speaker": material.speakers.get(item.key),
            "text": texts[item.key],
            "reference": material.references[item.key],
            "score": round(hypothesis.score, 6),
            "times": [round(t, 3) for t in hypothesis.times],
            "errors": counts.errors,
            "reference_units": counts.reference_units,
            "sub": counts.sub,
            "del": counts.dele,
            "ins": counts.ins,
        }
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    storage.write_atomic(folder / "utterances.jsonl", "".join(lines))
