"""The sections in their order, and their time: six minutes in all."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu import bits, card, network, overhead, speed, training
from benchmarks.gpu.section import Section

LOOK = Section("card", 20, card.look)
"""Comes before all others, which are pointless where it finds nothing."""

SECTIONS = (
    Section("bits", 45, bits.work),
    Section("speed", 40, speed.work),
    Section("150m", 25, partial(training.work, preset="150m", compiled=False, allowance=8)),
    Section("150m-compiled", 55, partial(training.work, preset="150m", compiled=True, allowance=8)),
    Section("1b", 35, partial(training.work, preset="1b", compiled=False, allowance=12)),
    Section("1b-compiled", 65, partial(training.work, preset="1b", compiled=True, allowance=12)),
    Section("round", 30, overhead.work),
    Section("network", 45, network.work),
)
