"""Hosts as Linux namespaces: own address, name, processes and /opt/ml; needs root, no image."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from launcher.contract import Host
from launcher.emulator import processes
from launcher.emulator.containers import INHERITED, PROGRAM, Cluster, Container, Task
from rayasr.errors import LaunchError

_ML = Path("/opt/ml")  # an empty folder outside; each host sees its own there
_SHARED_MEMORY = "2g"

# Stays outside the new process namespace, in which its child is process 1, to tell how that ends:
# `unshare --fork` would answer 1 to a SIGKILL.
_OUTSIDE = (
    "import subprocess, sys\n"
    "code = subprocess.call(sys.argv[1:])\n"
    "sys.exit(code if code >= 0 else 128 - code)"
)
_UNSHARE = ("unshare", "--mount", "--uts", "--ipc", "--pid", sys.executable, "-IS", "-c", _OUTSIDE)
# Arguments: the host's name, its /etc/hosts, its /opt/ml, the size of /dev/shm, then SOURCE,
# TARGET and OPTIONS of each mount, `--`, and the program, which becomes process 1.
_INSIDE = """set -e
mount -t proc proc /proc
hostname "$1"
mount --bind "$2" /etc/hosts
mount --bind /dev/null /etc/resolv.conf
mount --bind "$3" /opt/ml
mount -t tmpfs -o "size=$4" tmpfs /dev/shm
shift 4
while [ "$1" != -- ]; do
  mount --bind "$1" "$2"
  mount -o "remount,bind,$3" "$2"
  shift 3
done
shift
exec "$@"
"""


class NamespaceRunner:
    """Hosts 10.231.0.1 and up, in a network that each job has for itself, without a way out."""

    interface = "eth0"
    one_job_at_a_time = False

    def __init__(
        self,
        prefix: str,
        scratch: Path,
        environment: Mapping[str, str],
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._prefix = prefix
        self._scratch = scratch  # its path is short: Ray's sockets lie below it
        self._environment = {key: environment[key] for key in INHERITED if key in environment}
        self._program = tuple(program)

    def check(self) -> None:
        """See that namespaces can be made here; raises LaunchError."""
        if os.geteuid() != 0:
            raise LaunchError(
                "the namespaces runner needs root; run as root, or give --runner processes"
            )
        for tool in ("ip", "unshare", "bash"):
            if shutil.which(tool) is None:
                raise LaunchError(
                    f"the namespaces runner needs the command {tool}; install iproute2, "
                    "util-linux and bash, or give --runner processes"
                )
        _ML.mkdir(parents=True, exist_ok=True)

    def make_cluster(self, name: str, hosts: Sequence[Host], names_known: bool) -> Cluster:
        """Connect the hosts by a switch; raises LaunchError."""
        cluster = _NamespaceCluster(f"{self._prefix}-{name}", self._scratch / name, hosts, self)
        try:
            cluster.connect()
        except LaunchError:
            cluster.close()
            raise
        if names_known:
            cluster.show_names()
        return cluster

    def launch(
        self, command: Sequence[str], environment: Mapping[str, str], home: Path
    ) -> Container:
        """Start a host's first process by a command that makes the namespaces."""
        home.mkdir()
        process = subprocess.Popen(
            [*command, *self._program],
            cwd=home,
            env={**self._environment, **environment, "HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        mark = f"RAYASR_TMP={environment['RAYASR_TMP']}"  # no other host has it
        return Container(process, _NamespaceControl(process, mark))


class _NamespaceCluster:
    """The hosts of one attempt and the switch between them."""

    def __init__(
        self, prefix: str, scratch: Path, hosts: Sequence[Host], runner: NamespaceRunner
    ) -> None:
        self._scratch = scratch
        self._switch = f"{prefix}-sw"
        self._spaces = {host.name: f"{prefix}-{host.name.removeprefix('algo-')}" for host in hosts}
        self._runner = runner
        self._made: list[str] = []
        self._names = hosts[0].folder.parent / "hosts"
        self._names.write_text("127.0.0.1 localhost\n", encoding="utf-8")

    def connect(self) -> None:
        """Make the namespaces and the cables; raises LaunchError."""
        self._add(self._switch)
        _ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        _ip("-n", self._switch, "link", "set", "br0", "up")
        for number, space in enumerate(self._spaces.values(), start=1):
            self._add(space)
            plug, cable = f"ve{number}", ("type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", self._switch, "link", "add", plug, *cable)
            _ip("-n", self._switch, "link", "set", plug, "master", "br0", "up")
            _ip("-n", space, "addr", "add", f"{_address(number)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "lo", "up")
            _ip("-n", space, "link", "set", "eth0", "up")

    def start(self, host: Host, task: Task) -> Container:
        """Start a host."""
        command = ["ip", "netns", "exec", self._spaces[host.name], *_UNSHARE]
        command += ["bash", "-c", _INSIDE, "bash", host.name]
        command += [str(self._names), str(host.ml), _SHARED_MEMORY]
        for mount in host.mounts:
            (host.ml / mount.target).mkdir(parents=True)
            options = "ro" if mount.read_only else "rw"
            command += [str(mount.source), str(_ML / mount.target), options]
        scratch = self._scratch / host.name.removeprefix("algo-")
        scratch.mkdir(parents=True)
        environment = {**task.environment, "RAYASR_TMP": str(scratch)}
        return self._runner.launch([*command, "--"], environment, host.folder / "home")

    def show_names(self) -> None:
        """Write the names into the file that all hosts see as /etc/hosts."""
        lines = [f"{_address(n)} {name}" for n, name in enumerate(self._spaces, start=1)]
        with self._names.open("a", encoding="utf-8") as names:  # the same file: it is mounted
            names.write("\n".join(lines) + "\n")

    def close(self) -> None:
        """Remove the namespaces; the cables go with them."""
        while self._made:
            _ip("netns", "del", self._made.pop())

    def _add(self, space: str) -> None:
        _ip("netns", "add", space)
        self._made.append(space)


class _NamespaceControl:
    """Reaches the namespace's first process, the child of the one that we started."""

    def __init__(self, process: "subprocess.Popen[bytes]", mark: str) -> None:
        self._process = process
        self._mark = mark

    def terminate(self) -> None:
        """SIGTERM to the first process, which hears it if it has a handler."""
        if (init := self._init()) is not None:
            processes.send(init, signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to all of them, and to what is still making the namespaces."""
        processes.kill_session(self._process.pid, self._mark)

    def members(self) -> list[int]:
        """All processes of the host."""
        init = self._init()
        return [] if init is None else processes.of_namespace(init)

    def _init(self) -> int | None:
        return processes.child_of(self._process.pid)


def _address(number: int) -> str:
    return f"10.231.0.{number}"


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LaunchError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
