"""ONNX files in ONNX Runtime and in sherpa-onnx against our own decoding, utterance by utterance.

    python benchmarks/check_onnx.py RUN CORPUS [--splits dev test] [--repeat 1]

Exports RUN with all files (`force`) into a temporary folder and transcribes the splits from audio.
"same" counts texts that are ours, with the checkpoint on rayasr's features: full context for
model.onnx, chunks of 16 with 4 left chunks for the streaming files and WeNet's three. sherpa-onnx
adds random noise to whole utterances, so it is asked `--repeat` times and every answer counts.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from rayasr.checkpoint import LoadedModel, load_model
from rayasr.config import CorpusConfig, Mode
from rayasr.corpora.read import read_corpora
from rayasr.data.audio import load_audio
from rayasr.data.fbank import Fbank
from rayasr.data.manifest import Utterance
from rayasr.decode.recognizer import Decoding, Recognizer
from rayasr.export.info import read_info
from rayasr.export.onnx import export_onnx
from rayasr.export.onnx_runtimes import OnnxRuntime, SherpaRuntime
from rayasr.score import score_texts

MODES: tuple[Mode, ...] = ("ctc_greedy_search", "ctc_prefix_beam_search", "attention_rescoring")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("corpus")
    parser.add_argument("--splits", nargs="+", default=["dev", "test"])
    parser.add_argument("--repeat", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load_model(options.run)
    utterances, samples = read(loaded, options.corpus, options.splits)
    references = {item.key: item.text for item in utterances}
    unit = loaded.recipe.decode.unit

    def row(name: str, runtime: str, mode: str, texts: Sequence[str], ours: Sequence[str]) -> None:
        same = sum(a == b for a, b in zip(texts, ours, strict=True))
        found = dict(zip(references, texts, strict=True))
        counts = score_texts(references, found, unit).counts
        print(
            f"{name:26} {runtime:13} {mode:24} {same:4} of {len(ours):<4} "
            f"{counts.errors:4} of {counts.reference_units}",
            flush=True,
        )

    print(f"{loaded.recipe.name}: {len(samples)} utterances of {' and '.join(options.splits)}")
    print(f"front end: {loaded.recipe.features.describe_front_end()}")
    print(f"{'file':26} {'runtime':13} {'mode':24} {'same':>12} errors")
    ours = {}
    for chunks in ((-1, -1), (16, 4)):
        ours[chunks] = decode(loaded, samples, *chunks)
        for mode in MODES:
            title = "checkpoint, full" if chunks[0] < 0 else f"checkpoint, {chunks[0]}/{chunks[1]}"
            row(title, "rayasr", mode, ours[chunks][mode], ours[chunks][mode])
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(options.run, folder, int8=True, force=True, notes=lambda _: None)
        info = read_info(folder)
        for model in info.models:
            expected = ours[model.chunk_size, model.left_chunks]
            for mode in MODES if model.kind == "wenet_trio" else MODES[:2]:
                runtime = OnnxRuntime(Path(folder), replace(info, mode=mode), model)
                texts = [runtime.transcribe(wave) for wave in samples]
                row(model.name, runtime.name, mode, texts, expected[mode])
            if model.kind != "wenet_trio":
                sherpa = SherpaRuntime(Path(folder), info, model)
                for _ in range(options.repeat):
                    texts = [sherpa.transcribe(wave) for wave in samples]
                    row(model.name, sherpa.name, MODES[0], texts, expected[MODES[0]])
        print(f"ONNX Runtime {runtime.version}, sherpa-onnx {sherpa.version}")


def read(
    loaded: LoadedModel, corpus: str, splits: Sequence[str]
) -> tuple[list[Utterance], list[Tensor]]:
    """The utterances of some splits and their samples at the model's rate."""
    manifest = read_corpora(
        [CorpusConfig(path=corpus)],
        dev_fraction=loaded.recipe.store.dev_fraction,
        seed=loaded.recipe.seed,
        notes=lambda _: None,
    )
    root, rate = Path(manifest.roots[0]), loaded.recipe.features.sample_rate
    found = [item for item in manifest.utterances if item.split in splits]
    return found, [load_audio(root / u.audio, rate, u.start_s, u.end_s) for u in found]


def decode(
    loaded: LoadedModel, samples: Sequence[Tensor], chunk_size: int, left_chunks: int
) -> dict[Mode, list[str]]:
    """The checkpoint's texts by mode, one utterance at a time."""
    decoding = Decoding.of(loaded, chunk_size=chunk_size, left_chunks=left_chunks)
    recognizer, fbank = Recognizer(loaded, decoding), Fbank(loaded.recipe.features)
    texts: dict[Mode, list[str]] = {mode: [] for mode in MODES}
    for wave in samples:
        found = recognizer.decode_batch([fbank(wave)], MODES).hypotheses
        for mode in MODES:
            texts[mode].append(recognizer.text(found[mode][0]))
    return texts


if __name__ == "__main__":
    main()
