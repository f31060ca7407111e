"""What is wrong in a deployment file: where, in one sentence, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One fault, ordered by place. `line` counts from 1; `kind` is its stable name, such as "unquoted"."""

    file: str
    line: int
    kind: str
    text: str
    fix: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.kind}: {self.text}\n    fix: {self.fix}"

    def to_json_object(self) -> dict[str, Any]:
        """The fault as `--json` prints it."""
        return {"file": self.file, "line": self.line, "kind": self.kind, "problem": self.text, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong with a value, wherever it stands."""

    kind: str
    text: str
    fix: str

    def at(self, file: str, line: int) -> Fault:
        """The fault that it is there."""
        return Fault(file, line, self.kind, self.text, self.fix)
