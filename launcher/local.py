"""Jobs on this machine: the verb runs as a child process."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from launcher.plan import Plan, make_plan
from launcher.spec import JobSpec
from rayasr.errors import LaunchError

STOP_GRACE_S = 120.0
"""Seconds between asking a command to stop and killing it, as SageMaker gives."""

RAYASR = (sys.executable, "-m", "rayasr")
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class LocalBackend:
    """Runs a job's command here, on this machine's own Ray or the cluster at RAY_ADDRESS."""

    def __init__(
        self,
        environment: Mapping[str, str],
        program: Sequence[str] = RAYASR,
        stop_grace_s: float = STOP_GRACE_S,
    ) -> None:
        self._environment = dict(environment)
        self._program = tuple(program)  # tests pass another one
        self._stop_grace_s = stop_grace_s

    def plan(self, job: JobSpec) -> Plan:
        """The job with the channels' `local_path` folders; raises LaunchError where one lacks."""
        return make_plan(job, "local", local_folders(job))

    def submit(self, plan: Plan, notes: Callable[[str], None]) -> int:
        """Run the command; its exit code, 128 + N where signal N ended it; raises LaunchError."""
        for name, folder in plan.channels.items():
            check_folder(name, Path(folder), plan.job.channels[name].access)
        address = self._environment.get("RAY_ADDRESS")
        notes(f"{plan.job.name}: on {f'the Ray cluster {address}' if address else 'this machine'}")
        code = self._run(plan)
        if code < 0:
            name = signal.Signals(-code).name
            hint = "; was there enough memory?" if name == "SIGKILL" else ""
            notes(f"{plan.job.name}: the command was ended by {name}{hint}")
            return 128 - code
        if code == 0 and plan.model is not None and Path(plan.model).is_dir():
            notes(f"{plan.job.name}: the model is in {plan.model}")
        return code

    def _run(self, plan: Plan) -> int:
        """The child's return code; raises LaunchError at the time limit."""
        try:
            # A process group of its own: Ctrl-C then reaches the child once, through us.
            child = subprocess.Popen(
                [*self._program, *plan.arguments],
                env=self._environment | dict(plan.environment),
                process_group=0,
            )
        except OSError as error:
            raise LaunchError(f"cannot start the command: {error.strerror or error}") from error
        with _forwarding_signals(child):
            try:
                return child.wait(plan.time_limit_s)
            except subprocess.TimeoutExpired:
                self._stop(child)
        raise LaunchError(
            f"job {plan.job.name} was stopped at its time limit of {plan.job.time_limit}; run it "
            "again to go on where it was, or give --set time_limit=TIME"
        )

    def _stop(self, child: "subprocess.Popen[bytes]") -> None:
        """Ask the child to stop, and end its process group where it does not."""
        child.terminate()
        try:
            child.wait(self._stop_grace_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def local_folders(job: JobSpec) -> dict[str, str]:
    """Each channel's folder on this machine; raises LaunchError where one has none."""
    folders = {}
    for name, channel in job.channels.items():
        if channel.local_path is None:
            raise LaunchError(
                f"channel '{name}' has no folder on this machine; add it to the job file, or "
                f"give --set channels.{name}.local_path=DIR"
            )
        folders[name] = str(Path(channel.local_path).expanduser())
    return folders


def check_folder(name: str, folder: Path, access: str) -> None:
    """See that a channel's folder is there, making it where the job writes; raises LaunchError."""
    if access == "write":
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(
                f"channel '{name}': cannot make {folder}: {error.strerror}; choose another folder"
            ) from error
    elif not folder.exists():
        raise LaunchError(
            f"channel '{name}': there is no {folder}; give --set channels.{name}.local_path=DIR, "
            "or 'access: write' if the job makes it"
        )


@contextmanager
def _forwarding_signals(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Pass SIGINT, SIGTERM and SIGHUP on to the child, which decides what they mean."""

    def forward(number: int, _frame: FrameType | None) -> None:
        child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
