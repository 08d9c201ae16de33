"""What a job does when something breaks: three real hosts, real Ray, faults of the emulator.

    python benchmarks/bench_faults.py [--runner processes|namespaces] [--only NAME…]

Trains the digits model for a few epochs on `fsdd_aishell`, once undisturbed; each row breaks
something, starts the job again where that is what a user would do, and compares the model with the
undisturbed one's. Prints a Markdown table.
"""

import argparse
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster_jobs import Lines, Outcome, Place, cluster, rayasr

from launcher.emulator.faults import parse_fault
from tests.cloud_jobs import FILE_SYSTEM

RECIPE = "configs/digits.yaml"
DATA = "{channel:data}"
TRAIN = [
    *("--set", "train.epochs=2", "--set", "batch.micro_batches=3"),
    *("--set", "train.validate_every_steps=20", "--set", "optim.warmup_steps=20"),
    *("--set", "checkpoint.every_steps=5", "--set", "train.log_every_steps=1"),
]
AT = "log:dev at step 20 "
NOTICED = (" lost", "has ended", "going on from", "the job failed", "asked to stop", "no space")
"""What the first line about a fault may say."""


@dataclass
class Row:
    """One line of the table."""

    fault: str
    how: str
    reason: str = ""
    code: str = ""
    noticed: str = "–"
    trains_again: str = "–"
    repeated: str = "–"
    model: str = ""

    def markdown(self) -> str:
        cells = (self.fault, self.how, self.reason, self.code, self.noticed)
        return f"| {' | '.join((*cells, self.trains_again, self.repeated, self.model))} |"


class StepWatch:
    """Looks at a run's metrics.jsonl all the time: how many steps a resume throws away."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.repeated = 0

    def __enter__(self) -> "StepWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before = 0
        while not self._over.wait(0.05):
            step = self._last_step()
            # A resume cuts the file back to the checkpoint's step.
            self.repeated += max(0, before - step)
            before = step

    def _last_step(self) -> int:
        if not self._path.exists():
            return 0
        steps = re.findall(r'^{"step": (\d+),.*}$', self._path.read_text(), re.MULTILINE)
        return int(steps[-1]) if steps else 0


class Bench:
    """The undisturbed run, and what is measured against it."""

    def __init__(self, place: Place, logs: Path | None) -> None:
        self.place, self.logs = place, logs
        self.data = place.shared / "data"

    def train(self, name: str, **fields: Any) -> Outcome:
        """One training job into data/NAME; a second call goes on with it."""
        command = ["train", RECIPE, "--store", f"{DATA}/store", "--out", "{run}", *TRAIN]
        fields = {"command": command, "workers": "3", "run": f"{DATA}/{name}"} | fields
        return self.place.launch(name, **fields)

    def row(self, name: str, fault: str, how: str, *, times: int, **fields: Any) -> Row:
        """Train with a fault, as many times as a user would launch the job, and compare."""
        self.place.notes.clear()
        self.place.emulator.faults.clear()
        self.place.emulator.faults.add(parse_fault(how))
        run = self.place.shared / fields.pop("folder", f"data/{name}")
        with StepWatch(run / "metrics.jsonl") as watch:
            outcomes = [self.train(name, **fields) for _ in range(times)]
        self.keep(name, outcomes)
        row = Row(fault, how.replace(str(self.place.shared), ""))
        row.reason = str(outcomes[0].status.get("reason") or outcomes[0].status["status"])[:300]
        row.code = ", ".join(str(outcome.code) for outcome in outcomes)
        lines = [line for outcome in outcomes for line in outcome.log]
        struck = self.place.note_time(": fault ")
        row.noticed = after(struck, lines, NOTICED, ".1f")
        row.trains_again = after(struck, lines, ("first step after",), ".0f")
        row.repeated = str(watch.repeated)
        row.model = self.difference(run)
        return row

    def keep(self, name: str, outcomes: list[Outcome]) -> None:
        """All lines of a row's jobs, and what the emulator did, for a look."""
        if self.logs is None:
            return
        self.logs.mkdir(parents=True, exist_ok=True)
        lines = [*self.place.notes, *(line for outcome in outcomes for line in outcome.log)]
        text = "\n".join(f"{when:.2f} {line}" for when, line in sorted(lines))
        (self.logs / f"{name}.log").write_text(text)

    def difference(self, run: Path) -> str:
        """A run's model against the undisturbed one."""
        from safetensors.torch import load_file

        ours, other = (path / "model" / "model.safetensors" for path in (run, self.data / "calm"))
        if not ours.exists():
            return "no model"
        a, b = load_file(ours), load_file(other)
        worst = max(float((a[k] - b[k]).norm() / (b[k].norm() + 1e-12)) for k in b)
        return "bit-identical" if worst == 0 else f"{worst:.0e} of each tensor's norm"


def after(struck: float | None, lines: Lines, texts: tuple[str, ...], digits: str) -> str:
    """Seconds from the fault to the first line with one of the texts."""
    times = [when for when, line in lines if any(text in line for text in texts)]
    later = [when - struck for when in times if struck is not None and when > struck]
    return format(min(later), digits) if later else "–"


def fault(
    name: str, what: str, how: str, *, times: int = 1, **fields: Any
) -> Callable[[Bench], Row]:
    """A row: the job with a fault, launched again if that is what a user would do."""
    return lambda bench: bench.row(name, what, how, times=times, **fields)


def bad_recipe(bench: Bench) -> Row:
    """A recipe in a channel, which the launcher cannot check before it submits."""
    (bench.data / "bad.yaml").write_text("name: bad\nmodel: {encoder: {attention_heads: 7}}\n")
    command = ["train", f"{DATA}/bad.yaml", "--store", f"{DATA}/store", "--out", "{run}"]
    outcome = bench.train("bad", command=command)
    reason = str(outcome.status["reason"]).replace(str(bench.place.shared.parent), "…")
    return Row("bad recipe", "in a channel", reason, str(outcome.code), model="no model")


def full_disk(bench: Bench) -> Row:
    """A file system of 300 MB for the run, which is filled and has room again at the next start."""
    disk = bench.place.shared / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", disk], check=True)
    try:
        small = {"access": "write", "fsx": {"id": FILE_SYSTEM, "path": "/small"}}
        data = {"access": "write", "fsx": {"id": FILE_SYSTEM, "path": "/data"}}
        return bench.row(
            "full",
            "full disk",
            f"full-disk:{disk}@{AT}",
            times=2,
            channels={"data": data, "small": small},
            run="{channel:small}/run",
            folder="small/run",
        )
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


ROWS: dict[str, Callable[[Bench], Row]] = {
    "bad": bad_recipe,
    "worker": fault("worker", "worker process killed", f"kill-process:algo-2:RayTrainWorker@{AT}"),
    "head": fault("head", "head killed", f"kill-host:algo-1@{AT}", times=2),
    "strict": fault("strict", "host killed, strict", f"kill-host:algo-3@{AT}", times=2),
    "elastic": fault("elastic", "host killed, elastic", f"kill-host:algo-3@{AT}", workers="1:3"),
    "silent": fault("silent", "host silent, strict", f"silent-host:algo-3@{AT}", times=2),
    "raylet": fault("raylet", "raylet killed", f"kill-process:algo-2:raylet/raylet@{AT}", times=2),
    "gcs": fault("gcs", "GCS killed", f"kill-process:algo-1:gcs_server@{AT}", times=2),
    "noshow": fault("noshow", "host never comes", "no-show:algo-3"),
    "stop": fault("stop", "SIGTERM, resubmitted", f"stop@{AT}", times=2),
    "spot": fault(
        "spot", "spot interruption", f"spot@{AT}", place={"spot": True, "max_wait": "3h"}
    ),
    "full": full_disk,
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
            print(ROWS[row](bench).markdown(), flush=True)


if __name__ == "__main__":
    main()
