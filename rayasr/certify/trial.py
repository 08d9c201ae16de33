"""One trial of an export: each model in each runtime and context, beside the checkpoint."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rayasr.certify.certificate import Outcome, Reference, Row, context_name
from rayasr.certify.checkpoint_runtime import CheckpointRuntime
from rayasr.certify.int8_advice import Lost, advise
from rayasr.certify.int8_runtime import Int8Maker
from rayasr.certify.probe import Drift, Probe, probe_seconds
from rayasr.certify.recordings import Recordings
from rayasr.certify.runtime import OpenRuntime, Runtime, open_runtimes
from rayasr.checkpoint import LoadedModel
from rayasr.config import Mode
from rayasr.errors import CheckpointError, RayasrError, first_line
from rayasr.export.info import ExportedModel, ExportInfo, file_sizes
from rayasr.logs import progress
from rayasr.score import RATE_NAMES, score_texts

CHUNK_SIZE, LEFT_CHUNKS = 16, 4
"""Context in which a model that leaves its context open is tried, beside full context."""


@dataclass(frozen=True)
class _Heard:
    """What a runtime heard in the split."""

    texts: Mapping[str, str]
    errors: Mapping[str, int]
    """By utterance."""
    outcome: Outcome


class Trial:
    """The checkpoint, the split, and what was already found out about both."""

    def __init__(
        self,
        folder: Path,
        info: ExportInfo,
        loaded: LoadedModel,
        recordings: Recordings,
        max_loss: float,
    ) -> None:
        self._folder, self._info = folder, info
        self._loaded, self._recordings, self._max_loss = loaded, recordings, max_loss
        self._settings = [item for model in info.models for item in self._contexts(model)]
        self._int8 = Int8Maker(folder, info, loaded)
        self._probe = Probe(loaded, recordings.strung(probe_seconds(loaded, self._settings)))
        self._heard: dict[tuple[Mode, int, int], _Heard] = {}
        self._lossy: list[tuple[Row, ExportedModel, _Heard]] = []

    def rows(self, force: bool) -> Iterator[Row]:
        """Every model in every runtime and context, one after the other.

        Raises CheckpointError for what a runtime cannot run, ConfigError for one that is missing.
        """
        for model in self._settings:
            with _named(model.name):
                runtimes = open_runtimes(self._folder, self._info, model, force=force)
            for runtime in runtimes:
                yield self._row(runtime, model)

    def references(self) -> tuple[Reference, ...]:
        """What the rows were compared with, and the default mode in the same contexts."""
        for _, *context in list(self._heard):
            self._reference(self._info.mode, *context)
        return tuple(Reference(*asked, heard.outcome) for asked, heard in self._heard.items())

    def int8_advice(self) -> str:
        """What to leave out of the int8 model that loses most; '' where none loses too much."""
        if not self._lossy:
            return ""
        row, model, heard = max(self._lossy, key=lambda item: item[0].loss)
        ours = self._reference(row.mode, row.chunk_size, row.left_chunks)
        more = {key: heard.errors[key] - ours.errors[key] for key in heard.texts}
        worse = {key: count for key, count in more.items() if count > 0}
        references = self._recordings.references
        lost = [
            Lost(key, samples, references[key], ours.errors[key], worse[key])
            for key, samples in self._recordings.of(worse)
        ]
        allowed = self._max_loss / 100 * row.outcome.reference_units
        return advise(self._int8, model, row.mode, lost, allowed)

    def _contexts(self, model: ExportedModel) -> list[ExportedModel]:
        """The model with each context that it is to be tried in."""
        is_open = model.chunk_size <= 0 and model.kind in ("torchscript", "wenet_checkpoint")
        if is_open and self._loaded.recipe.model.encoder.can_stream:
            return [model, replace(model, chunk_size=CHUNK_SIZE, left_chunks=LEFT_CHUNKS)]
        return [model]

    def _row(self, runtime: Runtime, model: ExportedModel) -> Row:
        context = model.chunk_size, model.left_chunks
        title = f"{model.name} in {runtime.name}, {context_name(*context)}"
        drift: Drift | None = None
        faults: list[str] = []
        with _named(title):
            if isinstance(runtime, OpenRuntime):
                drift, faults = self._probe.faults(runtime, model, self._int8)
            heard = self._hear(runtime, title)
        ours = self._reference(runtime.mode, *context)
        row = Row(
            model=model.name,
            runtime=runtime.name,
            version=runtime.version,
            front_end=runtime.front_end,
            precision=model.precision,
            mode=runtime.mode,
            chunk_size=model.chunk_size,
            left_chunks=model.left_chunks,
            size_bytes=sum(file_sizes(self._folder, model.files).values()),
            outcome=heard.outcome,
            checkpoint=ours.outcome,
            agreeing=sum(text == ours.texts[key] for key, text in heard.texts.items()),
            utterances=len(heard.texts),
            largest_difference=drift.largest if drift is not None else None,
            faults=(),
        )
        if row.loss > self._max_loss:
            rate = RATE_NAMES[self._loaded.recipe.decode.unit].upper()
            faults.append(
                f"loses {row.loss:.2f} points: {rate} {row.outcome.rate:.2f} % against "
                f"{row.checkpoint.rate:.2f} %, {self._max_loss:g} allowed"
            )
            if model.precision == "int8" and isinstance(runtime, OpenRuntime):
                self._lossy.append((row, model, heard))
        return replace(row, faults=tuple(faults))

    def _reference(self, mode: Mode, chunk_size: int, left_chunks: int) -> _Heard:
        """The checkpoint in one mode and context, decoded once."""
        asked = mode, chunk_size, left_chunks
        if asked not in self._heard:
            title = f"checkpoint, {mode}, {context_name(chunk_size, left_chunks)}"
            self._heard[asked] = self._hear(CheckpointRuntime(self._loaded, *asked), title)
        return self._heard[asked]

    def _hear(self, runtime: Runtime, title: str) -> _Heard:
        """Decode the split, one recording at a time as a client would."""
        recordings = self._recordings
        runtime.transcribe(recordings.strung(1.0))  # compiles, allocates
        texts: dict[str, str] = {}
        cpu_s = audio_s = 0.0
        with progress(title, len(recordings)) as bar:
            for key, samples in recordings:
                started = time.process_time()
                texts[key] = runtime.transcribe(samples)
                cpu_s += time.process_time() - started
                audio_s += len(samples) / recordings.sample_rate
                bar.update(len(texts))
        unit = self._loaded.recipe.decode.unit
        score = score_texts(recordings.references, texts, unit, recordings.speakers)
        counts, errors = score.counts, {item.key: item.counts.errors for item in score.utterances}
        factor = round(cpu_s / audio_s, 6)
        outcome = Outcome(round(counts.rate, 4), counts.errors, counts.reference_units, factor)
        return _Heard(texts, errors, outcome)


@contextmanager
def _named(title: str) -> Iterator[None]:
    """What a runtime throws, as a sentence: it is not our code, so it may be anything."""
    try:
        yield
    except RayasrError:
        raise
    except Exception as error:
        raise CheckpointError(f"{title} cannot run: {first_line(error)}; export again") from error
