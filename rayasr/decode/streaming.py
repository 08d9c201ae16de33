"""Recognition while the audio comes in: partial results, endpoints, final results.

    samples → OnlineFbank → ChunkEncoder → CTC search ─ partial result after each chunk
                                  ↑             │
                               restart ←── endpoint: rescoring ─ final result

Memory does not grow: a segment ends after 20 s at the latest, and with it all that it kept.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rayasr.checkpoint import LoadedModel
from rayasr.config import Mode
from rayasr.data.audio import AudioError
from rayasr.data.online_fbank import OnlineFbank
from rayasr.decode.chunk_encoder import ChunkEncoder
from rayasr.decode.ctc_search import BLANK, GreedySearch, PrefixSearch
from rayasr.decode.endpoint import Endpointer, EndpointRules
from rayasr.decode.hypothesis import Hypothesis, best_of, shared_prefix
from rayasr.decode.recognizer import Decoding, Reading, Recognizer
from rayasr.decode.rescoring import score_nbest
from rayasr.errors import ConfigError
from rayasr.model_config import EncoderConfig

STREAMING_MODES: tuple[Mode, ...] = (
    "ctc_greedy_search",
    "ctc_prefix_beam_search",
    "attention_rescoring",
)


@dataclass(frozen=True, slots=True)
class Event:
    """What is known of a segment: partial, until more is heard, or final, which never changes."""

    kind: Literal["partial", "final"]
    start_s: float
    """Where the segment begins, in seconds of the stream."""
    end_s: float
    """How far it was heard."""
    nbest: tuple[Reading, ...]
    """Best first; a partial result is always CTC's. Times are those of the stream."""
    stable: str
    """The beginning of the text that all hypotheses of the beam share: no audio can change it."""

    @property
    def text(self) -> str:
        """What the best hypothesis says."""
        return self.nbest[0].text


@dataclass
class StreamStats:
    """What recognising a stream took."""

    audio_s: float = 0.0
    compute_s: float = 0.0
    first_text_s: float | None = None
    """Seconds from the start until the first text was there, for audio that comes as it is spoken:
    what of it had to be heard, and the computing since the last of that."""


@dataclass
class _Segment:
    """What is kept of the speech since the last endpoint."""

    start_s: float
    search: GreedySearch | PrefixSearch
    endpoint: Endpointer
    frames: list[Tensor] = field(default_factory=list)  # of the encoder, (T', D) each
    said: tuple[int, ...] = ()  # in the last partial result

    @property
    def num_frames(self) -> int:
        return sum(map(len, self.frames))


class StreamingRecognizer:
    """Recognises one stream of audio; `mode` None: the model's default.

    Raises ConfigError for a model that cannot stream, for full context and for the mode
    `attention`.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        decoding: Decoding,
        mode: Mode | None = None,
        rules: EndpointRules | None = None,
    ) -> None:
        check_streams(loaded.recipe.model.encoder)
        if decoding.chunk_size < 1:
            raise ConfigError("full context cannot stream; give a chunk size, such as 16")
        self._recognizer = Recognizer(loaded, decoding)
        self.sample_rate = loaded.recipe.features.sample_rate
        self._mode = _streaming_mode(mode or loaded.decoding["default_mode"])
        self._model, self._decoding = loaded.model, decoding
        self._rules = rules or EndpointRules()
        self._device = next(loaded.model.parameters()).device
        self._fbank = OnlineFbank(loaded.recipe.features)
        self._encoder = ChunkEncoder(loaded.model, decoding.chunk_size, decoding.left_chunks)
        self._segment = self._begin(0.0)

    @property
    def lookahead_s(self) -> float:
        """How much audio after its `end_s` a partial result needs."""
        features = self._fbank.config
        length, shift = features.window_samples
        return (self._encoder.lookahead * shift + length - shift) / features.sample_rate

    def accept(self, samples: Tensor) -> list[Event]:
        """What float32 samples (N,) at the model's rate bring to light."""
        self._encoder.push(self._fbank.accept(samples).to(self._device))
        return self._chunks()

    def finish(self) -> list[Event]:
        """What is left at the end of the stream."""
        self._encoder.push(self._fbank.finish().to(self._device))
        events = self._chunks()
        if (frames := self._encoder.rest()) is not None:
            self._hear(frames)
        return [*events, *self._final()]

    def describe(self, event: Event) -> dict[str, Any]:
        """For `--json`: the event with its best hypothesis, and the others if asked for."""
        rows = [self._recognizer.describe(reading) for reading in event.nbest]
        span = {"start_s": round(event.start_s, 3), "end_s": round(event.end_s, 3)}
        values = {"kind": event.kind} | span | rows[0]
        if event.kind == "partial":
            return values | {"stable": event.stable}
        return values | ({"nbest": rows} if self._decoding.nbest > 1 else {})

    def _chunks(self) -> list[Event]:
        events: list[Event] = []
        while (frames := self._encoder.chunk()) is not None:
            nbest = self._hear(frames)
            segment, said = self._segment, nbest[0].units
            if segment.endpoint.has_ended(said_something=bool(said)):
                events += self._final()
                self._segment = self._begin(self._end_s())
                self._encoder.restart()
            elif said != segment.said:
                segment.said = said
                events.append(self._partial(nbest))
        return events

    def _begin(self, start_s: float) -> _Segment:
        greedy = self._mode == "ctc_greedy_search"
        search = GreedySearch() if greedy else PrefixSearch(self._decoding.beam_size)
        return _Segment(start_s, search, Endpointer(self._rules, self._recognizer.frame_s))

    @torch.no_grad()
    def _hear(self, frames: Tensor) -> list[Hypothesis]:
        """Search the next encoder frames (T', D) of the segment; the n-best so far."""
        log_probs = self._model.ctc_log_probs(frames[None])[0]  # (T', V)
        segment = self._segment
        segment.search.advance(log_probs)
        segment.endpoint.advance(log_probs[:, BLANK].exp().tolist())
        segment.frames.append(frames)
        return segment.search.nbest()

    def _partial(self, nbest: list[Hypothesis]) -> Event:
        units = shared_prefix([item.units for item in best_of(nbest, len(nbest))])
        stable = self._recognizer.tokenizer.decode(units)
        return Event("partial", *self._span(), self._readings(nbest), stable)

    def _final(self) -> list[Event]:
        """The segment's final result, if anything was said."""
        nbest = self._segment.search.nbest()
        if not nbest[0].units and not self._segment.said:
            return []
        if self._mode == "attention_rescoring":
            frames = torch.cat(self._segment.frames)[None]  # (1, T', D)
            lengths = torch.tensor([frames.shape[1]], device=self._device)
            (scored,) = score_nbest(self._model, [nbest], frames, lengths)
            weights = self._decoding.ctc_weight, self._decoding.reverse_weight
            nbest = scored.ranked(*weights, self._decoding.nbest)
        readings = self._readings(nbest)
        return [Event("final", *self._span(), readings, readings[0].text)]

    def _readings(self, nbest: list[Hypothesis]) -> tuple[Reading, ...]:
        start_s, frame_s = self._segment.start_s, self._recognizer.frame_s
        return tuple(
            Reading(self._recognizer.text(item), item.placed(start_s, frame_s))
            for item in best_of(nbest, self._decoding.nbest)
        )

    def _span(self) -> tuple[float, float]:
        return self._segment.start_s, self._end_s()

    def _end_s(self) -> float:
        return self._segment.start_s + self._segment.num_frames * self._recognizer.frame_s


def recognize(
    recognizer: StreamingRecognizer, blocks: Iterator[Tensor], stats: StreamStats
) -> Iterator[Event]:
    """Events of a stream of samples (N,) at the model's rate; `stats` is filled in on the way.

    Where the audio breaks off, by an AudioError or Ctrl-C, what was heard is finished first.
    """
    broken: BaseException | None = None
    while True:
        try:
            samples = next(blocks, None)
        except (AudioError, KeyboardInterrupt) as error:
            samples, broken = None, error
        started = time.perf_counter()
        events = recognizer.finish() if samples is None else recognizer.accept(samples)
        took_s = time.perf_counter() - started
        stats.compute_s += took_s
        stats.audio_s += 0.0 if samples is None else len(samples) / recognizer.sample_rate
        first = next((event for event in events if event.text), None)
        if first is not None and stats.first_text_s is None:
            heard_s = min(first.end_s + recognizer.lookahead_s, stats.audio_s)
            stats.first_text_s = heard_s + took_s
        yield from events
        if samples is None:
            break
    if broken is not None:
        raise broken


def check_streams(encoder: EncoderConfig) -> None:
    """Raise ConfigError for an encoder that cannot work in chunks."""
    if not encoder.dynamic_chunk:
        raise ConfigError(
            "this model was trained on full context only and cannot stream; train one with "
            "model.encoder.dynamic_chunk"
        )
    if encoder.kind == "conformer" and not encoder.causal_convolution:
        raise ConfigError(
            "this model's convolution looks ahead, so it cannot stream; train one with "
            "model.encoder.causal_convolution"
        )


def _streaming_mode(mode: Mode) -> Mode:
    if mode not in STREAMING_MODES:
        raise ConfigError(
            f"mode '{mode}' needs the whole recording; to stream choose one of "
            f"{', '.join(STREAMING_MODES)}"
        )
    return mode
