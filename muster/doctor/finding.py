"""What a check concludes: one line a person can act on, and the exit status of the kind of fault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

MACHINE_STATUS = 11
"""Exit status where this machine is at fault: its software, memory, disk, clock or line. Other faults end with the
status of the error they would cause (see protocol.errors)."""


class Status(Enum):
    """How a check ended. Only FAIL is an obstacle."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of the check `name`: a sentence with its numbers, and what to do where something is wrong.

    `exit_status` is 0 unless the check failed.
    """

    name: str
    status: Status
    text: str
    fix: str = ""
    exit_status: int = 0

    @classmethod
    def ok(cls, name: str, text: str) -> Self:
        """All is well."""
        return cls(name, Status.OK, text)

    @classmethod
    def warn(cls, name: str, text: str, fix: str) -> Self:
        """It works, but not as well or as safely as it should."""
        return cls(name, Status.WARN, text, fix)

    @classmethod
    def fail(cls, name: str, text: str, fix: str, exit_status: int) -> Self:
        """Taking part will not work like this."""
        return cls(name, Status.FAIL, text, fix, exit_status)

    @classmethod
    def skipped(cls, name: str, why: str) -> Self:
        """Nothing was looked at."""
        return cls(name, Status.SKIPPED, why)

    def to_json_object(self) -> dict[str, Any]:
        """The finding as `--json` prints it."""
        return {
            "name": self.name,
            "status": self.status.value.lower(),
            "finding": self.text,
            "fix": self.fix,
            "exit_status": self.exit_status,
        }


def exit_status(findings: Iterable[Finding]) -> int:
    """That of the first failure, 0 where there is none."""
    return next((finding.exit_status for finding in findings if finding.status is Status.FAIL), 0)
