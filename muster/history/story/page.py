"""A story as a page of text: how the round stands, what happened, what became of each submission, what is waited for.

Whatever comes from a peer passes `printable` on its way to a terminal; the run's id, which stands in every object's
key, is shortened.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from muster.history.status import printable
from muster.history.story.moments import Moment
from muster.history.story.outcome import Submission
from muster.history.story.story import Story
from muster.node.telemetry.words import SHORT, some

WORD = 10
"""Columns of the words on the left of the first part."""

WHO = 24
"""Columns of who did something, at most."""

MIN_TEXT = 30
"""Columns that a sentence has on the narrowest terminal."""


def page(story: Story, width: int) -> str:
    """The whole story, in lines of `width` columns where that leaves sentences `MIN_TEXT`."""
    return _Page(story, width).text()


class _Page:
    """One story, laid out for one width."""

    def __init__(self, story: Story, width: int) -> None:
        self._story = story
        self._width = width
        self._run = story.seen.tip.run_id.hex()

    def text(self) -> str:
        """The page."""
        story, tip = self._story, self._story.seen.tip
        parts = [f"Round {tip.round} of {printable(tip.history.genesis.name)} (run {self._run[: 2 * SHORT]})"]
        parts += [self._wrapped(f"  {word:<{WORD}}", text) for word, text in _standing(story)]
        for title, lines in (
            ("What happened", self._happened(story.happened)),
            ("Submissions, in the order of seats", self._submissions(story.submissions)),
            ("Waiting for", [self._wrapped("  ", line) for line in story.waiting]),
        ):
            if lines:
                parts += ["", title, *lines]
        return "\n".join(line.rstrip() for line in parts)

    def _happened(self, happened: Sequence[Moment]) -> list[str]:
        """One moment a row: when, at which block, who, and what; failures begin with an exclamation mark."""
        if not happened:
            return []
        timed = any(moment.time is not None for moment in happened)
        column = min(WHO, max(len(printable(", ".join(moment.who))) for moment in happened))
        clock = f"{'time':>10}  " if timed else ""
        rows = [f"  {clock}{'block':>7}  {'who':<{column}}  what"]
        for moment in happened:
            time = "" if moment.time is None else f"{moment.time:+.2f} s"
            block = "" if moment.block is None else str(moment.block)
            head = f"{'!' if moment.failed else ' '} {f'{time:>10}  ' if timed else ''}{block:>7}  "
            rows += self._row(head, ", ".join(moment.who), column, moment.what)
        return rows

    def _row(self, head: str, who: str, column: int, what: str) -> list[str]:
        """Two cells that wrap, each in its column, after a head that does not."""
        text = max(MIN_TEXT, self._width - len(head) - column - 2)
        left = textwrap.wrap(printable(who), column, break_on_hyphens=False)
        right = textwrap.wrap(self._shown(what), text, break_on_hyphens=False)
        rows = max(len(left), len(right), 1)
        cells = ((cell + [""] * rows)[:rows] for cell in ([head], left, right))
        return [f"{a:<{len(head)}}{b:<{column}}  {c}" for a, b, c in zip(*cells, strict=True)]

    def _submissions(self, rows: Sequence[Submission]) -> list[str]:
        """One submission a row: its place, whose, what became of it, its score, and its weights or what was wrong."""
        if not rows:
            return []
        scored = any(row.score is not None for row in rows)
        names = max(4, *(len(printable(row.name)) for row in rows))
        outcomes = max(8, *(len(_outcome(row)) for row in rows))
        found = [
            _columns("seat", f"{'peer':<{names}}", f"{'outcome':<{outcomes}}", "score" if scored else "") + "weight"
        ]
        for row in rows:
            name, outcome = f"{printable(row.name):<{names}}", f"{_outcome(row):<{outcomes}}"
            score = "–" if row.score is None else f"{row.score:.3f}"
            head = _columns(str(row.place or "–"), name, outcome, score if scored else "")
            found.append(self._wrapped(head, _weight(row.weight) or row.sentence))
        return found

    def _wrapped(self, head: str, text: str) -> str:
        width, indent = max(self._width, len(head) + MIN_TEXT), " " * len(head)
        return (
            textwrap.fill(
                self._shown(text), width, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False
            )
            or head
        )

    def _shown(self, text: str) -> str:
        return printable(text).replace(self._run, self._run[:SHORT])


def _columns(place: str, name: str, outcome: str, score: str) -> str:
    return f"  {place:>4}  {name}  {outcome}  " + (f"{score:>6}  " if score else "")


def _outcome(row: Submission) -> str:
    """What became of a submission, in a word or, of work that came late, two."""
    if row.late is not None:
        return f"round {row.late}, late"
    return printable(row.reason) or "accepted"


def _weight(weight: tuple[float, float] | None) -> str:
    if weight is None:
        return ""
    low, high = (f"{value:.3f}" for value in weight)
    return low if low == high else f"{low}–{high}"


def _standing(story: Story) -> Iterable[tuple[str, str]]:
    """What stands about the round, a word and a sentence each."""
    seen, opening = story.seen, story.seen.tip.opening
    yield "state", story.state
    yield "leader", story.leader
    yield "opened", f"block {opening.open.number}"
    if not seen.closing:
        yield "expected", story.names.peers(opening.expected)
        yield "due", f"the seal at block {opening.deadline}; from {opening.min_block} on once all expected are in"
    if seen.seal is not None:
        yield "sealed", f"block {seen.seal.block.number}, {some(len(seen.seal.headers), 'submission')}{_late(story)}"
    for one in story.missed:
        yield "waited", f"until block {one.block}, in vain, for the {one.what} of {one.name}"
    yield from _decided(story)
    for problem in seen.problems:
        yield "problem", problem


def _late(story: Story) -> str:
    seen = story.seen
    assert seen.seal is not None
    late = seen.seal.block.number - seen.tip.opening.deadline
    if seen.closing or late < 0:
        return ""
    return f", {some(late, 'block')} after the deadline" if late else ", at the deadline"


def _decided(story: Story) -> Iterable[tuple[str, str]]:
    """What stands in the record."""
    seen, record = story.seen, story.seen.record
    if record is None:
        return
    anchor = f"anchored in block {seen.anchored_at}" if seen.anchored_at is not None else "proven by a later anchor"
    how = anchor if seen.anchored else "not anchored"
    where = "" if seen.decided_at is None else f"block {seen.decided_at}, "
    yield "decided", f"{where}record {seen.digest.hex()[:SHORT]}, {how}"
    for used in record.scores:
        validator = story.names.peer(used.validator, "validator")
        yield "scores", f"of round {used.round} by {validator}, {some(len(used.rows), 'peer')}, stake {used.stake}"
    if not record.scores and seen.tip.score_rounds and not seen.closing:
        yield "scores", "none: who was accepted lately comes first, then the lot decides"
    if record.amendments:
        yield "amended", some(len(record.amendments), "amendment")
    if record.opening is not None:
        yield "next", f"round {record.opening.round}, expected: {story.names.peers(record.opening.expected)}"
