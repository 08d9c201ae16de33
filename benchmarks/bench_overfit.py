"""Whether the path from real recordings to text has a hole: a small model must learn them by heart.

    python benchmarks/bench_overfit.py ../shared/data/aishell_real --out /tmp/overfit

The digits model at 16 kHz, nothing random, no dev split in the way; decodes what it was trained on.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

OVERRIDES = (
    "features.sample_rate=16000",
    "features.num_mel_bins=80",
    "augment.speeds=[1.0]",
    "augment.spec_augment=null",
    "batch.max_padded_frames=1200",
    "model.encoder.dropout_rate=0",
    "model.encoder.positional_dropout_rate=0",
    "model.decoder.dropout_rate=0",
    "model.ctc_weight=0.5",
    "optim.lr=0.002",
    "optim.weight_decay=0",
    "average.best=1",
)


def main() -> None:
    """Prepare, train and decode the training split; prints its CER by mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus")
    parser.add_argument("--out", type=Path, default=Path("runs/overfit"))
    parser.add_argument("--epochs", type=int, default=150)
    arguments = parser.parse_args()
    run, overrides = arguments.out / "run", [*OVERRIDES, f"train.epochs={arguments.epochs}"]
    # One validation, at the end: the model that is kept is the last, not the best on dev.
    overrides.append(f"train.validate_every_epochs={arguments.epochs}")
    settings = [word for override in overrides for word in ("--set", override)]
    recipe = "configs/digits.yaml"
    prepare = ["data", "prepare", recipe, "--corpus", arguments.corpus, *settings]
    rayasr(*prepare, "--out", str(arguments.out / "store"))
    store = ("--store", str(arguments.out / "store"))
    rayasr("train", recipe, *store, "--out", str(run), "--workers", "0", *settings)
    out = arguments.out / "decoded"
    modes = "ctc_greedy_search,attention_rescoring,attention"
    rayasr("decode", str(run), *store, "--split", "train", "--mode", modes, "--out", str(out))
    print(json.dumps(json.loads((out / "result.json").read_text()), indent=2))


def rayasr(*arguments: str) -> None:
    """Run a verb."""
    subprocess.run([sys.executable, "-m", "rayasr", *arguments], check=True)


if __name__ == "__main__":
    main()
