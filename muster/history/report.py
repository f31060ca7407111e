"""What remains of a run for people: one HTML page that needs no network, no script and no Muster to be read.

Charts are inline SVG drawn here from the numbers, with colours from the page's style sheet, so that they
follow the reader's light or dark scheme. The same summary gives the same bytes.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.filesize import decimal

from muster.history.status import PHASES, PeerRow, RunSummary, printable
from muster.history.view import ROOT_DIGITS, accepted_cell, clock, score_cells
from muster.protocol.errors import StorageError
from muster.protocol.reasons import sentence_of

WIDTH, HEIGHT = 460, 230
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 12, 36
"""A chart's size and margins in SVG user units (CSS pixels at full width)."""

TICKS = 6
"""Intervals an axis is divided into, about."""

HUES = 6
"""Colours of the style sheet; series after the sixth take them again."""

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2330;--dim:#667085;--line:#e2e6ec;--good:#16794a;
--bad:#c02b2b;--c0:#2563c9;--c1:#d9730d;--c2:#1f9d63;--c3:#b83aa0;--c4:#7a5af0;--c5:#8a6d00}
@media (prefers-color-scheme:dark){:root{--bg:#12161d;--fg:#e4e8ef;--dim:#98a2b3;--line:#2b3340;
--good:#4cc38a;--bad:#ff7b72;--c0:#6ea8fe;--c1:#ffa657;--c2:#56d39b;--c3:#f08bdc;--c4:#b39dff;--c5:#e3c34d}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:60rem;background:var(--bg);color:var(--fg);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem;line-height:1.25;margin:.2rem 0 .6rem}h2{font-size:1.1rem;margin:2rem 0 .4rem}
.dim,figcaption,th{color:var(--dim);font-weight:normal}.good{color:var(--good)}.bad{color:var(--bad)}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.4rem,1fr));gap:.6rem;margin:1rem 0}
.facts div{border:1px solid var(--line);border-radius:.5rem;padding:.5rem .8rem}
.facts b{display:block;font-size:1.2rem}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem}
figure{margin:0;min-width:0}figcaption{font-size:.85rem}.key{white-space:nowrap}.key i{font-style:normal}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--dim);font:12px system-ui,sans-serif}.grid{stroke:var(--line)}.base{stroke:var(--dim)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
.text{text-align:left}.wrap{text-align:left;white-space:normal;min-width:11rem}
code,pre{font:.85rem ui-monospace,monospace;overflow-wrap:anywhere}
pre{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem;white-space:pre-wrap;margin:.4rem 0}
""" + "".join(f".s{i}{{stroke:var(--c{i})}}.f{i}{{fill:var(--c{i})}}.k{i}{{color:var(--c{i})}}\n" for i in range(HUES))


@dataclass(frozen=True, slots=True)
class Frame:
    """A chart's axes: data ranges (low, high) that map onto the plotting area."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Data to SVG coordinates."""
        (x0, x1), (y0, y1) = self.x, self.y
        across = (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
        return LEFT + across, HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Iterable[tuple[float, float]]) -> str:
        """An SVG polyline's coordinates, to a tenth of a unit."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*point) for point in points))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers (1, 2 or 5 × 10ⁿ apart) that lie within a range, `TICKS` or a few more."""
    raw = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def span(values: Iterable[float], *, zero: bool = False) -> tuple[float, float]:
    """The range of an axis that shows `values`, 5 % wider than they are, from 0 with `zero`; never empty."""
    known = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = (high - low) * 0.05 or max(abs(high) * 0.05, 1e-3)
    return (low if zero and low == 0 else low - margin), high + margin


def chart(frame: Frame, label: Callable[[float], str], title: str, marks: Iterable[str]) -> str:
    """An SVG element: grid, axis labels (`label` writes the vertical one's) and `marks` (SVG elements)."""
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(*frame.y):
        _, y = frame.at(frame.x[0], value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label(value))}</text>')
    for value in ticks(*frame.x):
        if value == round(value):
            x, _ = frame.at(value, frame.y[0])
            parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">round</text>')
    return "".join([*parts, *marks, "</svg>"])


def bars(frame: Frame, x: float, heights: Iterable[tuple[int, float, str]]) -> Iterable[str]:
    """A stack at `x`: (colour, height, hover text) from the bottom up. One round is one unit wide."""
    base = 0.0
    left, _ = frame.at(x - 0.36, 0)
    right, _ = frame.at(x + 0.36, 0)
    for hue, height, text in heights:
        (_, low), (_, high) = frame.at(x, base), frame.at(x, base + height)
        base += height
        yield (
            f'<rect class="f{hue}" x="{left:.1f}" width="{right - left:.1f}" y="{high:.1f}" '
            f'height="{max(0.0, low - high):.1f}"><title>{escape(text)}</title></rect>'
        )


def legend(names: Iterable[tuple[int, str]]) -> str:
    """Colour keys as HTML, for a figure's caption."""
    return " ".join(
        f'<span class="key"><i class="k{hue}">■</i> {escape(printable(name))}</span>' for hue, name in names
    )


def _figure(title: str, svg: str, caption: str) -> str:
    return f"<figure><h2>{escape(title)}</h2>{svg}<figcaption>{caption}</figcaption></figure>"


def loss_figure(summary: RunSummary) -> str:
    """Held-out loss after each round over the unigram line."""
    points = [(float(row.round), row.loss) for row in summary.rounds if row.loss is not None]
    points = [(x, y) for x, y in points if math.isfinite(y)]
    frame = Frame(span([x for x, _ in points]), span([y for _, y in points] + [summary.unigram]))
    baseline = frame.path([(frame.x[0], summary.unigram), (frame.x[1], summary.unigram)])
    marks = [
        f'<polyline class="base" points="{baseline}" stroke-dasharray="5 4" fill="none"/>',
        f'<polyline class="s0" points="{frame.path(points)}" fill="none" stroke-width="2"/>',
    ]
    for x, y in points:
        cx, cy = frame.at(x, y)
        hover = f"<title>round {x:g}: {y:.4f}</title>"
        marks.append(f'<circle class="f0" cx="{cx:.1f}" cy="{cy:.1f}" r="3">{hover}</circle>')
    caption = f"nat/byte on text nobody trains on; dashed: letter frequencies alone ({summary.unigram:.4f})"
    return _figure("Held-out loss", chart(frame, "{:g}".format, "held-out loss by round", marks), caption)


def rating_figure(summary: RunSummary) -> str:
    """Each peer's LossRating over the rounds: mu with a band of ±sigma."""
    names = {peer.hotkey: peer.label for peer in summary.peers}
    order = {peer.hotkey: peer.uid for peer in summary.peers}
    history = sorted(
        ((hotkey, points) for hotkey, points in summary.ratings_history.items() if points),
        key=lambda item: (order.get(item[0], math.inf), item[0]),
    )
    every = [point for _, points in history for point in points]
    frame = Frame(
        span([float(point[0]) for point in every]),
        span([value for _, mu, sigma in every for value in (mu - sigma, mu + sigma)]),
    )
    bands, lines = [], []
    for i, (hotkey, points) in enumerate(history):
        edge = [(r, mu + sigma) for r, mu, sigma in points] + [(r, mu - sigma) for r, mu, sigma in points[::-1]]
        bands.append(f'<polygon class="f{i % HUES}" points="{frame.path(edge)}" fill-opacity=".12"/>')
        middle = frame.path((r, mu) for r, mu, _ in points)
        title = escape(printable(names.get(hotkey, hotkey)))
        lines.append(
            f'<polyline class="s{i % HUES}" points="{middle}" fill="none" stroke-width="2">'
            f"<title>{title}</title></polyline>"
        )
    key = legend((i % HUES, names.get(hotkey, hotkey[:8])) for i, (hotkey, _) in enumerate(history))
    svg = chart(frame, "{:g}".format, "rating by round", bands + lines)
    return _figure("Ratings", svg, f"LossRating mu ± sigma · {key}" if key else "nobody was rated")


def traffic_figure(summary: RunSummary) -> str:
    """Bytes put (and, where counted, fetched) per round."""
    fetched = any(row.bytes_down is not None for row in summary.rounds)
    heights = [float(row.bytes_up + (row.bytes_down or 0)) for row in summary.rounds]
    frame = Frame(_round_axis(summary), span(heights, zero=True))
    marks: list[str] = []
    for row in summary.rounds:
        stack = [(0, float(row.bytes_up), f"round {row.round}: {decimal(row.bytes_up)} up")]
        if row.bytes_down is not None:
            stack.append((1, float(row.bytes_down), f"round {row.round}: {decimal(row.bytes_down)} down"))
        marks += bars(frame, row.round, stack)
    key = legend([(0, "up"), (1, "down")] if fetched else [(0, "up")])
    caption = f"{key} · {summary.compression_ratio:.0f}× smaller than dense fp32"
    caption += f", {summary.bits_per_value:.2f} bits per kept value"
    svg = chart(frame, lambda value: decimal(int(value)), "bytes by round", marks)
    return _figure("Traffic per round", svg, caption)


def phase_figure(summary: RunSummary) -> str:
    """Where each round's time went."""
    frame = Frame(_round_axis(summary), span([sum(row.phases.values()) for row in summary.rounds], zero=True))
    marks: list[str] = []
    for row in summary.rounds:
        spent = [(i, phase, row.phases.get(phase, 0.0)) for i, phase in enumerate(PHASES)]
        stack = [(i, seconds, f"round {row.round}, {phase}: {seconds:.2f} s") for i, phase, seconds in spent]
        marks += bars(frame, row.round, stack)
    svg = chart(frame, "{:g} s".format, "seconds by phase and round", marks)
    return _figure("Time per round", svg, legend(enumerate(PHASES)))


def _round_axis(summary: RunSummary) -> tuple[float, float]:
    numbers = [row.round for row in summary.rounds] or [0]
    return min(numbers) - 0.6, max(numbers) + 0.6


def headline(summary: RunSummary) -> str:
    """The run in one sentence of plain text."""
    losses = summary.losses
    course = f" from {losses[0]:.3f} to {losses[-1]:.3f} nat/byte" if len(losses) > 1 else ""
    peers = f"{len(summary.peers)} miner{'' if len(summary.peers) == 1 else 's'}"
    agree = "every honest replica holds the same bits" if summary.roots_agree else "honest replicas disagree"
    verb = "brought held-out loss" + course if course else "closed"
    return f"{peers} {verb} in {len(summary.rounds)} rounds; {agree}."


def _facts(summary: RunSummary) -> str:
    facts = [
        (clock(summary.wall_s), "wall time"),
        (f"{summary.first_record_s:.1f} s", "to the first record"),
        (f"{summary.utilisation:.1%}", "of miner time in inner steps"),
        (decimal(summary.bytes_up), "sent"),
        (decimal(summary.bytes_down), "fetched"),
        (f"{summary.compression_ratio:.0f}×", "smaller than dense fp32"),
    ]
    return "".join(f"<div><b>{escape(value)}</b><span class=dim>{name}</span></div>" for value, name in facts)


def _peer_cells(peer: PeerRow) -> str:
    texts = [str(peer.uid), printable(peer.label), printable(peer.behaviour)]
    numbers = [accepted_cell(peer), *score_cells(peer.score).values()]
    cells = "".join(f"<td class=text>{escape(text)}</td>" for text in texts)
    cells += "".join(f"<td class=wrap>{escape(text)}</td>" for text in (_rejections(peer), printable(peer.why)))
    cells += "".join(f"<td>{escape(text)}</td>" for text in numbers)
    return f'<tr title="{escape(printable(peer.hotkey))}">{cells}</tr>'


def _rejections(peer: PeerRow) -> str:
    """Why its submissions were rejected, most frequent first, each as its sentence."""
    ordered = sorted(peer.rejected.items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{count} × {printable(sentence_of(reason))}" for reason, count in ordered)


def _peer_table(peers: Sequence[PeerRow]) -> str:
    head = "".join(f"<th class=text>{name}</th>" for name in ("uid", "miner", "behaviour", "rejected", "pay"))
    head += "".join(f"<th>{n}</th>" for n in ("accepted", *score_cells(None)))
    rows = "".join(_peer_cells(peer) for peer in sorted(peers, key=lambda peer: peer.uid))
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def render_report(summary: RunSummary) -> str:
    """The page as a string; a pure function of the summary."""
    run = escape(printable(summary.run_id))
    roots = "\n".join(
        f"{row.round:>4}  {escape(printable(root[:ROOT_DIGITS]))}"
        for row, root in zip(summary.rounds, summary.state_roots, strict=False)
    )
    events = "".join(f"<li>{escape(printable(event))}</li>" for event in summary.events)
    figures = loss_figure(summary) + rating_figure(summary) + traffic_figure(summary) + phase_figure(summary)
    tone = "good" if summary.roots_agree else "bad"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<title>Muster · {escape(printable(summary.preset))} · {run[:16]}</title><style>{STYLE}</style></head><body>
<p class="dim">Muster · preset {escape(printable(summary.preset))} · run <code>{run}</code></p>
<h1 class="{tone}">{escape(headline(summary))}</h1>
<div class="facts">{_facts(summary)}</div>
<div class="charts">{figures}</div>
<h2>Miners</h2>{_peer_table(summary.peers)}
<h2>Check it yourself</h2>
<p>An audit trusts nobody: it replays signatures, digests, selection, weights and every outer step.</p>
<pre>muster audit {escape(shlex.quote(printable(summary.directory)))}</pre>
<p>Why a miner is paid what it is paid, with all the arithmetic:</p>
<pre>muster explain {escape(shlex.quote(printable(summary.directory)))} --peer UID</pre>
<h2>State roots</h2>
<p class="dim">After each round; two replicas with one root hold the same bits. The last:</p>
<pre>{escape(printable(summary.state_root))}</pre><pre>{roots}</pre>
<h2>Events</h2>{f"<ul>{events}</ul>" if events else "<p>Nothing went wrong.</p>"}
</body></html>
"""


def write_report(summary: RunSummary, path: Path) -> None:
    """Write the page to `path`, whole or not at all.

    Raises:
        StorageError: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(render_report(summary), encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write the report {path}: {error.strerror}") from error
