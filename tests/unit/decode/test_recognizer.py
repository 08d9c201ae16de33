"""rayasr/decode/recognizer.py and the searches behind it, against WeNet and against themselves."""

import json

import numpy as np
import pytest
import torch

from rayasr.config import DECODE_MODES
from rayasr.decode.hypothesis import Hypothesis
from rayasr.decode.recognizer import Decoding, Recognizer
from tests.unit.decode.conftest import random_features

WENET = {"ctc_weight": 0.3, "reverse_weight": 0.5, "beam_size": 10}
CHUNKS = {"full": -1, "c16_lall": 16}


@pytest.fixture(scope="module")
def fixture(shared):
    folder = shared / "parity" / "u2pp_trained"
    arrays = np.load(folder / "fixture.npz")
    ends = np.cumsum(arrays["feats_lengths"])[:-1]
    features = [torch.from_numpy(part) for part in np.split(arrays["feats"], ends)]
    return features, json.loads((folder / "fixture.json").read_text())


@pytest.fixture(scope="module", params=list(CHUNKS))
def decoded(request, trained, fixture):
    features, facts = fixture
    recognizer = Recognizer(trained, Decoding(chunk_size=CHUNKS[request.param], **WENET))
    return recognizer.decode_batch(features, DECODE_MODES), facts["decode"][request.param], facts


def in_frames(hypothesis):
    return [round(time_s / 0.04) for time_s in hypothesis.times]


def test_greedy_is_wenets(decoded):
    found, wenet, _ = decoded
    ours = [list(item.units) for item in found.hypotheses["ctc_greedy_search"]]
    assert ours == [item["tokens"] for item in wenet["ctc_greedy_search"]]


@pytest.mark.parametrize("mode", ["ctc_prefix_beam_search", "attention_rescoring"])
def test_units_times_and_scores_are_wenets(decoded, mode):
    found, wenet, _ = decoded
    for ours, theirs in zip(found.hypotheses[mode], wenet[mode], strict=True):
        assert list(ours.units) == theirs["tokens"]
        assert in_frames(ours) == theirs["times"]
        assert ours.score == pytest.approx(theirs["score"], abs=1e-3)


def test_confidences_are_wenets(decoded):
    found, wenet, _ = decoded
    pairs = zip(found.hypotheses["attention_rescoring"], wenet["attention_rescoring"], strict=True)
    for ours, theirs in pairs:
        assert ours.confidence == pytest.approx(theirs["confidence"], abs=1e-3)
        assert ours.unit_confidences == pytest.approx(theirs["tokens_confidence"], abs=1e-3)


def test_attention_is_wenets(decoded):
    found, wenet, _ = decoded
    ours = found.hypotheses["attention"]
    assert [list(item.units) for item in ours] == [item["tokens"] for item in wenet["attention"]]
    assert [item.score for item in ours] == pytest.approx(wenet["attention_score"], abs=1e-3)


def test_nbest_is_wenets(decoded):
    found, wenet, facts = decoded
    assert len(wenet["nbest"]) == 2
    for key, theirs in wenet["nbest"].items():
        ours = found.scored[facts["keys"].index(key)]
        assert [list(item.units) for item in ours.nbest] == theirs["tokens"]
        assert [list(item.times) for item in ours.nbest] == theirs["times"]
        ctc = [item.score for item in ours.nbest]
        assert ctc == pytest.approx(theirs["ctc_scores"], abs=1e-3)
        left, right = ([sum(row) for row in rows] for rows in (ours.left, ours.right))
        assert left == pytest.approx(theirs["left_scores"], abs=1e-3)
        assert right == pytest.approx(theirs["right_scores"], abs=1e-3)
        assert ours.totals(0.3, 0.5) == pytest.approx(theirs["rescoring_total"], abs=1e-3)


def test_other_weights_beams_and_penalties_are_wenets(trained, fixture, decoded):
    features, _ = fixture
    found, wenet, _ = decoded
    variants = wenet["variants"]
    for ours, theirs in zip(found.scored, variants["rescoring_reverse_0_ctc_0"], strict=True):
        best = ours.best(0.0, 0.0)
        assert list(best.units) == theirs["tokens"]
        assert best.score == pytest.approx(theirs["score"], abs=1e-3)
    if wenet["attention_score"][0] < -4.2:  # the full-context part
        narrow = Recognizer(trained, Decoding(beam_size=4))
        prefix = narrow.decode_batch(features, ["ctc_prefix_beam_search"])
        for ours, theirs in zip(
            prefix.hypotheses["ctc_prefix_beam_search"], variants["prefix_beam_4"], strict=True
        ):
            assert list(ours.units) == theirs["tokens"]
            assert ours.score == pytest.approx(theirs["score"], abs=1e-3)
        penalised = Recognizer(trained, Decoding(beam_size=10, length_penalty=1.0))
        attention = penalised.decode_batch([features[1], features[5]], ["attention"])
        expected = [variants["attention_length_penalty_1"][i] for i in (1, 5)]  # those that end
        assert [list(h.units) for h in attention.hypotheses["attention"]] == expected


@pytest.mark.parametrize("chunk_size", [-1, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7])
def test_results_do_not_depend_on_the_batch(tiny, chunk_size, length_penalty):
    features = random_features(10)
    settings = Decoding(chunk_size=chunk_size, beam_size=4, length_penalty=length_penalty)
    recognizer = Recognizer(tiny, settings)
    together = recognizer.decode_batch(features, DECODE_MODES)
    for size in (1, 3):
        for first in range(0, len(features), size):
            part = recognizer.decode_batch(features[first : first + size], DECODE_MODES)
            for mode in DECODE_MODES:
                for i, ours in enumerate(part.hypotheses[mode]):
                    other = together.hypotheses[mode][first + i]
                    assert (ours.units, ours.times) == (other.units, other.times)
                    assert ours.score == pytest.approx(other.score, abs=1e-4)
    assert all(any(item.units for item in together.hypotheses[m]) for m in DECODE_MODES)


def test_nbest_of_every_mode(tiny):
    features = random_features(9)
    found = Recognizer(tiny, Decoding(beam_size=6, nbest=4)).decode_batch(features, DECODE_MODES)
    alone = Recognizer(tiny, Decoding(beam_size=6)).decode_batch(features, DECODE_MODES)
    for mode in DECODE_MODES:
        for nbest, best in zip(found.nbests[mode], alone.hypotheses[mode], strict=True):
            assert nbest[0] == best
            scores = [item.score for item in nbest]
            assert scores == sorted(scores, reverse=True)
            assert len({item.units for item in nbest}) == len(nbest)
            for item in nbest:
                assert len(item.unit_confidences) == len(item.units)
                assert all(0.0 < p <= 1.0 for p in (item.confidence, *item.unit_confidences))
                assert item.times == () or len(item.times) == len(item.units)
                assert list(item.times) == sorted(set(item.times))
        assert len(found.nbests[mode][7]) == (1 if mode == "ctc_greedy_search" else 4)
    ctc, rescored = (found.nbests[mode][7] for mode in DECODE_MODES[1:3])
    assert {item.units: item.times for item in rescored if item.units == ctc[0].units} in (
        {},
        {ctc[0].units: ctc[0].times},
    )


def test_attention_confidences_multiply_to_the_score(tiny):
    (nbest,) = (
        Recognizer(tiny, Decoding(beam_size=3, nbest=3))
        .decode_batch(random_features(1), ["attention"])
        .nbests["attention"]
    )
    for item in nbest:  # `<eos>` is in the score and is no unit
        assert sum(map(np.log, item.unit_confidences)) >= item.score - 1e-4
        assert item.confidence == pytest.approx(np.exp(item.score / (len(item.units) + 1)))


def test_too_short_is_empty(tiny):
    found = Recognizer(tiny).decode_batch([torch.zeros(6, 20), torch.zeros(0, 20)], DECODE_MODES)
    for mode in DECODE_MODES:
        assert found.hypotheses[mode] == [Hypothesis((), 0.0, ())] * 2
    assert found.scored == [None, None]


def test_attention_never_writes_more_units_than_frames(tiny):
    (features,) = random_features(1)
    found = Recognizer(tiny, Decoding(beam_size=3)).decode_batch([features], ["attention"])
    assert len(found.hypotheses["attention"][0].units) <= ((len(features) - 1) // 2 - 1) // 2


def test_a_beam_wider_than_the_vocabulary(tiny):
    features = random_features(3)
    found = Recognizer(tiny, Decoding(beam_size=40)).decode_batch(features, DECODE_MODES)
    assert found.hypotheses["attention"][0].score > -np.inf


def test_a_model_with_one_decoder_is_rescored_by_it(tiny):
    from dataclasses import replace

    from rayasr.model.u2 import build_model

    model = tiny.recipe.model
    u2 = model.model_copy(update={"decoder": model.decoder.model_copy(update={"r_num_blocks": 0})})
    torch.manual_seed(1)
    loaded = replace(
        tiny,
        model=build_model(u2, num_mel_bins=20, vocab_size=13, sos_eos_id=2).eval(),
        recipe=tiny.recipe.model_copy(update={"model": u2}),
    )
    found = Recognizer(loaded).decode_batch(random_features(3), ["attention_rescoring"])
    scored = found.scored[2]
    assert scored.right is None
    assert scored.best(0.5, 0.5).unit_confidences == scored.best(0.5, 0.0).unit_confidences
    assert scored.totals(0.5, 0.5) == scored.totals(0.5, 0.0)
