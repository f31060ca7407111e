"""How much memory, disk and line a role needs: the memory plan, and what crosses the line in a round."""

from __future__ import annotations

from dataclasses import dataclass

from muster.node.compute import CPU, Compute
from muster.plan.memory import Plan, plan_of
from muster.protocol.spec import Template
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.protocol.types import Role


@dataclass(frozen=True, slots=True)
class Needs:
    """What a role needs of a machine: bytes of its `plan`, and what crosses the line each round.

    `up` is one submission at its largest, `down` a bundle of them with every seat taken. The plan's disk is what is
    kept for this participant between two checkpoints twice over, its own bucket only where that is a folder here.
    """

    plan: Plan
    up: int
    down: int


def needs(
    spec: Template, role: Role, compute: Compute = CPU, *, local_bucket: bool = False, text_bytes: int = 0
) -> Needs:
    """What `role` needs in a run, computing so; `text_bytes` of text still have to be fetched."""
    gpus = int(compute.device.type == "cuda")
    plan = plan_of(spec, role, compute, gpus=gpus, local_bucket=local_bucket, text=text_bytes)
    payload = max_payload_bytes(codec_of(spec))
    return Needs(plan, payload, payload * spec.gauntlet.seats)


def step_operations(spec: Template) -> int:
    """Floating point operations of one inner step: six a parameter and token (Kaplan et al., arXiv 2001.08361)."""
    return 6 * layout_of(spec.model).parameters * spec.inner.batch * spec.data.window
