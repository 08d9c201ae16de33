"""Streaming equals the masked full pass, whatever pieces the audio comes in; events, endpoints."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from rayasr.checkpoint import new_model
from rayasr.data.audio import AudioError, load_audio
from rayasr.data.fbank import Fbank
from rayasr.data.online_fbank import OnlineFbank
from rayasr.decode.chunk_encoder import WARM_UP_FRAMES, ChunkEncoder
from rayasr.decode.endpoint import Endpointer, EndpointRules
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.decode.streaming import (
    STREAMING_MODES,
    StreamingRecognizer,
    StreamStats,
    recognize,
)
from rayasr.errors import ConfigError
from rayasr.model.u2 import build_model
from rayasr.model_config import ModelConfig

CHUNKS = list(itertools.product((4, 8, 16), (-1, 2, 0)))
ENCODERS = {
    "conformer": {},
    "absolute positions": {"positions": "absolute"},
    "transformer": {"kind": "transformer"},
    "conv2d6": {"subsampling": 6},
    "conv2d8": {"subsampling": 8},
    "batch norm": {"convolution_norm": "batch_norm"},
}
NEVER = EndpointRules(silence_s=math.inf, pause_s=math.inf, longest_s=math.inf)


def small_model(**encoder):
    sizes = {"output_size": 16, "linear_units": 32, "num_blocks": 2, "convolution_kernel": 5}
    config = ModelConfig.model_validate(
        {
            "encoder": sizes | {"subsampling_channels": 4} | encoder,
            "decoder": {"linear_units": 32, "num_blocks": 1, "r_num_blocks": 0},
        }
    )
    torch.manual_seed(1)
    return build_model(config, num_mel_bins=24, vocab_size=11, sos_eos_id=2).eval()


def chunks(encoder, features, piece=7):
    """All frames (T', D) that an encoder makes of features that come in pieces."""
    frames = []
    for part in features.split(piece):
        encoder.push(part)
        while (out := encoder.chunk()) is not None:
            frames.append(out)
    if (out := encoder.rest()) is not None:
        frames.append(out)
    return frames


@pytest.mark.parametrize(("chunk_size", "left_chunks"), CHUNKS)
@pytest.mark.parametrize("name", ENCODERS)
def test_chunks_equal_the_chunk_mask(name, chunk_size, left_chunks):
    model = small_model(**ENCODERS[name])
    generator = torch.Generator().manual_seed(0)
    for length in (0, 3, 6, 7, 10, 18, 19, 67, 90, 203):
        features = torch.randn(length, 24, generator=generator)
        found = chunks(ChunkEncoder(model, chunk_size, left_chunks), features)
        with torch.no_grad():
            if model.encoder.embed.output_length(length) == 0:
                assert found == []
                continue
            whole, _ = model.encode(features[None], torch.tensor([length]), chunk_size, left_chunks)
        assert {len(frames) for frames in found[:-1]} <= {chunk_size}
        torch.testing.assert_close(torch.cat(found), whole[0], rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(("chunk_size", "left_chunks"), CHUNKS)
def test_real_speech_equals_the_chunk_mask(trained, shared, chunk_size, left_chunks):
    samples = load_audio(shared / "data" / "samples" / "libri_1995-1837-0001.wav", 16000)
    online = OnlineFbank(trained.recipe.features)
    pieces = [online.accept(block) for block in samples.split(1234)]
    features = torch.cat([*pieces, online.finish()])
    assert torch.equal(features, Fbank(trained.recipe.features)(samples))
    with torch.no_grad():
        lengths = torch.tensor([len(features)])
        whole, _ = trained.model.encode(features[None], lengths, chunk_size, left_chunks)
    found = torch.cat(chunks(ChunkEncoder(trained.model, chunk_size, left_chunks), features, 31))
    torch.testing.assert_close(found, whole[0], rtol=0.0, atol=1e-4)


@pytest.mark.parametrize("chunk_size", [1, 4, 16])
def test_a_restart_hears_the_last_frames_again(chunk_size):
    model, again = small_model(), WARM_UP_FRAMES
    features = torch.randn(400, 24, generator=torch.Generator().manual_seed(0))
    encoder = ChunkEncoder(model, chunk_size, -1)
    encoder.push(features)
    for _ in range(5):
        encoder.chunk()
    encoder.restart()
    found = encoder.chunk()
    begin = 4 * (5 * chunk_size - again)  # of the new sequence, in fbank frames
    att_cache = cnn_cache = torch.zeros(0, 0, 0, 0)
    for start, end in ((0, again), (again, again + chunk_size)):
        window = features[None, begin + 4 * start : begin + 4 * end + 3]
        with torch.no_grad():
            expected, att_cache, cnn_cache = model.forward_encoder_chunk(
                window, start, -1, att_cache, cnn_cache
            )
    assert len(found) == chunk_size
    assert torch.equal(found, expected[0])


def speech(seconds, seed=0, rate=8000):
    """Noise in bursts, of which a model of random weights makes something else every time."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(round(seconds * rate), generator=generator) * 0.1
    loudness = torch.rand(math.ceil(seconds * 10), generator=generator).repeat_interleave(
        rate // 10
    )
    return samples * loudness[: len(samples)]


def listen(loaded, samples, decoding, mode, piece=800, rules=None):
    recognizer = StreamingRecognizer(loaded, decoding, mode, rules)
    return list(recognize(recognizer, iter(samples.split(piece)), StreamStats()))


@pytest.mark.parametrize("mode", STREAMING_MODES)
@pytest.mark.parametrize("left_chunks", [-1, 2])
def test_one_segment_equals_the_recognizer(tiny, mode, left_chunks):
    decoding = Decoding(chunk_size=4, left_chunks=left_chunks, beam_size=5, nbest=3)
    for seconds in (0.0, 0.02, 0.08, 0.3, 3.3):
        samples = speech(seconds)
        features = Fbank(tiny.recipe.features)(samples)
        expected = Recognizer(tiny, decoding).decode_batch([features], [mode]).nbests[mode][0]
        events = listen(tiny, samples, decoding, mode, rules=NEVER)
        finals = [event for event in events if event.kind == "final"]
        assert len(finals) == bool(expected[0].units)
        for final in finals:
            found = [reading.hypothesis for reading in final.nbest]
            assert [item.units for item in found] == [item.units for item in expected]
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.times == pytest.approx(theirs.times)
                assert ours.score == pytest.approx(theirs.score, abs=1e-3)
                assert ours.confidence == pytest.approx(theirs.confidence, abs=1e-3)
            assert final.start_s == 0.0
            assert seconds - 0.1 < final.end_s <= seconds


@pytest.mark.parametrize("mode", STREAMING_MODES)
def test_events_do_not_depend_on_the_pieces(tiny, mode):
    rules = EndpointRules(longest_s=2.0)
    samples = speech(9.0)
    decoding = Decoding(chunk_size=4, beam_size=5)
    wanted = listen(tiny, samples, decoding, mode, 9 * 8000, rules)
    finals = [event for event in wanted if event.kind == "final"]
    assert len(finals) >= 4
    for piece in (97, 333, 8000) if mode == "ctc_greedy_search" else (333,):
        assert listen(tiny, samples, decoding, mode, piece, rules) == wanted
    ends = [0.0, *(event.end_s for event in finals)]
    for event, before in zip(finals, ends, strict=False):
        assert event.start_s >= before
        assert event.end_s - event.start_s <= 2.0 + 4 * 0.04
        times = event.nbest[0].hypothesis.times
        assert all(event.start_s <= time <= event.end_s for time in times)


def test_what_is_stable_stays(tiny):
    events = listen(tiny, speech(8.0), Decoding(chunk_size=4, beam_size=4), "attention_rescoring")
    assert {event.kind for event in events} == {"partial", "final"}
    for event, later in itertools.pairwise(events):
        if event.kind == "partial":
            assert later.stable.startswith(event.stable)
            assert later.start_s == event.start_s
            assert later.end_s > event.end_s
    assert any(event.stable for event in events if event.kind == "partial")


def test_silence_is_no_event(tiny):
    samples = torch.zeros(8000 * 12)
    with torch.no_grad():
        silent = replace(tiny, model=small_model_for(tiny))
        silent.model.ctc.ctc_lo.weight.zero_()
        silent.model.ctc.ctc_lo.bias.zero_()
        silent.model.ctc.ctc_lo.bias[0] = 9.0
    for mode in STREAMING_MODES:
        assert listen(silent, samples, Decoding(chunk_size=16), mode) == []


def small_model_for(loaded):
    return new_model(loaded.recipe, loaded.tokenizer).eval()


def test_rules():
    rules = EndpointRules()

    def end(frames, said):
        """Frame at which a segment of these blank probabilities ends, chunks of 1; None: never."""
        endpointer = Endpointer(rules, 0.04)
        for i, probability in enumerate(frames):
            endpointer.advance([probability])
            if endpointer.has_ended(said):
                return i + 1
        return None

    assert end([0.9] * 200, said=False) == 125  # 5 s
    assert end([0.9] * 200, said=True) == 25  # 1 s
    assert end([0.7] * 600, said=False) == 500  # 20 s
    assert end(([0.9] * 24 + [0.1]) * 30, said=True) == 500
    assert end([0.1] * 10 + [0.9] * 25, said=True) == 35


def test_real_digits(trained, shared):
    """The digits of several recordings with pauses between come out one segment each."""
    folder = shared / "data" / "fsdd_aishell" / "data_aishell"
    lines = next(folder.rglob("*transcript*.txt")).read_text(encoding="utf-8").splitlines()
    texts = dict(line.split(" ", 1) for line in lines)
    files = sorted((folder / "wav" / "test").rglob("*.wav"))[:3]
    pause = torch.zeros(round(1.8 * 16000))
    parts = [part for file in files for part in (load_audio(file, 16000), pause)]
    events = listen(trained, torch.cat(parts), Decoding(chunk_size=16), "ctc_prefix_beam_search")
    finals = [event.text for event in events if event.kind == "final"]
    assert finals == [texts[file.stem].replace(" ", "") for file in files]


def test_audio_that_breaks_off_is_finished_first(tiny):
    def blocks():
        yield from speech(2.0).split(800)
        raise AudioError("x.flac is truncated")

    recognizer = StreamingRecognizer(tiny, Decoding(chunk_size=4))
    stats, events = StreamStats(), []
    with pytest.raises(AudioError, match="truncated"):
        events.extend(recognize(recognizer, blocks(), stats))
    assert events[-1].kind == "final"
    assert stats.audio_s == pytest.approx(2.0)
    whole = listen(tiny, speech(2.0), Decoding(chunk_size=4), None)
    assert events == whole


def test_stats(tiny):
    stats = StreamStats()
    recognizer = StreamingRecognizer(tiny, Decoding(chunk_size=4))
    events = list(recognize(recognizer, iter(speech(2.0).split(800)), stats))
    assert recognizer.lookahead_s == pytest.approx(0.045)  # 3 frames, and a window's 15 ms more
    heard_s = events[0].end_s + 0.045
    assert heard_s < stats.first_text_s < heard_s + stats.compute_s
    assert stats.compute_s > 0.0


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"dynamic_chunk": False}, "trained on full context only and cannot stream"),
        ({"causal_convolution": False}, "convolution looks ahead"),
    ],
)
def test_a_model_that_cannot_stream_is_refused(tiny, encoder, message):
    model = tiny.recipe.model
    changed = model.model_copy(update={"encoder": model.encoder.model_copy(update=encoder)})
    loaded = replace(tiny, recipe=tiny.recipe.model_copy(update={"model": changed}))
    with pytest.raises(ConfigError, match=message):
        StreamingRecognizer(loaded, Decoding(chunk_size=4))


def test_full_context_and_the_attention_mode_are_refused(tiny):
    with pytest.raises(ConfigError, match="full context cannot stream"):
        StreamingRecognizer(tiny, Decoding())
    with pytest.raises(ConfigError, match="needs the whole recording; to stream choose one of"):
        StreamingRecognizer(tiny, Decoding(chunk_size=4), "attention")
