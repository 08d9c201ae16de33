"""The checkout as an archive that travels with a job, so that a code change needs no new image."""

from dataclasses import dataclass

from launcher.cloud_spec import CodeSpec


@dataclass(frozen=True)
class Overlay:
    """An archive of our packages, and what is in it."""

    archive: bytes  # code.tar.gz
    files: tuple[str, ...]  # relative to the checkout
    left_out: tuple[str, ...]


def pack_overlay(code: CodeSpec) -> Overlay:
    """Pack the checkout's packages; raises ConfigError or LaunchError."""
    raise NotImplementedError
