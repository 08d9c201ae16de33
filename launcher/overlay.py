"""The checkout as an archive that travels with a job, so that a code change needs no new image."""

import fnmatch
import gzip
import io
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cloud_spec import CodeSpec
from rayasr.errors import ConfigError, LaunchError

PACKAGES = ("launcher", "rayasr")

SECRETS = (
    *(".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".git-credentials", ".pypirc"),
    *(".npmrc", ".aws", ".ssh", ".docker", "auth_token", "id_rsa*", "id_ecdsa*", "id_ed25519*"),
    *("credentials", "credentials.[!p]*", "*-credentials.*", "secrets", "secrets.[!p]*"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.ppk", "*.gpg"),
)
"""Names of files and folders that hold secrets; they never travel."""
DATA = (
    *("*.wav", "*.flac", "*.mp3", "*.ogg", "*.opus", "*.m4a", "*.aiff", "*.sph"),
    *("*.arrow", "*.parquet", "*.npy", "*.npz", "*.pt", "*.pth", "*.bin", "*.safetensors"),
    *("*.onnx", "*.tar", "*.tar.*", "*.tgz", "*.zip", "*.log", "*.tmp", "*.swp"),
)
"""Audio, features, models and archives: large, and no code."""
BYPRODUCTS = (".git", ".hg", ".svn", ".venv", "__pycache__", ".*_cache", "*.pyc", ".DS_Store")
"""What tools leave beside the code; not worth a word."""

_SECRET_TEXT: Mapping[str, re.Pattern[bytes]] = {
    "a private key": re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY"),
    "an AWS access key": re.compile(rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    "an AWS secret": re.compile(
        rb"(?i)aws_secret_access_key\W{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"
    ),
    "a token": re.compile(rb"\b(?:ghp_|github_pat_|glpat-|hf_|xox[bp]-)[A-Za-z0-9_-]{20,}"),
}


@dataclass(frozen=True)
class Overlay:
    """An archive of our packages, and what is in it."""

    archive: bytes  # code.tar.gz
    files: tuple[str, ...]  # relative to the checkout, sorted
    left_out: tuple[str, ...]  # not even read


def pack_overlay(code: CodeSpec) -> Overlay:
    """Pack a checkout: the same files give the same bytes.

    Raises ConfigError where there is no checkout, LaunchError where a file holds a secret, is no
    plain file, or all together are larger than `max_mb`.
    """
    folder = Path(code.folder)
    if code.folder.startswith("~/"):
        folder = folder.expanduser()
    try:
        paths, left_out = _choose(folder, code.exclude)
        _check_size(paths, code.max_mb)
        contents = {name: path.read_bytes() for name, path in paths.items()}
    except OSError as error:
        raise LaunchError(
            f"cannot read {error.filename}: {error.strerror}; mend it, or leave it out by "
            "sagemaker.code.exclude"
        ) from error
    for name, content in contents.items():
        _check_secrets(name, content)
    return Overlay(_archive(contents), tuple(contents), tuple(left_out))


def _choose(folder: Path, exclude: Sequence[str]) -> tuple[dict[str, Path], list[str]]:
    """The files that travel, by name in the archive, and the names of those that do not."""
    paths: dict[str, Path] = {}
    left_out: list[str] = []
    unwanted = (*SECRETS, *DATA, *exclude)
    pending = [folder / package for package in PACKAGES]
    for package in pending:
        if not (package / "__init__.py").is_file():
            raise ConfigError(
                f"sagemaker.code.folder: {folder} is no checkout of rayasr: {package.name} is "
                "not in it"
            )
    while pending:
        for path in pending.pop().iterdir():
            name = path.relative_to(folder).as_posix()
            if _matches(name, BYPRODUCTS):
                continue
            if _matches(name, unwanted):
                left_out.append(name)
            elif path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise LaunchError(
                    f"{name} is no plain file, so it cannot travel; replace it, or leave it out by "
                    "sagemaker.code.exclude"
                )
            elif path.is_dir():
                pending.append(path)
            else:
                paths[name] = path
    return dict(sorted(paths.items())), sorted(left_out)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern names the file, or the whole path; capitals count as small letters."""
    forms = (name.lower(), name.lower().rpartition("/")[2])
    return any(fnmatch.fnmatchcase(form, pattern.lower()) for form in forms for pattern in patterns)


def _check_size(paths: Mapping[str, Path], max_mb: float) -> None:
    sizes = {name: path.stat().st_size for name, path in paths.items()}
    total_mb = sum(sizes.values()) / 1e6
    if total_mb > max_mb:
        raise LaunchError(
            f"the code has {total_mb:.1f} MB, more than sagemaker.code.max_mb = {max_mb:g}; the "
            f"largest file is {max(sizes, key=sizes.__getitem__)}: leave it out by "
            "sagemaker.code.exclude, or raise the limit"
        )


def _check_secrets(name: str, content: bytes) -> None:
    for what, pattern in _SECRET_TEXT.items():
        if pattern.search(content):
            raise LaunchError(
                f"{name} seems to hold {what}; take it out, or leave the file out by "
                "sagemaker.code.exclude"
            )


def _archive(contents: Mapping[str, bytes]) -> bytes:
    """A .tar.gz in which nothing tells when, where or by whom it was made."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)  # mode 0644, time 0, owner 0
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)
