"""Search against the encoder's own time, WeNet's trained U2++ of ../shared/parity, batch 1.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_search.py
Prints CPU seconds per encoder frame of both sides, and their ratio; aims: prefix beam 10 <= 0.2,
rescoring <= 0.6. Beside them `transcribe` from the wav files (8 kHz, resampled) to text.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from wenet_models import load_wenet  # noqa: E402  (the loader that parity tests use)

from rayasr.config import Mode  # noqa: E402
from rayasr.decode.attention_search import attention_beam  # noqa: E402
from rayasr.decode.ctc_search import ctc_greedy, ctc_prefix_beam  # noqa: E402
from rayasr.decode.recognizer import Decoding, Recognizer  # noqa: E402
from rayasr.decode.rescoring import score_nbest  # noqa: E402
from rayasr.decode.transcribe import transcribe  # noqa: E402


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median CPU seconds of one call, after a warm-up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return statistics.median(times)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    folder = ROOT.parent / "shared" / "parity" / "u2pp_trained"
    loaded = load_wenet(folder)
    model = loaded.model
    fixture = np.load(folder / "fixture.npz")
    ends = np.cumsum(fixture["feats_lengths"])[:-1]
    features = [torch.from_numpy(part)[None] for part in np.split(fixture["feats"], ends)]
    encoded = [model.encode(item, torch.tensor([item.shape[1]])) for item in features]
    inputs = [(model.ctc_log_probs(out), lengths) for out, lengths in encoded]
    frames = sum(int(lengths) for _, lengths in encoded)
    wide = [
        (torch.nn.functional.pad(log_probs, (0, 4220), value=-25.0), lengths)
        for log_probs, lengths in inputs
    ]
    nbests = [ctc_prefix_beam(*item, 10) for item in inputs]
    corpus = ROOT.parent / "shared" / "data" / "fsdd_aishell" / "data_aishell" / "wav"
    keys = json.loads((folder / "fixture.json").read_text())["keys"]
    files = [next(corpus.rglob(f"{key}.wav")) for key in keys]
    recognizer = Recognizer(loaded, Decoding(ctc_weight=0.3))

    def transcribe_each(mode: Mode) -> list[object]:
        return [list(transcribe(recognizer, [file], mode, loaded.recipe)) for file in files]

    works: dict[str, Callable[[], object]] = {
        "encoder": lambda: [model.encode(f, torch.tensor([f.shape[1]])) for f in features],
        "ctc layer": lambda: [model.ctc_log_probs(out) for out, _ in encoded],
        "greedy": lambda: [ctc_greedy(*item) for item in inputs],
        "prefix beam 10": lambda: [ctc_prefix_beam(*item, 10) for item in inputs],
        "prefix beam 4": lambda: [ctc_prefix_beam(*item, 4) for item in inputs],
        "prefix beam 10, 4,233 units": lambda: [ctc_prefix_beam(*item, 10) for item in wide],
        "rescoring (after prefix)": lambda: [
            score_nbest(model, nbest, *item) for nbest, item in zip(nbests, encoded, strict=True)
        ],
        "attention beam 10": lambda: [attention_beam(model, *item, 10) for item in encoded],
        "transcribe, greedy": lambda: transcribe_each("ctc_greedy_search"),
        "transcribe, prefix beam 10": lambda: transcribe_each("ctc_prefix_beam_search"),
        "transcribe, rescoring": lambda: transcribe_each("attention_rescoring"),
    }
    base = 0.0
    print(f"{len(features)} utterances, {frames} encoder frames, one thread, median of {repeats}")
    for name, work in works.items():
        per_frame = cpu_seconds(work, repeats) / frames * 1e6
        base = base or per_frame
        print(f"{name:30s} {per_frame:8.1f} us a frame   {per_frame / base:6.3f} of the encoder")


if __name__ == "__main__":
    main()
