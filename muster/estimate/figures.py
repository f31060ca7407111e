"""The arithmetic: figures from a spec, a machine and prices, each with its source; what is not given stays unknown.

round        max((min_blocks + 1) · block, H · step)      transfers not counted: `muster doctor` measures the line
rounds a day 86400 / round
cost a day   24 · price_per_hour + GB up a day · price_per_gb + slot_price / days
break even   cost a day / emission a day: the share of all miners' pay that pays for this one
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from muster.doctor.needs import Needs, needs
from muster.estimate.machine import Machine
from muster.node.compute import CPU, Compute
from muster.protocol.spec import Template
from muster.protocol.spec.layout import layout_of
from muster.protocol.types import Role

DAY_SECONDS = 86_400
GB = 1e9
BITTENSOR_BLOCK_SECONDS = 12.0
"""What Bittensor's chain takes for a block when it is well; the presets count in it."""

SPEC = "arithmetic from the spec"
PLAN = "the plan of `muster doctor`, from the spec"
NO_STEP = "not known: the machine's step is not"


@dataclass(frozen=True, slots=True)
class Prices:
    """What only the reader knows, all in one currency of his; None is not given. `days` spread the slot's price."""

    per_hour: float | None = None
    per_gb: float | None = None
    slot: float | None = None
    emission: float | None = None
    days: float = 30.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure: a number in its unit (None: not known), and where it comes from or what would make it known."""

    name: str
    value: float | None
    unit: str
    source: str

    def to_json_object(self) -> dict[str, Any]:
        """The figure as `--json` prints it."""
        return {"name": self.name, "value": self.value, "unit": self.unit, "source": self.source}


def estimate_mining(
    template: Template, machine: Machine, prices: Prices, block_seconds: float | None = None
) -> list[Figure]:
    """Everything, in the order it is told."""
    needed, least = _needs(template, CPU), _needs(template, replace(CPU, micro_batch=1, recompute=True)).plan.host
    rounds, found = _time(template, machine, block_seconds)
    up_a_day = None if rounds is None else needed.up * rounds
    there, memory_source = machine.memory, machine.memory_source
    if there is not None and there < least:
        memory_source = f"too little: {memory_source}"
    return [
        Figure("parameters", layout_of(template.model).parameters, "", SPEC),
        *found,
        *_traffic(needed, rounds),
        Figure("memory needed", needed.plan.host, "B", PLAN),
        Figure("memory needed, at least", least, "B", f"{PLAN}, with micro_batch 1 and recompute"),
        Figure("memory there", there, "B", memory_source),
        Figure("disk needed", needed.plan.disk, "B", PLAN),
        *_money(prices, up_a_day),
    ]


def _needs(template: Template, compute: Compute) -> Needs:
    """What the doctor says a miner needs whose bucket is on the network."""
    text = (template.data.windows + template.data.heldout) * template.data.window
    return needs(template, Role.MINER, compute, local_bucket=False, text_bytes=text)


def _time(template: Template, machine: Machine, block_seconds: float | None) -> tuple[float | None, list[Figure]]:
    """Rounds a day, None where the step is not known, and all figures about time."""
    inner, clock = template.inner, template.clock
    block = BITTENSOR_BLOCK_SECONDS if block_seconds is None else block_seconds
    block_source = "Bittensor's" if block_seconds is None else "given: --block-seconds"
    shortest, latest = clock.shortest * block, clock.deadline * block
    step = machine.step_seconds
    compute = None if step is None else step * inner.steps
    seconds = None if compute is None else max(shortest, compute)
    closed = f"blocks of {block:g} s ({block_source}), clock of the spec"
    figures = [
        Figure("inner step", step, "s", machine.step_source),
        Figure("computing a round", compute, "s", f"{inner.steps} inner steps" if compute is not None else NO_STEP),
        Figure("sealed after, at the latest", latest, "s", closed),
    ]
    if compute is not None and compute > latest:
        figures.append(Figure("rounds a day", 0.0, "", "computing takes longer than a round may: every one is missed"))
        return 0.0, figures
    known = seconds is not None
    rounds_in_all = math.ceil(inner.total / inner.steps)
    figures += [
        Figure("round", seconds, "s", f"the longer of computing and {shortest:g} s ({closed})" if known else NO_STEP),
        Figure("rounds a day", DAY_SECONDS / seconds if seconds else None, "", "24 h ÷ round" if known else NO_STEP),
        Figure(
            "computing a day",
            compute * DAY_SECONDS / seconds / 3600 if compute is not None and seconds else None,
            "h",
            "computing a round × rounds a day" if known else NO_STEP,
        ),
        Figure(
            "the schedule in all",
            rounds_in_all * seconds / 3600 if seconds else None,
            "h",
            f"{rounds_in_all} rounds (inner.total ÷ inner.steps)" if known else NO_STEP,
        ),
    ]
    return DAY_SECONDS / seconds if seconds else None, figures


def _traffic(needed: Needs, rounds: float | None) -> list[Figure]:
    day = "a round's × rounds a day" if rounds is not None else "not known: the rounds a day are not"
    return [
        Figure("up a round, at most", needed.up, "B", f"{SPEC}: the largest submission"),
        Figure("down a round, at most", needed.down, "B", f"{SPEC}: a bundle with every seat taken"),
        Figure("up a day, at most", None if rounds is None else needed.up * rounds, "B", day),
        Figure("down a day, at most", None if rounds is None else needed.down * rounds, "B", day),
    ]


def _money(prices: Prices, up_a_day: float | None) -> list[Figure]:
    """Cost and break-even; a part that costs nothing has to be given as 0."""
    sent = None if up_a_day is None else up_a_day / GB
    traffic = 0.0 if prices.per_gb == 0 else None
    if prices.per_gb is not None and sent is not None:
        traffic = prices.per_gb * sent
    parts = {
        "--price-per-hour": None if prices.per_hour is None else 24 * prices.per_hour,
        "--price-per-gb" if prices.per_gb is None else "--machine step": traffic,
        "--slot-price": None if prices.slot is None else prices.slot / prices.days,
    }
    missing = [flag for flag, part in parts.items() if part is None]
    cost = None if missing else sum(part for part in parts.values() if part is not None)
    spent = f"24 h, GB up, and the slot over {prices.days:g} days, at the prices given"
    share = None if cost is None or prices.emission is None else 100 * cost / prices.emission
    wanted = [*missing, *(["--emission"] if prices.emission is None else [])]
    even = "cost a day ÷ emission a day" if share is not None else _ask(wanted)
    return [
        Figure("slot price", prices.slot, "", _given("--slot-price", prices.slot)),
        Figure("cost a day", cost, "", spent if cost is not None else _ask(missing)),
        Figure("emission a day", prices.emission, "", _given("--emission", prices.emission)),
        Figure("break-even share", share, "%", even),
    ]


def _given(flag: str, value: float | None) -> str:
    return f"given: {flag}" if value is not None else _ask([flag])


def _ask(flags: list[str]) -> str:
    return f"not known: give {', '.join(flags)}"
