"""Streaming on long recordings: equality with the masked pass, latency, real-time factor, memory.

Run: OMP_NUM_THREADS=1 python benchmarks/bench_streaming.py [--model RUN] [RECORDING ...]
Without --model it is WeNet's trained U2++ of ../shared/parity; without recordings the 54 s and the
272 s ones of ../shared/data/samples. Each row of the second table is a process of its own.

The first text of audio that comes as it is spoken is there after the audio that its chunk needs
(chunk arithmetic: end of the chunk, 3 more fbank frames, the rest of the last window) and the
computing since the last of that audio came (measured; audio comes in blocks of 0.1 s).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from wenet_models import load_wenet  # noqa: E402  (the loader that parity tests use)

from rayasr.checkpoint import LoadedModel, load_model  # noqa: E402
from rayasr.data.audio import load_audio  # noqa: E402
from rayasr.data.fbank import Fbank  # noqa: E402
from rayasr.data.online_audio import file_samples  # noqa: E402
from rayasr.data.online_fbank import OnlineFbank  # noqa: E402
from rayasr.decode.chunk_encoder import ChunkEncoder  # noqa: E402
from rayasr.decode.recognizer import Decoding  # noqa: E402
from rayasr.decode.streaming import StreamingRecognizer  # noqa: E402

SHARED = ROOT.parent / "shared"
RECORDINGS = [
    SHARED / "data" / "samples" / name for name in ("long_libri.ogg", "long_aishell_S0150.ogg")
]
CHUNKS = (4, 8, 16)
LEFT = (-1, 2, 0)
MODE = "attention_rescoring"


def load(model: str | None) -> LoadedModel:
    """A run's model, or WeNet's."""
    return load_model(model) if model else load_wenet(SHARED / "parity" / "u2pp_trained")


@torch.inference_mode()
def largest_differences(loaded: LoadedModel, path: Path) -> None:
    """Online fbank and chunks with caches against the whole recording and its chunk mask."""
    config = loaded.recipe.features
    samples = load_audio(path, config.sample_rate)
    features = Fbank(config)(samples)
    online = OnlineFbank(config)
    blocks = [online.accept(block) for block in file_samples(path, config.sample_rate)]
    streamed = torch.cat([*blocks, online.finish()])
    assert streamed.shape == features.shape
    equal = "equal bits" if torch.equal(streamed, features) else "other bits"
    print(f"\n{path.name}, {len(samples) / config.sample_rate:.1f} s: fbank has {equal}; encoder:")
    for chunk_size in CHUNKS:
        for left_chunks in LEFT:
            encoder = ChunkEncoder(loaded.model, chunk_size, left_chunks)
            encoder.push(streamed)
            frames = list(iter(encoder.chunk, None))
            rest = encoder.rest()
            found = torch.cat(frames if rest is None else [*frames, rest])
            lengths = torch.tensor([len(features)])
            whole = loaded.model.encode(features[None], lengths, chunk_size, left_chunks)[0][0]
            difference = float((found - whole).abs().max())
            left = "all" if left_chunks < 0 else left_chunks
            print(f"| {chunk_size} | {left} | {len(found)} | {difference:.1e} |", flush=True)


def resident_mb() -> float:
    """Memory of this process now."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def stream_once(loaded: LoadedModel, path: Path, chunk_size: int) -> dict[str, object]:
    """Recognise one recording in blocks of 0.1 s, with the defaults of `transcribe --stream`."""
    rate = loaded.recipe.features.sample_rate
    decoding = Decoding.of(loaded, chunk_size=chunk_size)
    quarter = sum(map(len, file_samples(path, rate))) // 4
    recognizer = StreamingRecognizer(loaded, decoding, MODE)
    memory, took, final_took, first = [], [], [], None
    heard = segments = 0
    cpu = time.process_time()
    for samples in file_samples(path, rate):
        started = time.perf_counter()
        events = recognizer.accept(samples)
        took.append(time.perf_counter() - started)
        heard += len(samples)
        kinds = [event.kind for event in events]
        segments += kinds.count("final")
        if "final" in kinds:
            final_took.append(took[-1])
        if events and first is None:
            first = events[0].end_s + recognizer.lookahead_s, took[-1]
        if heard >= quarter * (len(memory) + 1):
            memory.append(resident_mb())
    recognizer.finish()
    busy = sorted(took)[-len(took) // (chunk_size // 4) :]  # blocks that completed a chunk
    return {
        "audio_s": heard / rate,
        "segments": segments,
        "first": first,
        "real_time_factor": (time.process_time() - cpu) / (heard / rate),
        "chunk_ms": statistics.median(busy) * 1000,
        "worst_ms": max(took) * 1000,
        "final_ms": statistics.median(final_took) * 1000 if final_took else None,
        "memory": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="run or model folder")
    parser.add_argument("--chunk-size", type=int, help="only one row of the second table, as JSON")
    parser.add_argument("recordings", nargs="*", type=Path, default=RECORDINGS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    loaded = load(options.model)
    if options.chunk_size is not None:
        print(json.dumps(stream_once(loaded, options.recordings[0], options.chunk_size)))
        return
    print("| recording | chunk | first text: heard + computed | CPU s per s | chunk, worst ms |"
          " final ms | segments | MB at 25, 50, 75, 100 % |")  # fmt: skip
    for path in options.recordings:
        for chunk_size in CHUNKS:
            command = [sys.executable, __file__, str(path), "--chunk-size", str(chunk_size)]
            command += ["--model", options.model] if options.model else []
            row = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            first = "none" if row["first"] is None else "{:.3f} + {:.3f} s".format(*row["first"])
            final = "-" if row["final_ms"] is None else f"{row['final_ms']:.0f}"
            memory = ", ".join(f"{value:.0f}" for value in row["memory"])
            print(
                f"| {path.name} ({row['audio_s']:.0f} s) | {chunk_size} | {first} "
                f"| {row['real_time_factor']:.4f} | {row['chunk_ms']:.1f}, {row['worst_ms']:.1f} "
                f"| {final} | {row['segments']} | {memory} |",
                flush=True,
            )
    print("\n| chunk | left chunks | encoder frames | largest difference |")
    for path in options.recordings:
        largest_differences(loaded, path)


if __name__ == "__main__":
    main()
