"""What `--inject` breaks, and when: each fault strikes once, in the first job that meets it."""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from rayasr.errors import ConfigError

_FORMS = {
    "spot": "spot@WHEN",
    "stop": "stop@WHEN",
    "kill-host": "kill-host:algo-N@WHEN",
    "silent-host": "silent-host:algo-N@WHEN",
    "kill-process": "kill-process:algo-N:PATTERN@WHEN",
    "full-disk": "full-disk:DIR@WHEN",
    "slow-names": "slow-names@SECONDSs",
    "no-show": "no-show:algo-N",
    "capacity": "capacity",
}
"""How each fault is written."""
_OF_HOSTS = ("kill-host", "silent-host", "kill-process", "no-show")
_FROM_THE_START = ("capacity", "no-show")
_WRITTEN = re.compile(r"(?P<fault>.+?)(?:@(?:(?P<after>\d+(?:\.\d+)?)s|log:(?P<log>.+)))?")


@dataclass(frozen=True)
class Fault:
    """One thing to break, some seconds into the training or at a line of the log."""

    kind: str
    host: str | None = None
    detail: str = ""  # a pattern or a folder
    after_s: float | None = None
    at_log: str | None = None

    def __str__(self) -> str:
        parts = [part for part in (self.kind, self.host, self.detail) if part]
        return ":".join(parts)


def parse_fault(text: str) -> Fault:
    """Read a fault as `--inject` gives it; raises ConfigError."""
    match = _WRITTEN.fullmatch(text)
    kind, *rest = match["fault"].split(":", 2) if match else [""]
    if match is None or kind not in _FORMS:
        raise ConfigError(f"--inject {text}: unknown; there are {', '.join(_FORMS.values())}")
    host = rest.pop(0) if kind in _OF_HOSTS and rest else None
    fault = Fault(
        kind,
        host,
        ":".join(rest),
        None if match["after"] is None else float(match["after"]),
        match["log"],
    )
    if not _is_complete(fault):
        raise ConfigError(
            f"--inject {text}: write {_FORMS[kind]}; WHEN is 12s after the training starts, or "
            "log:TEXT at the first line with that text"
        )
    if kind == "kill-process":
        _check_pattern(text, fault.detail)
    return fault


def _is_complete(fault: Fault) -> bool:
    """Whether a fault has the parts that its kind needs, and no others."""
    has_when = fault.after_s is not None or fault.at_log is not None
    if fault.kind in _FROM_THE_START and has_when:
        return False
    if fault.kind not in _FROM_THE_START and not has_when:
        return False
    if fault.kind == "slow-names" and fault.after_s is None:
        return False
    if fault.kind in _OF_HOSTS and not re.fullmatch(r"algo-[1-9]\d*", fault.host or ""):
        return False
    return bool(fault.detail) == (fault.kind in ("kill-process", "full-disk"))


def _check_pattern(text: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"--inject {text}: the pattern is no regular expression: {error}") from (
            error
        )


class Faults:
    """Those that have not struck yet, shared by all jobs."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._pending = list(faults)

    def add(self, fault: Fault) -> None:
        """One more."""
        with self._lock:
            self._pending.append(fault)

    def clear(self) -> None:
        """Forget those that have not struck."""
        with self._lock:
            self._pending.clear()

    def pending(self) -> tuple[Fault, ...]:
        """Those that are left."""
        with self._lock:
            return tuple(self._pending)

    def at_start(self, kind: str, hosts: Sequence[str]) -> list[Fault]:
        """Take those of one kind that shape how a job with these hosts starts."""
        return self._take(lambda fault: fault.kind == kind and _concerns(fault, hosts))

    def due(self, elapsed_s: float, hosts: Sequence[str], spot: bool) -> list[Fault]:
        """Take those whose time has come, so many seconds into the training."""
        return self._take(
            lambda fault: (
                fault.after_s is not None
                and fault.after_s <= elapsed_s
                and _concerns(fault, hosts, spot)
            )
        )

    def at_line(self, line: str, hosts: Sequence[str], spot: bool) -> list[Fault]:
        """Take those that wait for this line of the log."""
        return self._take(
            lambda fault: (
                fault.at_log is not None and fault.at_log in line and _concerns(fault, hosts, spot)
            )
        )

    def next_s(self, hosts: Sequence[str], spot: bool) -> float:
        """Seconds into the training at which the next one is due; infinite without any."""
        times = [
            fault.after_s
            for fault in self.pending()
            if fault.after_s is not None and _concerns(fault, hosts, spot)
        ]
        return min(times, default=float("inf"))

    def _take(self, wanted: Callable[[Fault], bool]) -> list[Fault]:
        with self._lock:
            taken = [fault for fault in self._pending if wanted(fault)]
            self._pending = [fault for fault in self._pending if not wanted(fault)]
            return taken


def _concerns(fault: Fault, hosts: Sequence[str], spot: bool = False) -> bool:
    """Whether a job with these hosts can meet the fault; only spot machines are taken away."""
    return (fault.host is None or fault.host in hosts) and (fault.kind != "spot" or spot)
