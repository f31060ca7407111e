"""A run is worth watching only if one glance tells how it goes: live on a terminal, else one line a round.

Rendering is pure (status in, rich renderable out); the `View`s only decide when and where it is printed. All
text that peers had a hand in passes `printable` and is never parsed as rich markup.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import IO, Self

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.filesize import decimal
from rich.live import Live
from rich.padding import Padding
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from muster.history.status import PHASES, PeerRow, RoundRow, RunStatus, RunSummary, printable
from muster.protocol.columns import Kind, columns_of
from muster.protocol.incentive.row import ScoreRow

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 24
WIDE = 100
"""Columns from which the peer table shows everything."""

TITLED = [column for column in columns_of(ScoreRow) if column.about.title]
NARROW_SCORES = ("μ", "ordinal", "weight")
WIDE_SCORES = ("μ", "rating", "score", "weight")
"""What the peer table shows of a judgement; the report shows all that has a title."""

SHOWN_EVENTS = 3
SUMMARY_EVENTS = 8
PLAIN_WIDTH = 100
"""Columns of the summary where there is no terminal to ask."""

ROOT_DIGITS = 16
"""Hexadecimal digits of a root that a person compares; `--json` has all 64."""

CHROME_LINES = 14
"""Lines of the live view that are not peers."""

MISSING = "–"


def sparkline(values: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """A series as block characters, scaled from lowest to highest; a long one is sampled evenly."""
    if not values:
        return ""
    if len(values) > width:
        values = [values[i * (len(values) - 1) // (width - 1)] for i in range(width)]
    low, span = min(values), max(values) - min(values)
    if span == 0:
        return BLOCKS[0] * len(values)
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] for value in values)


def clock(seconds: float) -> str:
    """A duration as m:ss, or h:mm:ss from an hour on."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits, or a dash for what was not measured."""
    return MISSING if value is None else f"{value:.{digits}f}"


def score_cells(score: ScoreRow | None) -> dict[str, str]:
    """What tables show of a judgement, by heading: the LossRating in two ways, and every column that has a title."""
    rating = score and f"{number(score.rating_mu)} ± {number(score.rating_sigma)}"
    cells = {"rating": rating or MISSING, "ordinal": number(score.rating.ordinal if score else None)}
    for column in TITLED:
        value = getattr(score, column.name) if score else None
        if value is None:
            cells[column.about.title] = MISSING
        elif column.about.unit == "share":
            cells[column.about.title] = f"{value:.1%}"
        else:
            cells[column.about.title] = number(value) if column.kind is Kind.NUMBER else str(value)
    return cells


def reasons(rejected: Iterable[tuple[str, int]]) -> str:
    """Rejections as "reason ×count", most frequent first; "" for none."""
    ordered = sorted(rejected, key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{printable(reason)} ×{count}" for reason, count in ordered)


def round_line(row: RoundRow) -> str:
    """One closed round in one line of plain text."""
    phases = ", ".join(f"{phase} {row.phases[phase]:.1f}" for phase in PHASES if phase in row.phases)
    return "  ".join(
        [
            f"round {row.round:>3}",
            "null record" if row.kind == "null" else f"loss {number(row.loss, 4)}",
            f"accepted {row.accepted}/{row.sealed}" + (f" and {row.late} late" if row.late else ""),
            f"{row.seconds:.1f} s" + (f" ({phases})" if phases else ""),
            f"up {decimal(row.bytes_up)}",
            f"root {row.root[:ROOT_DIGITS]}",
        ]
    )


def loss_line(status: RunStatus) -> Text:
    """The held-out loss now, its course, and what letter frequencies alone would give."""
    losses = status.losses
    now = f"{losses[-1]:.4f}" if losses else MISSING
    text = Text.assemble("held-out loss ", (now, "bold"), " nat/byte  ", (sparkline(losses), "cyan"))
    return text.append(f"  unigram {status.unigram:.4f}", "dim")


def accepted_cell(peer: PeerRow) -> str:
    """How many of a peer's submissions were accepted, and taken in late, of how many."""
    return f"{peer.accepted}{f'+{peer.late}' if peer.late else ''}/{peer.submitted}"


def peer_table(peers: Sequence[PeerRow], *, wide: bool, limit: int | None = None) -> RenderableType:
    """The miners, most rewarded first; `limit` rows at most, and a line that counts the rest."""
    table = Table(box=box.SIMPLE_HEAD, expand=True, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("uid", justify="right")
    table.add_column("miner", no_wrap=True, max_width=16)
    table.add_column("behaviour", no_wrap=True, max_width=16)
    table.add_column("accepted", justify="right", no_wrap=True)
    table.add_column("rejected", no_wrap=True, ratio=1, overflow="ellipsis")
    shown = WIDE_SCORES if wide else NARROW_SCORES
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    ordered = sorted(peers, key=lambda peer: (-(peer.score.incentive if peer.score else 0.0), peer.uid))
    for peer in ordered[:limit]:
        cells = score_cells(peer.score)
        honest = peer.behaviour == "honest"
        table.add_row(
            Text(str(peer.uid)),
            Text(printable(peer.label)),
            Text(printable(peer.behaviour), style="" if honest else "yellow"),
            Text(accepted_cell(peer)),
            Text(reasons(peer.rejected.items()), style="red"),
            *(Text(cells[name]) for name in shown),
        )
    hidden = 0 if limit is None else max(0, len(ordered) - limit)
    return Group(table, Text(f"… and {hidden} more", style="dim")) if hidden else table


class Dashboard:
    """The live view as a renderable that fits itself to the terminal it is printed on."""

    def __init__(self, status: RunStatus, events: Sequence[str]) -> None:
        self._status = status
        self._events = tuple(events)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status = self._status
        yield Panel(
            Group(self._progress(), loss_line(status), self._processes()),
            title=Text(f"muster · {printable(status.preset)} · run {status.run_id[:ROOT_DIGITS]}", "bold"),
            title_align="left",
            box=box.ROUNDED,
            border_style="cyan",
        )
        room = max(1, console.height - CHROME_LINES)
        yield peer_table(status.peers, wide=options.max_width >= WIDE, limit=room)
        for event in self._events[-SHOWN_EVENTS:]:
            yield Text(f"· {printable(event)}", style="dim", no_wrap=True, overflow="ellipsis")

    def _progress(self) -> RenderableType:
        status = self._status
        done = len(status.rounds)
        grid = Table.grid(expand=True, padding=(0, 1, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True, justify="right")
        eta = MISSING if status.eta_s is None else clock(status.eta_s)
        grid.add_row(
            Text.assemble((f"{done}/{status.rounds_total}", "bold"), " rounds"),
            ProgressBar(total=max(1, status.rounds_total), completed=done),
            Text(f"elapsed {clock(status.elapsed_s)}  left {eta}"),
        )
        return grid

    def _processes(self) -> Text:
        status = self._status
        down = [process.name for process in status.processes if not process.alive]
        restarts = sum(process.restarts for process in status.processes)
        text = Text.assemble(f"round {status.round} ", (printable(status.phase), "green"), no_wrap=True)
        text.append(f"  {len(status.processes) - len(down)} processes", "dim")
        if restarts:
            text.append(f"  restarts {restarts}", "yellow")
        if down:
            text.append(f"  down: {', '.join(map(printable, down))}", "red")
        if status.note:
            text.append(f"  {printable(status.note)}")
        text.overflow = "ellipsis"
        return text


class Summary:
    """The last thing a run prints, as a renderable that fits itself to the terminal it is printed on."""

    def __init__(self, summary: RunSummary) -> None:
        self._summary = summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        summary = self._summary
        title = f"{len(summary.rounds)} rounds of {printable(summary.preset)} in {clock(summary.wall_s)}"
        yield Panel(
            self._facts(),
            title=Text(title, "bold"),
            title_align="left",
            box=box.ROUNDED,
            border_style="green" if summary.roots_agree else "red",
        )
        yield peer_table(summary.peers, wide=options.max_width >= WIDE)
        hidden = len(summary.events) - SUMMARY_EVENTS
        for event in summary.events[:SUMMARY_EVENTS]:
            yield Text(f"· {printable(event)}", style="dim")
        if hidden > 0:
            yield Text(f"· {hidden} more events in the report", style="dim")
        for label, path in (("report", summary.report), ("run", summary.directory)):
            yield Text.assemble((f"{label:<7}", "dim"), printable(path), overflow="fold")

    def _facts(self) -> RenderableType:
        summary = self._summary
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column()
        agree = Text.assemble(("all honest replicas agree", "green"), f" on root {summary.state_root[:ROOT_DIGITS]}")
        grid.add_row("state", agree if summary.roots_agree else Text("honest replicas DISAGREE", "bold red"))
        losses = summary.losses
        course = f"{losses[0]:.4f} → {losses[-1]:.4f}" if losses else MISSING
        grid.add_row("loss", Text(f"{course} nat/byte held out (unigram {summary.unigram:.4f})"))
        grid.add_row("", Text(sparkline(losses), "cyan"))
        wire = f"{summary.bits_per_value:.2f} bits per kept value"
        grid.add_row("wire", Text(f"{wire}, {summary.compression_ratio:.0f}× smaller than fp32"))
        traffic = f"{decimal(summary.bytes_up)} up, {decimal(summary.bytes_down)} down"
        grid.add_row("traffic", Text(traffic))
        use = f"{summary.utilisation:.1%} of the miners' time in inner steps"
        grid.add_row("use", Text(f"{use}; first record after {summary.first_record_s:.1f} s"))
        return grid


def render_summary(summary: RunSummary) -> RenderableType:
    """The final summary: loss, agreement, traffic, peers, events, and where report and run lie."""
    return Padding(Summary(summary), (1, 0, 0, 0))


class View(ABC):
    """Where a run shows itself. As a context manager it gives the terminal back however the run ended."""

    @abstractmethod
    def update(self, status: RunStatus) -> None:
        """Show how the run stands."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Show that something happened: a restart, a missed deadline."""

    @abstractmethod
    def finish(self, summary: RunSummary) -> None:
        """Show how the run ended."""

    def close(self) -> None:
        """Give the terminal back; calling it again is fine."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LiveView(View):
    """A dashboard that is redrawn in place at each update (no refresh thread: the caller sets the pace)."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False)
        self._events: deque[str] = deque(maxlen=SHOWN_EVENTS)
        self._status: RunStatus | None = None

    def update(self, status: RunStatus) -> None:
        """Redraw."""
        self._status = status
        if not self._live.is_started:
            self._live.start()
        self._live.update(Dashboard(status, self._events), refresh=True)

    def note(self, text: str) -> None:
        """Add a line below the peers; the oldest of `SHOWN_EVENTS` goes."""
        self._events.append(text)
        if self._status is not None:
            self.update(self._status)

    def finish(self, summary: RunSummary) -> None:
        """Replace the dashboard with the summary."""
        self._live.transient = True
        self.close()
        self._console.print(render_summary(summary))

    def close(self) -> None:
        """Stop redrawing; the last dashboard stays on the screen unless the summary replaces it."""
        self._live.stop()


class PlainView(View):
    """One line per closed round and per event: for logs, pipes and `--json`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._shown = 0

    def update(self, status: RunStatus) -> None:
        """Print the rounds closed since the last update; the newest waits for its loss, which is measured after."""
        self._show(status.rounds, waiting=True)

    def _show(self, rounds: Sequence[RoundRow], *, waiting: bool) -> None:
        while self._shown < len(rounds):
            row, newest = rounds[self._shown], self._shown + 1 == len(rounds)
            if waiting and newest and row.loss is None and row.kind == "round":
                return
            self._print(round_line(row))
            self._shown += 1

    def note(self, text: str) -> None:
        """Print a line."""
        self._print(f"· {printable(text)}")

    def finish(self, summary: RunSummary) -> None:
        """Print what is missing, then the summary."""
        self._show(summary.rounds, waiting=False)
        console = Console(file=self._stream, width=PLAIN_WIDTH, color_system=None, force_terminal=False)
        console.print(render_summary(summary))

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def make_view(console: Console, json: bool) -> View:
    """The view that fits: plain on stderr with `--json` (whose object owns stdout), live on a terminal."""
    if json:
        return PlainView(sys.stderr)
    return LiveView(console) if console.is_terminal else PlainView(console.file)
