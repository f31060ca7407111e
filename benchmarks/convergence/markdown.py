"""What every section of the page is written with."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.convergence.findings import Answers
from benchmarks.convergence.variant import Variant


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    head = list(header)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def play(variant: Variant) -> str:
    """How a run is played again."""
    return f"`play '{variant.id}'`"


def difference_table(answers: Answers, question: str, base: str) -> str:
    """A question's runs with their losses, and how much above one of them each is."""
    variants = answers.tables[question]
    return table(
        ("run", "loss", f"above “{base}”", "command"),
        (
            (
                label,
                answers[question, label],
                "" if label == base else answers[question, label].minus(answers[question, base]).signed(),
                play(variants[label]),
            )
            for label in variants
        ),
    )
