"""How findings are told: a line each for people, one object for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from muster.doctor.finding import Finding, Status, exit_status

_NAME_WIDTH = 13
_STATUS_WIDTH = 8
_MARGIN = " " * (_NAME_WIDTH + _STATUS_WIDTH)


def line(finding: Finding, width: int) -> str:
    """One finding: status, name, what was found, and the fix below it, wrapped to `width` columns."""
    head = f"{finding.status.value:<{_STATUS_WIDTH}}{finding.name:<{_NAME_WIDTH}}"
    lines = [_wrapped(head, finding.text, width)]
    if finding.fix:
        lines.append(_wrapped(f"{_MARGIN}fix: ", finding.fix, width))
    return "\n".join(lines)


def conclusion(findings: Sequence[Finding]) -> str:
    """The last line."""
    failed = [finding.name for finding in findings if finding.status is Status.FAIL]
    warned = [finding.name for finding in findings if finding.status is Status.WARN]
    notes = f"; look at: {', '.join(warned)}" if warned else ""
    if failed:
        return f"{len(failed)} failed: {', '.join(failed)}{notes}"
    return f"ready{notes}"


def json_object(findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "exit_status": exit_status(findings),
        "checks": [finding.to_json_object() for finding in findings],
    }


def _wrapped(head: str, text: str, width: int) -> str:
    # Commands and locations are for copying: they are never broken.
    return textwrap.fill(
        text,
        width,
        initial_indent=head,
        subsequent_indent=_MARGIN,
        break_long_words=False,
        break_on_hyphens=False,
    )
