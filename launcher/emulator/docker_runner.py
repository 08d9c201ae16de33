"""Hosts as containers of the image that a job names, as SageMaker runs it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from launcher.contract import Host
from launcher.docker.commands import DockerCli
from launcher.docker.run import Bind
from launcher.emulator.containers import Cluster, Container, Task
from rayasr.errors import LaunchError

_SHARED_MEMORY = "2g"
_INHERITED = ("RAYASR_NUM_CPUS", "RAYASR_BOOT_TIMEOUT_S")
"""Variables of the emulator that say what this machine can do; the image has all others."""


class DockerRunner:
    """Containers in a network that each job has for itself, without a way out."""

    interface = "eth0"
    one_job_at_a_time = False

    def __init__(self, prefix: str, environment: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._docker = DockerCli(environment)
        self._environment = {key: environment[key] for key in _INHERITED if key in environment}

    def check(self) -> None:
        """See that an engine answers; raises LaunchError."""
        self._docker.output("version", "--format", "{{.Server.Version}}")

    def make_cluster(self, name: str, hosts: Sequence[Host], names_known: bool) -> Cluster:
        """Make the network; raises LaunchError."""
        del hosts
        if not names_known:
            raise LaunchError("slow-names goes with the runners processes and namespaces")
        network = f"{self._prefix}-{name}"
        self._docker.output("network", "create", "--internal", network)
        return _DockerCluster(self._docker, network, self._environment)


class _DockerCluster:
    """The containers of one attempt, called NETWORK-algo-N."""

    def __init__(self, docker: DockerCli, network: str, environment: Mapping[str, str]) -> None:
        self._docker = docker
        self._network = network
        self._environment = environment
        self._names: list[str] = []

    def start(self, host: Host, task: Task) -> Container:
        """Start a container and stay attached to it."""
        name = f"{self._network}-{host.name}"
        command = ["run", "--name", name, "--hostname", host.name, "--shm-size", _SHARED_MEMORY]
        command += ["--network", self._network, "--network-alias", host.name]
        binds = [Bind(host.ml, "/opt/ml")]
        for mount in host.mounts:
            (host.ml / mount.target).mkdir(parents=True)
            binds.append(Bind(mount.source, f"/opt/ml/{mount.target}", mount.read_only))
        for bind in binds:
            command += ["--mount", bind.flag]
        for key, value in {**self._environment, **task.environment}.items():
            command += ["--env", f"{key}={value}"]
        if task.entrypoint:
            command += ["--entrypoint", task.entrypoint[0]]
        self._names.append(name)
        arguments = [*task.entrypoint[1:], *task.arguments]
        process = self._docker.start(*command, task.image, *arguments)
        return Container(process, _DockerControl(self._docker, name))

    def show_names(self) -> None:
        """Docker's own name service has them from the start."""

    def close(self) -> None:
        """Remove the containers and their network."""
        for name in self._names:
            with suppress(LaunchError):  # one that could not be made
                self._docker.output("rm", "--force", "--volumes", name)
        self._docker.output("network", "rm", self._network)


class _DockerControl:
    """Reaches a container through the engine."""

    def __init__(self, docker: DockerCli, name: str) -> None:
        self._docker = docker
        self._name = name

    def terminate(self) -> None:
        """SIGTERM to the first process."""
        self._kill("TERM")

    def kill(self) -> None:
        """SIGKILL to the first process, with which all others end."""
        self._kill("KILL")

    def members(self) -> list[int]:
        """All processes, as this machine numbers them; signals to them need root."""
        try:
            lines = self._docker.output("top", self._name, "-eo", "pid").splitlines()
        except LaunchError:  # it has ended
            return []
        return [int(line) for line in lines if line.strip().isdecimal()]

    def _kill(self, signal: str) -> None:
        with suppress(LaunchError):  # it has ended, or has not started yet
            self._docker.output("kill", "--signal", signal, self._name)
