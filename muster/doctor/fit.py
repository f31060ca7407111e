"""How the memory plan fits this machine: as set, as the miner makes do by itself, or as its operator must set it."""

from __future__ import annotations

from dataclasses import dataclass

from muster.node.compute import Card, Compute
from muster.plan.fit import as_settings, fitting, ways
from muster.plan.memory import Plan, plan_of
from muster.protocol.spec import Template
from muster.protocol.types import Role

USABLE = 0.95
"""Of a GPU's memory: torch's allocator rounds up and splits, and keeps what it has split (an allowance, not a law)."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The `plan` as set, and bytes of the GPU that can be used.

    `by_itself` is how a miner will compute where it does not fit and its engine notices (it halves its parts of a batch
    on a GPU); `way` the settings under which it fits, where its operator must change them. "" where there is none.
    `least` is the plan of the way that needs least, where not even that fits.
    """

    plan: Plan
    card: int
    by_itself: str = ""
    way: str = ""
    least: Plan | None = None


def fit_of(spec: Template, role: Role, compute: Compute, card: Card | None, host: int) -> Fit:
    """How a role's plan fits so many bytes of host memory and, where it computes on one, the GPU."""
    on_gpu = compute.device.type == "cuda"
    gpus, room = int(on_gpu), int(USABLE * card.memory) if on_gpu and card else 0

    def planned(way: Compute) -> Plan:
        return plan_of(spec, role, way, gpus=gpus)

    plan = planned(compute)
    if role is not Role.MINER or (plan.gpu <= room and plan.host <= host):
        return Fit(plan, room)
    way = fitting(compute, spec.inner.batch, planned, room, host)
    if way is None:
        return Fit(plan, room, least=planned(list(ways(compute, spec.inner.batch))[-1]))
    if on_gpu and way.moments == compute.moments and plan.host <= host:
        return Fit(plan, room, by_itself=way.said())
    return Fit(plan, room, way=as_settings(way, compute))
