"""A memory plan as a table for people, and as an object for programs."""

from __future__ import annotations

from typing import Any

from muster.plan.memory import Item, Phase, Place, Plan

_PLACES = {Place.GPU: "GPU", Place.HOST: "host memory", Place.DISK: "disk"}
NOT_RUN = (
    "Several GPUs in one peer are planned as FSDP divides them, and are not run by this version: it uses the first GPU."
)


def size(count: int) -> str:
    """Bytes in binary units, three digits."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:.0f} {unit}"


def table(plan: Plan, title: str) -> str:
    """The plan: a block a place, a line an item, with when it is held and why it has its size; then the phases."""
    lines = [title]
    for place, word in _PLACES.items():
        items = [item for item in plan.items if item.place is place]
        if not items:
            continue
        peak, phase = plan.peak(place)
        each = f", each of {plan.gpus}" if place is Place.GPU and plan.gpus > 1 else ""
        when = "" if place is Place.DISK else f" at its most ({phase.value})"
        lines += ["", f"{word}{each}: {size(peak)}{when}"]
        lines += [f"  {size(item.size):>9}  {item.name:<33} {_when(plan, item):<31} {item.why}" for item in items]
        if place is not Place.DISK:
            lines.append("  " + ", ".join(f"{one.value} {size(plan.at(place, one))}" for one in plan.phases))
    if plan.gpus > 1:
        lines += ["", NOT_RUN]
    return "\n".join(lines)


def _when(plan: Plan, item: Item) -> str:
    held = [phase.value for phase in plan.phases if phase in item.phases]
    if len(held) == len(plan.phases):
        return "always"
    if len(held) == len(plan.phases) - 1 and Phase.JOIN not in item.phases:
        return "from then on"
    return ", ".join(held).replace("inner step, forward, inner step, backward", "inner step")


def plan_object(plan: Plan) -> dict[str, Any]:
    """What `--json` prints of a plan; sizes in bytes."""
    peaks = {place.value: plan.peak(place) for place in Place if any(item.place is place for item in plan.items)}
    return {
        "role": plan.role.value,
        "gpus": plan.gpus,
        "runs_here": plan.gpus < 2,
        "peaks": {place: {"bytes": count, "phase": phase.value} for place, (count, phase) in peaks.items()},
        "items": [
            {
                "name": item.name,
                "place": item.place.value,
                "bytes": item.size,
                "phases": [phase.value for phase in plan.phases if phase in item.phases],
                "why": item.why,
            }
            for item in plan.items
        ],
    }
