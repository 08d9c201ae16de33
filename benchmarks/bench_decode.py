"""Decoding by workers: throughput beside one process, and three Ray nodes of which one is killed.

    python benchmarks/bench_decode.py RUN --store STORE [--split train,test]

All decode the same splits and must leave the same bytes. The nodes are processes on loopback
addresses, one CPU each; once half of the shards are there, all processes of the third are killed.
"""

import argparse
import filecmp
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from launcher.emulator.processes import kill_session
from launcher.host.ray_cluster import RAY, cluster_environment
from rayasr.checkpoint import find_model
from rayasr.config import load_recipe
from rayasr.data.store import Store
from rayasr.decode.parts import PARTS_FOLDER
from rayasr.decode.shards import padding, shards_of

NUM_NODES = 3
MODES = "ctc_greedy_search,attention_rescoring,attention"

LOOP = """
import sys
import torch
from rayasr.checkpoint import load_model
from rayasr.data.store import Store
from rayasr.decode.parts import DecodeJob, ShardDecoder
from rayasr.decode.recognizer import Decoding
from rayasr.decode.shards import shards_of
run, store, splits, modes, beam, out = sys.argv[1:]
torch.set_num_threads(1)
loaded, opened = load_model(run), Store.open(store)
decoding = Decoding.of(loaded, beam_size=int(beam))
decode = ShardDecoder(DecodeJob.of(loaded, opened, out, modes.split(","), decoding))
bound = loaded.recipe.decode.max_padded_frames
reports = [decode(shard) for name in splits.split(",") for shard in shards_of(opened, name, bound)]
print(sum(report.took_s for report in reports) / sum(report.audio_s for report in reports))
"""


@dataclass(frozen=True)
class Task:
    """What all sides decode, and where their results go."""

    run: Path
    store: Path
    splits: str
    beam: int
    folder: Path

    def decode(self, name: str, *options: str, **environment: str) -> tuple[float, str]:
        """Run `rayasr decode` into FOLDER/NAME: its seconds, and what it said."""
        command = [sys.executable, "-m", "rayasr", "decode", str(self.run), *self.options(name)]
        began = time.monotonic()
        done = subprocess.run(
            [*command, *options],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{name}: exit code {done.returncode}\n{done.stdout}")
        return seconds, done.stdout

    def options(self, name: str) -> list[str]:
        return [
            *("--store", str(self.store), "--split", self.splits, "--mode", MODES),
            *("--beam-size", str(self.beam), "--out", str(self.folder / name)),
        ]

    def loop(self) -> float:
        """Real-time factor of the shards in a plain loop, one thread."""
        parts = (str(self.store), self.splits, MODES, str(self.beam), str(self.folder / "loop"))
        command = [sys.executable, "-c", LOOP, str(self.run), *parts]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    def compared(self, name: str) -> str:
        """Files of NAME against those of the one process."""
        ours, theirs = self.folder / "alone", self.folder / name
        files = {
            p.relative_to(f).as_posix() for f in (ours, theirs) for p in f.rglob("*") if p.is_file()
        }
        same, other, missing = filecmp.cmpfiles(ours, theirs, files, shallow=False)
        return f"{len(same)} files equal, {len(other) + len(missing)} different"


class Node:
    """A Ray node of this machine at a loopback address of its own."""

    def __init__(self, number: int, head: str, token: str, folder: Path) -> None:
        self._mark = f"RAYASR_BENCH_NODE={os.getpid()}-{number}-{time.time_ns()}"
        name, _, value = self._mark.partition("=")
        environment = {
            **cluster_environment(os.environ, {}, token, None),
            "RAY_worker_niceness": "0",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_timeout_ms": "1000",
            "RAY_health_check_failure_threshold": "5",
            name: value,
        }
        address, _, port = head.rpartition(":")
        first = ("--head", f"--port={port}", "--include-dashboard=false")
        own = f"{address.rpartition('.')[0]}.{int(address.rpartition('.')[2]) + number}"
        scratch = folder / str(number)
        scratch.mkdir(parents=True)
        self._process = subprocess.Popen(
            [
                *(*RAY, "start", "--block", *(first if number == 0 else (f"--address={head}",))),
                *(f"--node-ip-address={own}", "--num-cpus=1", f"--temp-dir={scratch}"),
                *("--object-store-memory=200000000", "--disable-usage-stats"),
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Until it runs."""
        said = []
        for line in self._process.stdout or ():
            said.append(line)
            if "Ray runtime started" in line:
                threading.Thread(target=self._process.stdout.read, daemon=True).start()
                return
        raise SystemExit("a node did not start\n" + "".join(said))

    def kill(self) -> None:
        """SIGKILL to all of its processes."""
        kill_session(self._process.pid, self._mark)
        self._process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[dict[str, str], list[Node]]]:
    """Three nodes; yields what a command needs in its environment to join them."""
    with socket.socket() as probe:
        probe.bind(("127.0.1.1", 0))
        head = f"127.0.1.1:{probe.getsockname()[1]}"
    token = secrets.token_hex(32)
    with ExitStack() as stack:
        nodes = []
        for number in range(NUM_NODES):
            nodes.append(Node(number, head, token, folder))
            stack.callback(nodes[-1].kill)
            nodes[-1].wait()
        joins = {"RAY_ADDRESS": head, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        yield {**joins, "RAYASR_NUM_NODES": str(NUM_NODES)}, nodes


class Killer(threading.Thread):
    """Kills a node as soon as so many shards are there, and counts shards that come twice."""

    def __init__(self, node: Node, parts: Path, num_shards: int) -> None:
        super().__init__(daemon=True)
        self._node, self._parts, self._num_shards = node, parts, num_shards
        self.struck, self.rewritten = 0.0, 0

    def run(self) -> None:
        seen: dict[str, int] = {}
        while True:
            for part in self._parts.glob("[!.]*-*.json"):
                try:
                    written = part.stat().st_mtime_ns
                except FileNotFoundError:  # all are there and joined
                    return
                self.rewritten += seen.setdefault(part.name, written) != written
                seen[part.name] = written
            if not self.struck and len(seen) >= self._num_shards:
                self.struck = time.monotonic()
                self._node.kill()
            time.sleep(0.02)


def pace(said: str) -> float:
    """The real-time factor that a command with workers has named."""
    return float(re.findall(r"decoded .* real-time factor ([\d.]+) with", said)[-1])


def throughput(task: Task) -> None:
    """Workers on this machine against a loop over the same shards in one process."""
    factor = task.loop()
    print(f"one process, one thread: real-time factor {factor:.4f}", flush=True)
    for workers in (1, 2):
        name = f"workers{workers}"
        seconds, said = task.decode(name, "--workers", str(workers))
        print(
            f"{workers} workers: real-time factor {pace(said):.4f}, throughput "
            f"{factor / pace(said):.2f} of one process, {seconds:.1f} s in all; "
            f"{task.compared(name)}",
            flush=True,
        )


def nodes(task: Task, num_shards: int) -> None:
    """Three nodes, undisturbed and with one killed midway."""
    for name in ("calm", "killed"):
        with cluster(task.folder / name[0]) as (environment, members):
            killer = Killer(members[-1], task.folder / name / PARTS_FOLDER, num_shards // 2)
            if name == "killed":
                killer.start()
            began = time.monotonic()
            seconds, said = task.decode(name, "--workers", str(NUM_NODES), **environment)
        how = f", a node killed after {killer.struck - began:.1f} s" if killer.struck else ""
        print(
            f"{NUM_NODES} nodes{how}: {seconds:.1f} s, real-time factor {pace(said):.4f}, "
            f"finished shards repeated: {killer.rewritten} of {num_shards}; {task.compared(name)}",
            flush=True,
        )


def main() -> None:
    """All sides, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--split", default="train,test")
    parser.add_argument("--beam", type=int, default=10)
    parser.add_argument("--only", choices=("throughput", "nodes"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the nodes would stay
    store = Store.open(arguments.store)
    bound = load_recipe(find_model(arguments.run) / "recipe.yaml").decode.max_padded_frames
    num_shards = 0
    for name in arguments.split.split(","):
        cut, frames = shards_of(store, name, bound), store.split(name).frames[:, 0]
        num_shards += len(cut)
        share = padding(cut, frames)
        print(f"{name}: {len(frames)} utterances, {len(cut)} shards, padding {share:.1%}")
    with tempfile.TemporaryDirectory(prefix="bd-") as folder:
        task = Task(
            arguments.run.absolute(), store.path, arguments.split, arguments.beam, Path(folder)
        )
        seconds, _ = task.decode("alone", OMP_NUM_THREADS="1")
        print(f"one process, one thread: {seconds:.1f} s in all", flush=True)
        if arguments.only != "nodes":
            throughput(task)
        if arguments.only != "throughput":
            nodes(task, num_shards)


if __name__ == "__main__":
    main()
