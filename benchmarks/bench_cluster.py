"""Prepare, train and decode as jobs of three hosts, against the same on this machine; boot times.

    python benchmarks/bench_cluster.py [--runner processes|namespaces] [--boots 5]

Real recordings, real Ray over three hosts under the emulator, the launcher's command line. The
store must be the local one's byte for byte, the model and the hypotheses those of a local run with
as many workers and threads.
"""

import argparse
import filecmp
import shutil
import statistics
import tempfile
from pathlib import Path

from cluster_jobs import Outcome, Place, cluster, rayasr

RECIPE = "configs/digits.yaml"
TRAIN = [
    *("--set", "train.epochs=4", "--set", "batch.micro_batches=3"),
    *("--set", "train.validate_every_epochs=4", "--set", "optim.warmup_steps=20"),
]
DECODE = ["--split", "test", "--mode", "ctc_greedy_search,attention_rescoring"]
DATA = "{channel:data}"


def main() -> None:
    """Run all jobs, and print what is equal and how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", default="processes")
    parser.add_argument("--corpus", default="../shared/data/fsdd_aishell", type=Path)
    parser.add_argument("--boots", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bc-") as name:
        folder = Path(name)
        with cluster(folder, arguments.runner) as place:
            shutil.copytree(arguments.corpus, place.shared / "data" / "corpus")
            compare(place, folder / "local")
            boots(place, arguments.boots)


def compare(place: Place, local: Path) -> None:
    """The three verbs on three hosts and here."""
    ours = place.shared / "data"
    run = f"{DATA}/run"
    store = ("--store", f"{DATA}/store")
    corpus = ("--corpus", f"{DATA}/corpus")
    show(
        "prepare",
        place.launch("prepare", ["data", "prepare", RECIPE, *corpus, "--out", f"{DATA}/store"]),
    )
    show(
        "train",
        place.launch(
            "train", ["train", RECIPE, *store, "--out", "{run}", *TRAIN], run=run, workers="3"
        ),
    )
    show(
        "decode",
        place.launch(
            "decode", ["decode", "{run}", *store, *DECODE, "--out", f"{DATA}/decoded"], run=run
        ),
    )
    here = ("--store", f"{local}/store")
    rayasr("data", "prepare", RECIPE, "--corpus", f"{ours}/corpus", "--out", f"{local}/store")
    rayasr("train", RECIPE, *here, "--out", f"{local}/run", *TRAIN, "--workers", "3")
    rayasr("decode", f"{local}/run", *here, *DECODE, "--out", f"{local}/decoded")
    for what in ("store", "run/model", "decoded"):
        same, other = compared(ours / what, local / what)
        print(f"{what}: {same} files equal, different: {', '.join(other) or 'none'}")


def compared(a: Path, b: Path) -> tuple[int, list[str]]:
    """How many files of two folders are equal, and the names of the others."""
    names = {p.relative_to(f).as_posix() for f in (a, b) for p in f.rglob("*") if p.is_file()}
    names = {name for name in names if name != "lease.json"}
    _, other, missing = filecmp.cmpfiles(a, b, names, shallow=False)
    return len(names) - len(other) - len(missing), sorted(other + missing)


def boots(place: Place, times: int) -> None:
    """A verb that does nothing, again and again."""
    rows = []
    for _ in range(times):
        outcome = place.launch("boot", ["config", "show", RECIPE])
        start = outcome.log[0][0]
        ray = outcome.time_of("algo-1 | Ray runs") or 0.0
        up = outcome.time_of("hosts are up") or 0.0
        runs = outcome.time_of("algo-1 | runs rayasr") or 0.0
        done = outcome.time_of("the job is done") or 0.0
        gone = outcome.time_of("the job is done", last=True) or 0.0
        rows.append((ray - start, up - ray, runs - start, gone - done))
    names = ("head's Ray", "other hosts", "first line to the verb", "first to last host's end")
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name}: median {middle:.1f} s ({low:.1f}-{high:.1f})")


def show(what: str, outcome: Outcome) -> None:
    """One line on a job; raises SystemExit with its log where it failed."""
    if outcome.code:
        print("\n".join(line for _, line in outcome.log[-40:]))
        raise SystemExit(f"{what}: exit code {outcome.code}, {outcome.status.get('reason')}")
    up = outcome.time_of("hosts are up") or 0.0
    boot = up - outcome.log[0][0]
    print(f"{what}: exit code 0, {outcome.seconds:.0f} s in all, {boot:.1f} s to boot")


if __name__ == "__main__":
    main()
