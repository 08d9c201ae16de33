"""What a job will do, worked out before anything is started; no file, no network, no clock."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.spec import PLACEHOLDER, JobSpec

TRAINING_VERBS = ("train", "run")


@dataclass(frozen=True)
class Plan:
    """A job with its placeholders filled in for one backend."""

    job: JobSpec
    backend: str
    arguments: tuple[str, ...]  # of `rayasr`, in order
    channels: Mapping[str, str]  # name → folder as the command sees it
    run: str | None
    environment: Mapping[str, str]
    time_limit_s: float

    @property
    def model(self) -> str | None:
        """Where the job leaves its model folder, if it has a run."""
        return None if self.run is None else f"{self.run.rstrip('/')}/model"

    def describe(self) -> str:
        """The plan for a person, one line each."""
        lines = [f"job          {self.job.name}, on {self.backend}"]
        lines.append(f"command      {shlex.join(('rayasr', *self.arguments))}")
        for name, folder in self.channels.items():
            lines.append(f"channel      {name}: {folder} ({self.job.channels[name].access})")
        if self.run is not None:
            lines += [f"run          {self.run}", f"model        {self.model}"]
        lines += [f"environment  {name}={value}" for name, value in self.environment.items()]
        lines.append(f"time limit   {self.job.time_limit}")
        return "\n".join(lines)


def make_plan(job: JobSpec, backend: str, places: Mapping[str, str]) -> Plan:
    """Fill in the placeholders; `places` gives each channel's folder as the command will see it."""
    run = None if job.run is None else fill(job.run, places)
    return Plan(
        job=job,
        backend=backend,
        arguments=tuple(fill(argument, places, run) for argument in full_command(job)),
        channels=dict(places),
        run=run,
        environment=dict(job.environment),
        time_limit_s=job.time_limit_s,
    )


def full_command(job: JobSpec) -> tuple[str, ...]:
    """The job's command, with its `workers` where the verb trains and does not say how many."""
    given = any(argument.partition("=")[0] == "--workers" for argument in job.command)
    if job.workers is None or given or job.command[0] not in TRAINING_VERBS:
        return job.command
    return (*job.command, "--workers", job.workers)


def fill(
    text: str, places: Mapping[str, str], run: str | None = None, job: str | None = None
) -> str:
    """Put folders in place of `{channel:NAME}`, `{run}` and `{job}`.

    What is put in is not read again, and without a folder `{run}` and `{job}` stay.
    """
    folders = {"run": run, "job": job}
    filled, end = [], 0
    for match in PLACEHOLDER.finditer(text):
        kind, name = match.groups()
        if kind == "channel":
            folder: str | None = places[name]
        else:
            folder = folders.get(kind) if name is None else None
        if folder is None:
            continue
        filled += [text[end : match.start()], folder]
        end = match.end()
    return "".join([*filled, text[end:]])
