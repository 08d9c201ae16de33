"""A host's log: its name before each line, and no secret in any."""

import re
import threading
from collections.abc import Iterable, Mapping
from typing import BinaryIO

HIDDEN = "***"
_SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSW|CREDENTIAL|PRIVATE|KEY", re.IGNORECASE)
_MIN_SECRET = 8
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class HostLog:
    """Writes whole lines to a stream, from any thread."""

    def __init__(self, stream: BinaryIO, host: str) -> None:
        self.host = host
        self._stream = stream
        self._secrets: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def hide(self, secrets: Iterable[str]) -> None:
        """Never write these again; each line of a longer one counts for itself."""
        lines = {line.strip() for secret in secrets for line in secret.splitlines()}
        known = {line for line in lines if len(line) >= _MIN_SECRET} | set(self._secrets)
        self._secrets = tuple(sorted(known, key=len, reverse=True))

    def mask(self, text: str) -> str:
        """The text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return text

    def write(self, text: str) -> None:
        """Write a text, which may have several lines; colours are for terminals."""
        lines = self.mask(_COLOUR.sub("", text)).splitlines() or [""]
        text = "".join(f"{_mark(self.host)}{line}\n" for line in lines)
        with self._lock:
            try:
                self._stream.write(text.encode("utf-8", "replace"))
                self._stream.flush()
            except (OSError, ValueError):
                pass  # nobody reads any more; the job itself must not stand still for that


def with_host(host: str, line: str) -> str:
    """A line with its host in front: the host writes that, but not what comes before its start."""
    return line if line.startswith(_mark(host)) else _mark(host) + line


def secret_values(environment: Mapping[str, str]) -> list[str]:
    """The values whose names say that they are secret."""
    return [value for name, value in environment.items() if _SECRET_NAME.search(name)]


def _mark(host: str) -> str:
    return f"{host} | "
