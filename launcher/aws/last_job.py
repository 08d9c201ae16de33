"""Which job was submitted last, and where, so that `rayasr jobs status last` finds it."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rayasr.errors import ConfigError


@dataclass(frozen=True)
class LastJob:
    """A job's name and what to ask for it with."""

    name: str
    profile: str | None = None
    region: str | None = None
    endpoint_url: str | None = None


def remember(job: LastJob, environment: Mapping[str, str]) -> None:
    """Keep it in the user's cache folder, where that can be written."""
    path = _path(environment)
    with suppress(OSError):  # the job runs already; a full disk here is no reason to fail
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(job)), encoding="utf-8")


def recall(environment: Mapping[str, str]) -> LastJob:
    """The job submitted last from this account; raises ConfigError where none is known."""
    path = _path(environment)
    try:
        return LastJob(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(
            "no job is remembered as the last one; give its name, `rayasr jobs ls` lists them"
        ) from error


def _path(environment: Mapping[str, str]) -> Path:
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "rayasr" / "last_job.json"
