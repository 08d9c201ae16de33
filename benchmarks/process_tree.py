"""CPU seconds of a command and of all that it starts.

python benchmarks/process_tree.py COMMAND...     # prints them last
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(command: list[str]) -> float:
    """User and system seconds of a command and of all that it starts, daemons included.

    Ray does not wait for its workers, so their time reaches no parent: /proc is read instead, ten
    times a second, by a process that inherits all orphans.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, __file__, *command],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stdout}")
    return float(done.stdout.split()[-1])


def watch(command: list[str]) -> int:
    """Run a command and print the CPU seconds of its whole process tree."""
    become_subreaper = 36
    ctypes.CDLL(None).prctl(become_subreaper, 1, 0, 0, 0)
    process = subprocess.Popen(command)
    used: dict[int, int] = {}
    while process.poll() is None or descendants(os.getpid()).keys() - {process.pid}:
        used |= descendants(os.getpid())
        time.sleep(0.1)
        with contextlib.suppress(ChildProcessError):
            while process.returncode is not None and os.waitpid(-1, os.WNOHANG)[0]:
                pass
    print(sum(used.values()) / CLOCK_TICKS)
    return process.returncode


def descendants(root: int) -> dict[int, int]:
    """Clock ticks that each process below `root` has used itself."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(fields[1])
                ticks[int(folder.name)] = int(fields[11]) + int(fields[12])
    below = {root}
    for pid in sorted(parents):
        chain = [pid]
        while chain[-1] in parents and chain[-1] not in below:
            chain.append(parents[chain[-1]])
        if chain[-1] in below:
            below.update(chain)
    return {pid: ticks[pid] for pid in below if pid != root and pid in ticks}


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
