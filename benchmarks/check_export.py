"""Exported files against our own decoding: same hypotheses at a chunk size, and what int8 costs.

    python benchmarks/check_export.py RUN STORE [--split test] [--chunk-size 16]

Exports RUN into a temporary folder and drives final.zip and final_quant.zip as WeNet's C++ runtime
does (chunks with caches, CTC search outside, rescoring by forward_attention_decoder), in every mode
that it has. The runtime drops a last window that holds a single encoder frame; such utterances are
counted. `rayasr certify` does the same from audio, for all formats.
"""

import argparse
import tempfile
from pathlib import Path

from rayasr.certify.torchscript_runtime import RuntimeDriver
from rayasr.checkpoint import load_model
from rayasr.data.store import Store
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.export.torchscript import FLOAT_FILE, INT8_FILE, export_torchscript, load_script
from rayasr.score import score_texts

MODES = ("ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("store")
    parser.add_argument("--split", default="test")
    parser.add_argument("--chunk-size", type=int, default=16)
    options = parser.parse_args()
    loaded, store = load_model(options.run), Store.open(options.store)
    split = store.split(options.split)
    features = [store.features(options.split, i) for i in range(len(split))]
    decoding = Decoding.of(loaded, chunk_size=options.chunk_size)
    recognizer = Recognizer(loaded, decoding)
    ours = {
        mode: [item.units for item in found]
        for mode, found in recognizer.decode_batch(features, MODES).hypotheses.items()
    }
    references = dict(zip(split.keys, split.texts, strict=True))
    unit = loaded.recipe.decode.unit
    with tempfile.TemporaryDirectory() as folder:
        report = export_torchscript(options.run, folder, int8=True, force=True)
        modules = {name: load_script(Path(folder) / name) for name in (FLOAT_FILE, INT8_FILE)}
    print(f"{len(split)} utterances of {options.split}, chunk {options.chunk_size}, {decoding}")
    print(f"log-probabilities of {FLOAT_FILE} within {report.max_difference[FLOAT_FILE]:.1g}")
    print(f"{'file':16} {'MB':>6}  {'mode':24} {'errors':>6}  {'of':>6}  other than ours")
    results = {"ours": ours}
    for name, module in modules.items():
        driver = RuntimeDriver(
            module,
            decoding.chunk_size,
            decoding.left_chunks,
            beam_size=decoding.beam_size,
            ctc_weight=decoding.ctc_weight,
            reverse_weight=decoding.reverse_weight,
        )
        results[name] = {mode: [driver.units(item, mode) for item in features] for mode in MODES}
        lost = sum(
            len(driver.encode(item)[1]) < loaded.model.encoder.embed.output_length(len(item))
            for item in features
        )
        print(f"{name}: the last encoder frame dropped in {lost} utterances")
    for name, found in results.items():
        for mode in MODES:
            texts = dict(zip(split.keys, map(loaded.tokenizer.decode, found[mode]), strict=True))
            counts = score_texts(references, texts, unit).counts
            other = sum(a != b for a, b in zip(found[mode], ours[mode], strict=True))
            size = f"{report.sizes[name] / 1e6:.2f}" if name in report.sizes else ""
            errors = f"{counts.errors:6}  {counts.reference_units:6}"
            print(f"{name:16} {size:>6}  {mode:24} {errors}  {other}")


if __name__ == "__main__":
    main()
