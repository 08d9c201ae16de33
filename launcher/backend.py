"""What every place on this machine that runs jobs can do, and how one is found by its name."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

from launcher.plan import Plan
from launcher.spec import JobSpec
from rayasr.errors import ConfigError

BACKENDS = {
    "local": "launcher.local:LocalBackend",
    "docker": "launcher.docker.backend:DockerBackend",
}
"""Name → module and class, loaded when asked for; these run a job while one waits.

SageMaker's jobs outlive the command that starts them: `launcher.aws.sagemaker` has its own steps.
"""


class Backend(Protocol):
    """A place that runs jobs: plan first, so that a dry run shows what would be sent."""

    def plan(self, job: JobSpec) -> Plan:
        """Work out what the job does here, changing nothing; raises LaunchError."""

    def submit(self, plan: Plan, notes: Callable[[str], None]) -> int:
        """Run a plan to its end; the exit code of its command; raises LaunchError."""


def load_backend(name: str, environment: Mapping[str, str]) -> Backend:
    """The backend of that name; `environment` is the caller's; raises ConfigError."""
    if name not in BACKENDS:
        raise ConfigError(f"--on {name} is unknown; there are: {', '.join(BACKENDS)}, sagemaker")
    module, _, attribute = BACKENDS[name].partition(":")
    backend: Backend = getattr(import_module(module), attribute)(environment)
    return backend
