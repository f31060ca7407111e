"""Which way of computing fits a machine: what a miner can give up for memory, the cheapest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from muster.node.compute import Compute
from muster.node.wished import Moments
from muster.plan.memory import Plan

LESS: tuple[Moments, ...] = ("full", "8bit", "factored")
"""Moments by what they hold; each later one holds less."""


def ways(compute: Compute, batch: int) -> Iterator[Compute]:
    """This way and those that need less memory: smaller parts of a batch, which cost next to nothing; then activations
    made again, a third more work; then fewer bytes of moments, which are another optimizer's steps."""
    first = min(compute.micro_batch or batch, batch)
    for moments in LESS[LESS.index(compute.moments) :]:
        for recompute in (compute.recompute, True):
            part = first
            while True:
                yield replace(compute, micro_batch=part if part < batch else None, recompute=recompute, moments=moments)
                if part == 1:
                    break
                part = -(-part // 2)
            if recompute:
                break


def fitting(compute: Compute, batch: int, planned: Callable[[Compute], Plan], gpu: int, host: int) -> Compute | None:
    """The first way whose plan fits so many bytes of GPU and of host; None where none does."""
    for way in ways(compute, batch):
        plan = planned(way)
        if plan.gpu <= gpu and plan.host <= host:
            return way
    return None


def as_settings(way: Compute, now: Compute) -> str:
    """The settings that make one way of another, for a person to set: "micro_batch 4, moments 8bit"."""
    words = []
    if way.micro_batch is not None and way.micro_batch != now.micro_batch:
        words.append(f"micro_batch to {way.micro_batch}")
    if way.recompute and not now.recompute:
        words.append("recompute to true")
    if way.moments != now.moments:
        words.append(f"moments to {way.moments}")
    return " and ".join(words)
