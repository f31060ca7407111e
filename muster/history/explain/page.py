"""An explanation as a page of text: one table of rounds, then step after step with its arithmetic."""

from __future__ import annotations

import textwrap

from muster.history.explain.explanation import Explanation, RoundRow, Section
from muster.history.explain.working import SHORT, gain_of
from muster.history.status import printable
from muster.protocol.incentive.words import last_reason

WORD = 12
"""Columns of the words on the left."""

MIN_TEXT = 40
"""Columns that a sentence has on the narrowest terminal."""

HEADS = ("round", "windows", "s_r", "rank", "ratio", "x", "μ", "gate", "PeerScore", "share")
WIDTHS = (5, 7, 9, 4, 6, 6, 6, 5, 9, 6)
DASH = "–"


def page(told: Explanation, width: int) -> str:
    """The whole explanation, in lines of `width` columns where that leaves sentences `MIN_TEXT`."""
    case = told.case
    tip, slot = case.shown.before, "no slot" if case.uid is None else f"uid {case.uid}"
    parts = [
        f"{slot}, hotkey {case.hotkey}",
        f"round {case.round} of {printable(tip.history.genesis.name)} (run {tip.run_id.hex()[: 2 * SHORT]})",
        "",
        *_wrapped("", told.sent, width),
    ]
    for section in told.sections:
        parts += ["", *_section(section, width)]
    if not told.sections:
        parts += [
            "",
            *_wrapped("", "No validator has published a score file of this round or of those before it.", width),
        ]
    parts += ["", "Seats", *_wrapped("  ", told.selection, width)]
    return "\n".join(line.rstrip() for line in parts)


def _section(section: Section, width: int) -> list[str]:
    parts = [f"Validator {section.validator}, stake {section.stake}", *_wrapped("  ", section.verdict, width), ""]
    parts += [_cells(HEADS) + "  what became of it", *(line for row in section.table for line in _row(row, width))]
    if section.lines:
        parts += ["", "How it comes about"]
        for line in section.lines:
            parts += _wrapped(f"  {line.word:<{WORD}}", line.text, width)
        parts += ["", "What would change it"]
        for sentence in section.changes:
            parts += _wrapped("  - ", sentence, width)
    return parts


def _row(one: RoundRow, width: int) -> list[str]:
    row, entry = one.row, one.sent
    cells = [str(entry.round), DASH if entry.windows is None else str(entry.windows)]
    if row is None:
        cells += [DASH] * (len(HEADS) - len(cells))
    else:
        cells += [
            _number(gain_of(row), 6),
            DASH if row.rank is None else str(row.rank),
            _number(row.ratio, 3),
            _number(row.own_data, 3),
            _number(row.mu if row.tested else None, 3),
            f"{row.gate:.2f}",
            f"{row.peer_score:.4f}",
            f"{row.incentive:.1%}",
        ]
    became = one.became if row is None or entry.accepted is False else _became(one)
    return _wrapped(_cells(tuple(cells)) + "  ", became, width)


def _became(one: RoundRow) -> str:
    """An accepted submission that a validator found to be wrong was accepted all the same."""
    assert one.row is not None
    return f"accepted; {last_reason(one.row)}" if one.row.outcome == "failed" else "accepted"


def _cells(cells: tuple[str, ...]) -> str:
    return "  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))


def _number(value: float | None, digits: int) -> str:
    return DASH if value is None else f"{value:.{digits}f}"


def _wrapped(head: str, text: str, width: int) -> list[str]:
    room = max(width, len(head) + MIN_TEXT)
    indent = " " * len(head)
    lines = textwrap.wrap(
        printable(text),
        room,
        initial_indent=head,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return lines or [head]
