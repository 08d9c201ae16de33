"""Hosts as processes of this machine, each with a loopback address of its own; no root needed."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.contract import Host
from launcher.emulator import processes
from launcher.emulator.containers import INHERITED, PROGRAM, Cluster, Container, Task
from rayasr.errors import LaunchError


class ProcessRunner:
    """Hosts 127.0.0.2 and up; Ray listens on all addresses, so there is one job at a time."""

    interface = "lo"
    one_job_at_a_time = True

    def __init__(
        self, scratch: Path, environment: Mapping[str, str], program: Sequence[str] = PROGRAM
    ) -> None:
        self._scratch = scratch  # its path is short: Ray's sockets lie below it
        self._environment = {key: environment[key] for key in INHERITED if key in environment}
        self._program = tuple(program)

    def check(self) -> None:
        """See that there is /proc, by which a host's processes are found; raises LaunchError."""
        if not Path("/proc/self/environ").exists():
            raise LaunchError("the process runner needs Linux; give --runner docker")

    def make_cluster(self, name: str, hosts: Sequence[Host], names_known: bool) -> Cluster:
        """Give every host an address; nothing runs yet."""
        return _ProcessCluster(self, self._scratch / name, hosts, names_known)

    def launch(self, host: Host, environment: Mapping[str, str]) -> Container:
        """Start a host's first process, the leader of a session of its own."""
        home = host.folder / "home"
        home.mkdir()
        process = subprocess.Popen(
            self._program,
            cwd=home,
            env={**self._environment, "HOME": str(home), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return Container(process, _SessionControl(process, f"RAYASR_ML_ROOT={host.ml}"))


class _ProcessCluster:
    """The hosts of one attempt."""

    def __init__(
        self, runner: ProcessRunner, scratch: Path, hosts: Sequence[Host], names_known: bool
    ) -> None:
        self._runner = runner
        self._scratch = scratch
        self._addresses = ",".join(
            f"{host.name}=127.0.0.{number}" for number, host in enumerate(hosts, start=2)
        )
        self._names = None if names_known else hosts[0].folder.parent / "addresses"

    def start(self, host: Host, task: Task) -> Container:
        """Start a host."""
        for mount in host.mounts:
            (host.ml / mount.target).symlink_to(mount.source, target_is_directory=True)
        scratch = self._scratch / host.name.removeprefix("algo-")
        scratch.mkdir(parents=True)
        contract = {
            "RAYASR_ML_ROOT": str(host.ml),
            "RAYASR_HOST_ADDRESSES": f"@{self._names}" if self._names else self._addresses,
            "RAYASR_TMP": str(scratch),
        }
        return self._runner.launch(host, {**task.environment, **contract})

    def show_names(self) -> None:
        """Write the file that the hosts look their names up in."""
        if self._names is not None:
            part = self._names.with_suffix(".part")
            part.write_text(self._addresses, encoding="utf-8")
            part.replace(self._names)

    def close(self) -> None:
        """Nothing is shared."""


class _SessionControl:
    """Reaches a session, and what left it but still has the host's environment."""

    def __init__(self, process: "subprocess.Popen[bytes]", mark: str) -> None:
        self._process = process
        self._mark = mark

    def terminate(self) -> None:
        """SIGTERM to the first process alone."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL to all of them."""
        processes.kill_session(self._process.pid, self._mark)

    def members(self) -> list[int]:
        """All processes of the host."""
        return processes.of_session(self._process.pid, self._mark)
