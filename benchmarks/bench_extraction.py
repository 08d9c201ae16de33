"""What Ray Data costs per utterance beside the same function in a plain loop.

    python benchmarks/bench_extraction.py [--files 16000 48000] [--seconds 0.3]

Both sides turn the same short recordings into the same shards. CPU seconds are user and system of
the whole process tree, Ray's daemons included; start-up is the same for any number of files, so
what counts is the slope from the smaller number to the larger one. Also timed: a second
`prepare` over the finished store.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from process_tree import cpu_seconds

from rayasr.config import Recipe, dump_recipe, load_recipe

LIMIT_US = 250.0

PREPARE = """
import sys
from rayasr.config import load_recipe
from rayasr.ray_data import prepare_store
prepare_store(load_recipe(sys.argv[1]), sys.argv[2], notes=lambda _: None)
"""

LOOP = """
import os, sys
from rayasr.config import load_recipe
from rayasr.corpora.read import read_corpora
from rayasr.data.extraction import ExtractionSettings, make_shard
from rayasr.data.store_writer import finish_store, finished_shards, plan_store
recipe, out = load_recipe(sys.argv[1]), sys.argv[2]
os.makedirs(out + "/shards")
settings = dict(dev_fraction=recipe.store.dev_fraction, seed=recipe.seed, notes=lambda _: None)
plan = plan_store(read_corpora(recipe.corpora, **settings), recipe)
for spec in plan.specs:
    make_shard(spec, ExtractionSettings(recipe, plan.roots, out + "/shards"))
finish_store(out, recipe, plan, finished_shards(out + "/shards", plan))
"""


def main() -> None:
    """Print both sides, the slope of their difference and whether it holds the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, nargs=2, default=[16000, 48000])
    parser.add_argument("--seconds", type=float, default=0.3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(Path(folder), count, arguments.seconds) for count in arguments.files]
    small, large = results
    more = large["files"] - small["files"]
    slopes = {side: (large[side] - small[side]) / more * 1e6 for side in ("loop", "ray", "again")}
    extra = slopes["ray"] - slopes["loop"]
    for result in results:
        print(
            f"{result['files']:6,} files: loop {result['loop']:6.1f} CPU s, Ray Data "
            f"{result['ray']:6.1f} CPU s, run again {result['again']:4.1f} CPU s"
        )
    print(f"slope: loop {slopes['loop']:.0f}, Ray Data {slopes['ray']:.0f} µs per utterance")
    print(f"Ray Data costs {extra:.0f} µs per utterance more (limit {LIMIT_US:.0f})")
    print(json.dumps({"extra_us": round(extra, 1), "slopes_us": slopes, "runs": results}))


def measure(folder: Path, count: int, seconds: float) -> dict[str, float]:
    """CPU seconds of each side for so many files."""
    corpus = make_corpus(folder / "corpus", count, seconds)
    recipe = Recipe.model_validate(
        {
            "corpora": [{"path": str(corpus)}],
            "augment": {"speeds": [1.0]},
            "text": {"spaces": "keep"},
        }
    )
    file = folder / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(file) == recipe
    result = {"files": count}
    for side, program in (("loop", LOOP), ("ray", PREPARE), ("again", PREPARE)):
        out = folder / ("loop" if side == "loop" else "ray")
        result[side] = cpu_seconds([sys.executable, "-c", program, str(file), str(out)])
    same = subprocess.run(["diff", "-rq", folder / "loop", folder / "ray"], check=False)
    assert same.returncode == 0, "both sides must make the same store"
    for name in ("loop", "ray"):
        shutil.rmtree(folder / name)
    return result


def make_corpus(folder: Path, count: int, seconds: float) -> Path:
    """A Kaldi folder with `count` links to a few hundred recordings of noise; more are added."""
    import soundfile

    train = folder / "train"
    train.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(256):
        if not (path := train / f"noise{i}.wav").exists():
            samples = 0.1 * rng.standard_normal(round(16000 * seconds))
            soundfile.write(path, samples.astype(np.float32), 16000, subtype="PCM_16")
    keys = [f"utt{i:06d}" for i in range(count)]
    for i, key in enumerate(keys):
        link = train / f"{key}.wav"
        if not link.exists():
            os.link(train / f"noise{i % 256}.wav", link)
    (train / "wav.scp").write_text("".join(f"{key} {key}.wav\n" for key in keys))
    (train / "text").write_text("".join(f"{key} ab\n" for key in keys))
    (train / "utt2spk").write_text("".join(f"{key} s{i % 100}\n" for i, key in enumerate(keys)))
    return folder


if __name__ == "__main__":
    main()
