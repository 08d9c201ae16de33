"""Commands of Docker, run without a shell."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from rayasr.errors import LaunchError

_STDERR = 2


class DockerCli:
    """The `docker` program; `environment` is the caller's and says which engine (DOCKER_HOST)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)

    def output(self, *arguments: str, given: str | None = None) -> str:
        """What a command prints; `given` is its standard input; raises LaunchError."""
        done = self._run(arguments, capture=True, given=given)
        if done.returncode:
            raise LaunchError(f"docker {arguments[0]}: {_reason(done.stderr)}")
        return done.stdout.strip()

    def show(self, *arguments: str, folder: Path | None = None, is_result: bool = False) -> None:
        """Run a command whose output the user sees as it comes; raises LaunchError.

        Standard output is kept for results.
        """
        done = self._run(arguments, folder=folder, stdout=None if is_result else _STDERR)
        if done.returncode:
            raise LaunchError(
                f"docker {arguments[0]} ended with {done.returncode}; its output above says why"
            )

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command whose output, both streams in one, is read by the caller."""
        try:
            # A process group of its own: Ctrl-C reaches us alone, and we decide what to stop.
            return subprocess.Popen(
                ["docker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.environment,
                process_group=0,
            )
        except OSError as error:
            raise _no_docker(error) from error

    def _run(
        self,
        arguments: tuple[str, ...],
        *,
        capture: bool = False,
        given: str | None = None,
        stdout: int | None = None,
        folder: Path | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                ["docker", *arguments],
                input=given,
                stdin=subprocess.DEVNULL if given is None else None,
                stdout=subprocess.PIPE if capture else stdout,
                stderr=subprocess.PIPE if capture else None,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=self.environment,
                cwd=folder,
                # Ctrl-C ends a build, but not what makes or removes a container.
                process_group=0 if capture else None,
                check=False,
            )
        except OSError as error:
            raise _no_docker(error) from error


def _no_docker(error: OSError) -> LaunchError:
    return LaunchError(
        f"cannot run the docker command: {error.strerror or error}; install Docker, or run the "
        "job with --on local"
    )


def _reason(stderr: str) -> str:
    """Docker's own sentence, without the usage hints around it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("See 'docker", "Run 'docker"))]
    reason = lines[-1] if lines else "failed and said nothing"
    for opening in ("docker: ", "Error: ", "Error response from daemon: "):
        reason = reason.removeprefix(opening)
    return reason


def num_gpus(docker: DockerCli) -> int:
    """How many GPUs containers can be given here: those of a machine with NVIDIA's runtime."""
    if "nvidia" not in docker.output("info", "--format", "{{json .Runtimes}}"):
        return 0
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
