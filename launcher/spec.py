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

from rayasr.settings import Section, load_settings

PLACEHOLDER = re.compile(r"\{(\w+)(?::([^{}\s]*))?\}")
"""`{run}` or `{channel:NAME}`; other braces are the program's own."""

_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class ChannelSpec(Section):
    local_path: str | None = None
    """Folder of the channel on this machine, relative to the current folder; `~` is the home."""
    access: Literal["read", "write"] = "read"
    """`read`: the folder must be there before the job starts; `write`: it is made where missing."""

    @field_validator("local_path")
    @classmethod
    def _check_path(cls, path: str | None) -> str | None:
        if path is not None and (not path or "://" in path):
            raise ValueError("must be a folder of this machine, or left out")
        return path


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
    time_limit: str
    """The job is stopped after this much time: 90s, 20m, 8h or 2d. Training saves a checkpoint
    before it leaves."""

    @property
    def time_limit_s(self) -> float:
        """The time limit in seconds."""
        return float(self.time_limit[:-1]) * _TIME_UNITS[self.time_limit[-1]]

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
        return channels

    @field_validator("environment")
    @classmethod
    def _check_environment(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"'{name}' is no name of an environment variable")
        return environment

    @field_validator("time_limit")
    @classmethod
    def _check_time(cls, text: str) -> str:
        if not re.fullmatch(r"\d+(\.\d+)?[smhd]", text) or float(text[:-1]) == 0:
            raise ValueError("is not a time; write 90s, 20m, 8h or 2d")
        return text

    @model_validator(mode="after")
    def _check_placeholders(self) -> Self:
        for argument in self.command:
            self._check_text(argument, "command")
        if self.run is not None:
            self._check_text(self.run, "run")
        if self.command[0] == "launch":
            raise ValueError("command: a job cannot launch another job")
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
    return yaml.load(text, yaml.BaseLoader)
