"""What a check has found, and how a person is told."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "note"]
_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """Something a person should know before money is spent; an error stops the job."""

    check: str
    severity: Severity
    found: str
    why: str
    remedy: str

    def describe(self) -> str:
        """The finding in four lines."""
        return (
            f"{self.severity:8} {self.check}: {self.found}\n"
            f"         why: {self.why}\n"
            f"         do:  {self.remedy}"
        )


def error(check: str, found: str, why: str, remedy: str) -> Finding:
    """A job that cannot work."""
    return Finding(check, "error", found, why, remedy)


def warning(check: str, found: str, why: str, remedy: str) -> Finding:
    """A job that may fail, or waste money."""
    return Finding(check, "warning", found, why, remedy)


def note(check: str, found: str, why: str, remedy: str) -> Finding:
    """Something that could not be checked, or is good to know."""
    return Finding(check, "note", found, why, remedy)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def has_errors(findings: Sequence[Finding]) -> bool:
    """Whether the job must not be sent."""
    return any(finding.severity == "error" for finding in findings)
