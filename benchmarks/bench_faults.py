"""What a job does when something breaks: three real hosts, real Ray, faults of the emulator.

    python benchmarks/bench_faults.py [--runner processes|namespaces] [--only NAME…]

Trains the digits model for a few epochs on `fsdd_aishell`, once undisturbed; each row breaks
something, starts the job again where that is what a user would do, and compares the model with the
undisturbed one's. Prints a Markdown table.
"""

import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_jobs import Outcome, Place, cluster, rayasr

from launcher.emulator.faults import parse_fault

RECIPE = "configs/digits.yaml"
DATA = "{channel:data}"
TRAIN = [
    *("--set", "train.epochs=2", "--set", "batch.micro_batches=3"),
    *("--set", "train.validate_every_steps=20", "--set", "optim.warmup_steps=20"),
    *("--set", "checkpoint.every_steps=5", "--set", "train.log_every_steps=5"),
]
AT = "log:dev at step 20 "


@dataclass
class Row:
    """One line of the table."""

    fault: str
    how: str
    reason: str = ""
    code: str = ""
    noticed: str = ""
    trains_again: str = ""
    repeated: str = ""
    model: str = ""

    def markdown(self) -> str:
        cells = (self.fault, self.how, self.reason, self.code, self.noticed)
        return f"| {' | '.join((*cells, self.trains_again, self.repeated, self.model))} |"


class Bench:
    """The undisturbed run, and what is measured against it."""

    def __init__(self, place: Place, logs: Path | None) -> None:
        self.place, self.logs = place, logs
        self.data = place.shared / "data"

    def train(self, name: str, *faults: str, recipe: str = RECIPE, **fields: Any) -> Outcome:
        """One training job into data/NAME; a second call goes on with it."""
        for fault in faults:
            self.place.emulator.faults.add(parse_fault(fault))
        command = ["train", recipe, "--store", f"{DATA}/store", "--out", "{run}", *TRAIN]
        fields = {"workers": "3", "run": f"{DATA}/{name}"} | fields
        return self.place.launch(name, command, **fields)

    def row(self, name: str, fault: str, how: str, *outcomes: Outcome) -> Row:
        """What the jobs of a row did; the fault struck in the first."""
        self.keep(name, outcomes)
        first = outcomes[0]
        struck = self.place.note_time(": fault ")
        row = Row(fault, how)
        row.reason = str(first.status.get("reason") or first.status.get("status", "refused"))[:300]
        row.code = ", ".join(str(outcome.code) for outcome in outcomes)
        said = (" lost", "has ended", "going on from", "the job failed", "asked to stop")
        times = [first.time_of(text) for text in said]
        noticed = min((when for when in times if when and struck and when > struck), default=None)
        if struck and noticed and noticed > struck:
            row.noticed = f"{noticed - struck:.1f}"
        steps, again = self.steps(outcomes)
        if struck and again and again > struck:
            row.trains_again = f"{again - struck:.0f}"
        row.repeated = str(steps)
        row.model = self.difference(name)
        return row

    def keep(self, name: str, outcomes: tuple[Outcome, ...]) -> None:
        """All lines of a row's jobs, and what the emulator did, for a look."""
        if self.logs is None:
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        lines = [*self.place.notes, *(line for outcome in outcomes for line in outcome.log)]
        text = "\n".join(f"{when:.2f} {line}" for when, line in sorted(lines))
        (self.logs / f"{name.replace('/', '-')}.log").write_text(text)

    def steps(self, outcomes: tuple[Outcome, ...]) -> tuple[int, float | None]:
        """Steps done twice (by the log), and when the first one after the fault was logged."""
        seen, repeated, again = 0, 0, None
        for outcome in outcomes:
            for when, line in outcome.log:
                if " step " not in line or "/" not in line or "audio-h/h" not in line:
                    if "first step after" in line and seen:
                        again = again or when
                    continue
                step = int(line.split(" step ")[1].split("/")[0])
                if step <= seen:
                    repeated = max(repeated, seen - step + 5)
                seen = max(seen, step)
        return repeated, again

    def difference(self, name: str) -> str:
        """The model against the undisturbed one."""
        from safetensors.torch import load_file

        ours, other = (self.data / run / "model" / "model.safetensors" for run in (name, "calm"))
        if not ours.exists():
            return "no model"
        a, b = load_file(ours), load_file(other)
        worst = max(float((a[k] - b[k]).norm() / (b[k].norm() + 1e-12)) for k in b)
        return "bit-identical" if worst == 0 else f"{worst:.0e} of each tensor's norm"


def bad_recipe(bench: Bench) -> Row:
    (bench.data / "bad.yaml").write_text("name: bad\nmodel: {encoder: {attention_heads: 7}}\n")
    outcome = bench.train("bad", recipe=f"{DATA}/bad.yaml")
    return bench.row("bad", "bad recipe", "in a channel, unseen by the launcher", outcome)


def fault(
    name: str, what: str, how: str, *, again: bool = False, **fields: Any
) -> Callable[[Bench], Row]:
    """A row: train with a fault, and once more if that is what a user would do."""

    def measure(bench: Bench) -> Row:
        outcomes = [bench.train(name, how, **fields)]
        if again:
            outcomes.append(bench.train(name, **fields))
        return bench.row(name, what, how, *outcomes)

    return measure


def out_of_memory(bench: Bench) -> Row:
    environment = {"RAY_memory_usage_threshold": "0.02", "RAY_memory_monitor_refresh_ms": "200"}
    outcome = bench.train("oom", environment=environment)
    return bench.row("oom", "out-of-memory worker", "Ray's memory monitor at 2 %", outcome)


def full_disk(bench: Bench) -> Row:
    disk = bench.data / "small"
    with small_disk(disk):
        path = f"{DATA}/small/run"
        how = f"full-disk:{disk}@{AT}"
        outcome = bench.train("full", how, run=path)
        return bench.row("small/run", "full disk", f"full-disk:RUN@{AT}", outcome)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of 300 MB, with a run of its own; needs root."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "bad": bad_recipe,
    "worker": fault("worker", "worker process killed", f"kill-process:algo-2:RayTrainWorker@{AT}"),
    "head": fault("head", "head killed", f"kill-host:algo-1@{AT}", again=True),
    "strict": fault("strict", "host killed, strict", f"kill-host:algo-3@{AT}", again=True),
    "elastic": fault("elastic", "host killed, elastic", f"kill-host:algo-3@{AT}", workers="1:3"),
    "silent": fault("silent", "host silent, strict", f"silent-host:algo-3@{AT}", again=True),
    "raylet": fault(
        "raylet", "raylet killed", f"kill-process:algo-2:raylet/raylet@{AT}", again=True
    ),
    "gcs": fault("gcs", "GCS killed", f"kill-process:algo-1:gcs_server@{AT}", again=True),
    "noshow": fault("noshow", "host never comes", "no-show:algo-3"),
    "stop": fault("stop", "SIGTERM, resubmitted", f"stop@{AT}", again=True),
    "spot": fault(
        "spot", "spot interruption", f"spot@{AT}", sagemaker={"spot": True, "max_wait": "1h"}
    ),
    "full": full_disk,
    "oom": out_of_memory,
    "names": fault("names", "slow name service", "slow-names@15s"),
    "capacity": fault("capacity", "no capacity", "capacity"),
}


def main() -> None:
    """All rows, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runner", default="processes")
    parser.add_argument("--corpus", default="../shared/data/fsdd_aishell", type=Path)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--keep", type=Path, help="leave all logs here")
    arguments = parser.parse_args()
    os.environ["RAYASR_BOOT_TIMEOUT_S"] = "60"
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="bf-"))
        place = stack.enter_context(cluster(Path(name), arguments.runner, grace_s=60.0))
        data = place.shared / "data"
        store = ("--corpus", str(arguments.corpus), "--out", str(data / "store"))
        rayasr("data", "prepare", RECIPE, *store)
        bench = Bench(place, arguments.keep)
        calm = bench.train("calm")
        print(f"undisturbed: exit code {calm.code}, {calm.seconds:.0f} s", flush=True)
        print(
            "| fault | how | FailureReason | exit | noticed, s | trains again, s | steps "
            "repeated | model |\n|---|---|---|---|---|---|---|---|",
            flush=True,
        )
        for row in arguments.only:
            place.notes.clear()
            place.emulator.faults.clear()
            print(ROWS[row](bench).markdown(), flush=True)


if __name__ == "__main__":
    main()
