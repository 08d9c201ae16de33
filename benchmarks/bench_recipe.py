"""What a recipe reaches on a corpus within how many CPU seconds of training.

    python benchmarks/bench_recipe.py configs/digits.yaml ../shared/data/fsdd_aishell --seeds 1 2 3

Runs `rayasr run` once per seed into --out; the CPU seconds are those of the training stage: user
and system of the whole process tree, Ray included. Settings are chosen on dev, never on test.
"""

import argparse
import json
import sys
from pathlib import Path

from process_tree import cpu_seconds


def main() -> None:
    """Train each seed and print errors by mode, their sums and the CPU seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("corpus")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--split", default="test")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        out = arguments.out / f"{Path(arguments.recipe).stem}-{seed}"
        command = [sys.executable, "-m", "rayasr", "run", arguments.recipe]
        command += ["--corpus", arguments.corpus, "--out", str(out), "--set", f"seed={seed}"]
        cpu_seconds([*command, "--until", "prepare"])
        used = cpu_seconds([*command, "--until", "train"])
        cpu_seconds(command)
        result = json.loads((out / "result.json").read_text())
        decoding = json.loads((out / "model" / "decoding.json").read_text())
        print(f"seed {seed}: {used:.0f} CPU s of training, default {result['default_mode']}")
        for mode, counts in result["splits"][arguments.split].items():
            weight = f" (CTC weight {decoding['ctc_weight']})" if "rescoring" in mode else ""
            rate = counts.get("cer", counts.get("wer"))
            errors, units = counts["errors"], counts["reference_units"]
            print(f"  {mode}{weight}: {errors} errors of {units}, {rate:.2f} %")


if __name__ == "__main__":
    main()
