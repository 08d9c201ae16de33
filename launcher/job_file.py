"""What travels to the machines of a cloud job: job.json, with the digests of the files beside it.

The folder is the channel `rayasr-job`. Only the digest of job.json stands in the request, so that
neither a secret nor a long value has to.
"""

import hashlib
import json
import posixpath
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from launcher.plan import fill
from launcher.spec import JOB_CHANNEL
from rayasr.errors import LaunchError
from rayasr.settings import Section

JOB_FILE = "job.json"
RECIPE_FILE = "recipe.yaml"
CODE_FILE = "code.tar.gz"
DIGEST_VARIABLE = "RAYASR_JOB_DIGEST"
"""Environment variable of the container that holds the digest of job.json."""


class JobFile(Section):
    """A job as its machines read it; the placeholders of `command` and `run` are still in."""

    format: Literal[1] = 1
    name: str
    command: tuple[str, ...]
    channels: dict[str, Literal["read", "write"]]
    run: str | None
    environment: dict[str, str]
    token: str = Field(repr=False, pattern=r"^[0-9a-f]{64}$")
    """The secret of the job's Ray cluster."""
    head_group: str | None
    num_hosts: int
    on_lost_host: Literal["fail", "continue"]
    time_limit_s: float
    files: dict[str, str]
    """Files beside job.json and their SHA-256."""

    def to_json(self) -> bytes:
        """The content of job.json: the same job gives the same bytes."""
        values = self.model_dump(mode="json")
        return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Self:
        """Read job.json; raises LaunchError where it is none, or another version's."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            problem = error.errors(include_input=False)[0]  # values may be secret
            where = ".".join(str(part) for part in problem["loc"]) or "content"
            raise LaunchError(
                f"{JOB_FILE}: {where}: {problem['msg']}; the image must hold the rayasr that "
                "submits the job"
            ) from None

    def arguments_on_host(self, root: str) -> tuple[str, ...]:
        """The arguments of `rayasr` on a host whose contract folder is `root`."""
        job = f"{root}/input/data/{JOB_CHANNEL}"
        run = self.run_on_host(root)
        return tuple(fill(argument, self._places(root), run, job) for argument in self.command)

    def run_on_host(self, root: str) -> str | None:
        """The run folder there; a relative one lies in the folder that is mirrored to S3."""
        if self.run is None:
            return None
        return posixpath.join(f"{root}/checkpoints", fill(self.run, self._places(root)))

    def _places(self, root: str) -> dict[str, str]:
        return {name: f"{root}/input/data/{name}" for name in self.channels}


def load_job(folder: str | Path, digest: str) -> JobFile:
    """Read the job that arrived in a folder and check every file of it; raises LaunchError."""
    content = _read(Path(folder) / JOB_FILE)
    _check(JOB_FILE, content, digest)
    job = JobFile.from_json(content)
    for name, expected in job.files.items():
        _check(name, _read(Path(folder) / name), expected)
    return job


def sha256(content: bytes) -> str:
    """The digest of a file's content, 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LaunchError(
            f"cannot read {path}: {error.strerror}; the channel {JOB_CHANNEL} must hold the job "
            "that was submitted"
        ) from error


def _check(name: str, content: bytes, expected: str) -> None:
    if (found := sha256(content)) != expected:
        raise LaunchError(
            f"{name} is not the one that was submitted (sha256 {found[:12]}…, expected "
            f"{expected[:12]}…); was it changed in S3? Submit the job again"
        )
