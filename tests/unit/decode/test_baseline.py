"""Recordings to hypotheses with WeNet's trained model, features ours: its text and its errors."""

import json

import pytest

from rayasr.config import CorpusConfig
from rayasr.decode.recognizer import Decoding
from rayasr.decode.split import decode_split
from rayasr.score import read_text_file

MODES = ("ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring")


@pytest.mark.parametrize(("split", "chunk_size"), [("test", -1), ("dev", 16)])
def test_digits_are_wenets(trained, shared, tmp_path, split, chunk_size):
    corpus = CorpusConfig(path=str(shared / "data" / "fsdd_aishell"))
    recipe = trained.recipe.model_copy(update={"corpora": (corpus,)})
    decoding = Decoding(chunk_size=chunk_size, ctc_weight=0.3, reverse_weight=0.5)
    results = decode_split(trained, recipe, split, MODES, tmp_path, decoding=decoding)
    baseline = json.loads((shared / "parity" / "u2pp_trained" / "baseline.json").read_text())
    part = baseline["results"][f"{split}/{'full' if chunk_size < 0 else 'chunk16'}"]
    for mode in MODES:
        ours, wenet = results[mode], part["errors"][mode]
        assert ours["errors"] == wenet["total"]
        assert [ours[kind] for kind in ("sub", "ins", "del")] == [
            wenet[kind] for kind in ("sub", "ins", "del")
        ]
        assert ours["reference_units"] == part["ref_digits"]
        assert read_text_file(tmp_path / split / mode / "hyp") == part["hyps"][mode]
