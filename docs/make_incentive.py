"""Writes what follows from the code into docs/incentive.md, so that the page can never say what the code does not.

    .venv/bin/python docs/make_incentive.py                       # the page again
    .venv/bin/python docs/make_incentive.py --run RUN --peer UID  # first take the example from a run of today's rule

The example, `incentive_round.json`, is what a validator of a real run published of a round and of the one before.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import importlib
import inspect
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from incentive_vectors import GAUNTLETS

from muster.history.explain.facts import Sent, sent
from muster.history.explain.gather import read_case
from muster.history.explain.working import Line, Working, lines
from muster.protocol.columns import row_of
from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.pay import incentives
from muster.protocol.incentive.row import PeerState, ScoreRow
from muster.protocol.incentive.score import Evaluated, Finding, judge
from muster.protocol.spec import GauntletSpec, RunSpec, load_template
from muster.protocol.wire import Kind

PAGE = Path(__file__).with_name("incentive.md")
EXAMPLE = Path(__file__).with_name("incentive_round.json")

PEERS = (1, 2, 4, 8, 20)
ROUNDS = (1, 3, 6, 12, 20, 60)
RUNS = {1: 100, 2: 50, 4: 25, 8: 13, 20: 5}
"""How many runs of so many peers are drawn: a hundred peers of each."""
SEED = 11

SIGNAL = 1.4
"""Mean of t of honest peers (measured: 1.25 to 1.55; by definition it has a standard deviation of about 1)."""
SPREAD = 0.25
"""Standard deviation of the ratio of equal peers in one round (measured: 0.2 to 0.3)."""

OTHERS = {
    "muster.protocol.incentive.own_data": ("LIMIT",),
    "muster.protocol.incentive.score": ("MOST_WORK/LEAST_WORK", "FAILURE_MULTIPLIERS", "INACTIVE_MULTIPLIER"),
    "muster.protocol.incentive.row": ("COPY_POINTS/MOST_COPY_POINTS", "COPIER"),
    "muster.protocol.incentive.rating": ("START_MU/START_SIGMA", "_UNITS"),
    "muster.validator.gauntlet.evaluation": ("COMMON_CONTROL",),
    "muster.validator.gauntlet.overlap": ("TILES", "_PAIRS", "_EARLY", "_FEW"),
}
"""Constants of the rule that no spec changes."""


def reasons(owner: type | ModuleType) -> dict[str, str]:
    """What the text after each field or constant says of it."""
    tree = ast.parse(inspect.getsource(owner))
    body = tree.body[0].body if isinstance(owner, type) and isinstance(tree.body[0], ast.ClassDef) else tree.body
    found = {}
    for before, after in pairwise(body):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]),
                ast.Expr(ast.Constant(str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def constants() -> str:
    """The table of the spec's fields, with their values in the preset `tiny`, and of what no spec changes."""
    said, values = reasons(GauntletSpec), load_template("tiny").gauntlet.model_dump()
    rows = ["| constant | value | why |", "|---|---|---|"]
    for name in GauntletSpec.model_fields:
        rows.append(f"| `{name}` | {_shown(values[name])} | {_cell(said[name])} |")
    for module, names in OTHERS.items():
        owner = importlib.import_module(module)
        for name in names:
            together = name.split("/")
            values_of = ", ".join(_shown(getattr(owner, one)) for one in together)
            shown = ", ".join(one.strip("_") for one in together)
            rows.append(f"| {shown} | {values_of} | {_cell(reasons(owner)[together[-1]])} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return "2^30" if value == 2.0**30 else f"{value:.6g}"


def as_gauntlet() -> str:
    """The fields that make the rule Gauntlet's."""
    usual = load_template("tiny").gauntlet.model_dump()
    changed = {**GAUNTLETS, "mu_warmup": 10}
    rows = ["| field | here | as Gauntlet |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| `{n}` | {_shown(usual[n])} | {_shown(v)} |" for n, v in changed.items())])


def example() -> Working:
    """The judgement that the page computes by hand."""
    told = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    rows = tuple(row_of(ScoreRow, row) for row in told["rows"])
    before = {state["hotkey"]: row_of(PeerState, state) for state in told["before"]}
    row = next(row for row in rows if row.uid == told["uid"])
    entry = Sent(told["round"], Kind.ROUND, "", row.windows)
    return Working(row, rows, before, entry, RunSpec.from_bytes(told["spec"].encode()))


def share() -> str:
    """Every step of the example, as `muster explain` prints it."""
    return "\n".join(["```", *(f"{line.word:<12}{line.text}" for line in steps()), "```"])


def steps() -> list[Line]:
    """The steps of the example."""
    return lines(example())


def take(run: str, peer: str) -> None:
    """Make the newest judged round of a run the example."""
    case = asyncio.run(read_case(run, peer, None, None))
    judged = case.judged[0]
    before = judged.before(case.round)
    assert before is not None
    assert sent(case.shown, case.hotkey).accepted
    told = {
        "about": f"What validator {judged.validator} published of round {case.round} and of the one before",
        "round": case.round,
        "uid": case.uid,
        "spec": case.spec.canonical().decode(),
        "before": [asdict(state) for state in before.values()],
        "rows": [asdict(row) for row in judged.files[case.round].rows],
    }
    EXAMPLE.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


@cache
def earned(peers: int) -> dict[int, list[float]]:
    """What each of so many equal peers has got of all pay after some rounds, over all runs, ascending."""
    found: dict[int, list[float]] = {rounds: [] for rounds in ROUNDS}
    draw = random.Random(SEED * 100 + peers)  # noqa: S311 - the page must come out the same every time
    names = [f"{i:02d}" for i in range(peers)]
    spec = load_template("tiny").gauntlet
    for _ in range(RUNS[peers]):
        paid, states = dict.fromkeys(names, 0.0), dict[str, PeerState]()
        for done in range(1, max(ROUNDS) + 1):
            judged = judge(states, {name: luck(draw) for name in names}, spec, 1)
            states = {name: one.state for name, one in judged.items()}
            for name, part in incentives({n: one.score for n, one in judged.items()}, spec.power).items():
                paid[name] += part
            if done in found:
                total = sum(paid.values())
                found[done] += [part / total if total else 0.0 for part in paid.values()]
    return {rounds: sorted(parts) for rounds, parts in found.items()}


def luck(draw: random.Random) -> Finding:
    """One honest peer's round: a gain around 1, and t around `SIGNAL`."""
    gain = max(1.0 + SPREAD * draw.gauss(0.0, 1.0), 0.05)
    outcome = Evaluated(gain + SIGNAL + draw.gauss(0.0, 1.0), gain, Control(1.0, 1.0), Errors(1.0, 0.0))
    return Finding(outcome, windows=1, accepted=True)


def earns() -> str:
    """The table of what one of equal peers has earned: the fair part, and between what bounds nine of ten lie."""
    rows = [
        "| rounds | " + " | ".join(f"{m} miner{'s' * (m > 1)}" for m in PEERS) + " |",
        "|---" * (len(PEERS) + 1) + "|",
    ]
    for rounds in ROUNDS:
        rows.append(f"| {rounds} | " + " | ".join(_band(earned(m)[rounds]) for m in PEERS) + " |")
    return "\n".join(rows)


def _band(parts: Sequence[float]) -> str:
    low, high = (parts[round(q * (len(parts) - 1))] for q in (0.05, 0.95))
    return f"{sum(parts) / len(parts):.0%} ({low:.0%} to {high:.0%})"


def newcomer() -> str:
    """What a newcomer's rounds are worth beside an equal that has been there long, if its μ is high enough."""
    spec, states, found = load_template("tiny").gauntlet, dict[str, PeerState](), []
    finding = Finding(Evaluated(2.0, 1.0, Control(1.0, 1.0), Errors(0.5, 0.0)), windows=1, accepted=True)
    for _ in range(spec.mu_warmup + 1):
        judged = judge(states, {"newcomer": finding}, spec, 1)["newcomer"]
        states = {"newcomer": judged.state}
        found.append(judged.score)
    rounds = " | ".join(str(n) for n in range(1, len(found) + 1))
    return "\n".join([
        f"| measured rounds | {rounds} |",
        "|---" * (len(found) + 1) + "|",
        f"| of an equal's pay | {' | '.join(f'{score / found[-1]:.0%}' for score in found)} |",
    ])  # fmt: skip


BLOCKS = {"constants": constants, "share": share, "earns": earns, "newcomer": newcomer, "as gauntlet": as_gauntlet}


def written(page: str) -> str:
    """The page with each block between `<!-- … -->` and `<!-- end -->` written again."""
    for name, make in BLOCKS.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            raise ValueError(f"the page has no place for {name}")
        page = f"{before}{mark}{make()}\n{end}{after}"
    return page


def main() -> None:
    """Write the page."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--run", help="take the example from this run")
    asked.add_argument("--peer", default="2", help="whose share it is")
    chosen = asked.parse_args()
    if chosen.run:
        take(chosen.run, chosen.peer)
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
