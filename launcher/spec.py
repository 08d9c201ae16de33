"""A job file: what to run, with which folders, and where the result goes.

One JOB.yaml runs any verb of rayasr on any backend. All values are read as text, exactly as
written, so that `1.10`, `yes` or `010` reach the program unchanged.
"""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, field_validator, model_validator

from launcher.cloud_spec import DAY_S, EfsSource, FsxSource, S3Url, SageMakerSpec, Time, seconds
from rayasr.settings import Section, load_settings

PLACEHOLDER = re.compile(r"\{(\w+)(?::([^{}\s]*))?\}")
"""`{run}` or `{channel:NAME}`; other braces are the program's own."""
JOB_CHANNEL = "rayasr-job"
"""The channel in which the job file itself travels."""


class ChannelSpec(Section):
    local_path: str | None = None
    """Folder of the channel on this machine, relative to the current folder; `~` is the home."""
    access: Literal["read", "write"] = "read"
    """`read`: the folder must be there before the job starts; `write`: it is made where missing."""
    fsx: FsxSource | None = None
    """On SageMaker: a folder of an FSx for Lustre file system, mounted."""
    efs: EfsSource | None = None
    """On SageMaker: a folder of an EFS file system, mounted."""
    s3: S3Url | None = None
    """On SageMaker: objects under a prefix, copied or streamed; read only."""
    input_mode: Literal["File", "FastFile"] = "File"
    """How S3 objects come: copied before the start, or fetched when read."""
    groups: tuple[str, ...] = ()
    """Instance groups that get the channel (S3 only); default: all."""

    @field_validator("local_path")
    @classmethod
    def _check_path(cls, path: str | None) -> str | None:
        if path is not None and (not path or "://" in path):
            raise ValueError("must be a folder of this machine, or left out")
        return path

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        sources = [name for name in ("fsx", "efs", "s3") if getattr(self, name) is not None]
        if len(sources) > 1:
            raise ValueError(f"has {' and '.join(sources)}; give one of them")
        if self.s3 is not None and self.access == "write":
            raise ValueError("an s3 channel is read only; write to FSx, or to {run} (checkpoints)")
        if self.s3 is None and (self.input_mode != "File" or self.groups):
            raise ValueError("input_mode and groups go with an s3 channel only")
        return self


class JobSpec(Section):
    """A whole job file."""

    name: str
    """Name of the job: 1 to 63 letters, digits and inner hyphens, all ASCII."""
    command: tuple[str, ...] = Field(min_length=1)
    """A verb of rayasr and its arguments, a list; no shell sees it. `{channel:NAME}` stands for a
    channel's folder, `{run}` for the run folder."""
    channels: dict[str, ChannelSpec] = Field(default_factory=dict)
    """Folders that the command reads or writes, by name."""
    run: str | None = Field(None, min_length=1)
    """The run folder, `{run}` in the command; may begin with `{channel:NAME}`. Its `model` folder
    is the job's result."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More environment variables of the command."""
    time_limit: Time
    """The job is stopped after this much time: 90s, 20m, 8h or 2d. Training saves a checkpoint
    before it leaves."""
    workers: str | None = Field(None, pattern=r"^[1-9]\d*(:[1-9]\d*)?$")
    """Training workers, `8`, or `4:8` to go on with fewer while machines are lost; default: all
    GPUs of all machines."""
    on_lost_host: Literal["fail", "continue"] | None = None
    """What becomes of the job when a machine is lost; default: `continue` where `workers` may
    shrink, else `fail`."""
    sagemaker: SageMakerSpec | None = None
    """Machines and places for `--on sagemaker`."""

    @property
    def time_limit_s(self) -> float:
        """The time limit in seconds."""
        return seconds(self.time_limit)

    @property
    def goes_on_without_lost_hosts(self) -> bool:
        """Whether a lost machine leaves the job running."""
        if self.on_lost_host is not None:
            return self.on_lost_host == "continue"
        return self.workers is not None and ":" in self.workers

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}", name):
            raise ValueError("must be 1 to 63 ASCII letters, digits and inner hyphens")
        return name

    @field_validator("channels")
    @classmethod
    def _check_channels(cls, channels: dict[str, ChannelSpec]) -> dict[str, ChannelSpec]:
        for name in channels:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
                raise ValueError(f"'{name}' is no channel name: 1 to 64 of A-Z a-z 0-9 _ and -")
            if name == JOB_CHANNEL:
                raise ValueError(f"'{name}' is taken: the job file travels in it")
        return channels

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"'{name}' is no name of an environment variable")
        return environment

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        for argument in self.command:
            self._check_text(argument, "command")
        if self.run is not None:
            self._check_text(self.run, "run")
        if self.command[0] == "launch":
            raise ValueError("command: a job cannot launch another job")
        return self

    @model_validator(mode="after")
    def _check_cloud(self) -> Self:
        if self.workers and ":" in self.workers:
            least, most = (int(part) for part in self.workers.split(":"))
            if least > most:
                raise ValueError(f"workers: {self.workers} must be MIN:MAX")
        place = self.sagemaker
        if place is None:
            return self
        for name, channel in self.channels.items():
            if (channel.fsx or channel.efs) and place.vpc is None:
                raise ValueError(f"channels.{name}: a file system needs sagemaker.vpc")
            known = [group.name for group in place.instance_groups]
            for group in channel.groups:
                if group not in known:
                    raise ValueError(f"channels.{name}.groups: there is no group '{group}'")
        if self.time_limit_s > 28 * DAY_S:
            raise ValueError("time_limit: SageMaker runs a job for 28d at most")
        if place.max_wait and seconds(place.max_wait) < self.time_limit_s:
            raise ValueError("sagemaker.max_wait must be at least time_limit")
        return self

    def _check_text(self, text: str, where: str) -> None:
        """Refuse a placeholder that stands for nothing."""
        if "\0" in text:
            raise ValueError(f"{where}: a zero byte cannot be passed to a program")
        for match in PLACEHOLDER.finditer(text):
            kind, name = match.groups()
            if kind == "channel":
                if name not in self.channels:
                    raise ValueError(f"{where}: {match[0]} names no channel{self._hint(name)}")
            elif kind == "run" and name is None:
                if where == "run":
                    raise ValueError("run: {run} cannot stand for itself")
                if self.run is None:
                    raise ValueError(f"{where}: {{run}} is used, but the job has no 'run:'")
            elif difflib.get_close_matches(kind, ("channel", "run"), n=1):
                raise ValueError(
                    f"{where}: {match[0]} is unknown; there are {{channel:NAME}} and {{run}}"
                )

    def _hint(self, name: str | None) -> str:
        near = difflib.get_close_matches(name or "", self.channels, n=1)
        if near:
            return f"; did you mean {{channel:{near[0]}}}?"
        return f"; there are: {', '.join(self.channels)}" if self.channels else "; none is defined"


def load_spec(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """Read a job file and apply `key.sub=value` overrides; raises ConfigError."""
    return load_settings(path, JobSpec, overrides, parse=_parse, examples="configs/jobs")


def _parse(text: str) -> Any:
    """YAML whose scalars all stay text."""
    try:
        return yaml.load(text, _TextLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


class _TextLoader(yaml.BaseLoader):
    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        """Join a character written as a pair of escapes, as JSON does; half of one is refused."""
        text = super().construct_scalar(node)
        try:
            return str(text).encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise yaml.constructor.ConstructorError(
                None, None, "half a character; write it itself, not as \\u…", node.start_mark
            ) from None
