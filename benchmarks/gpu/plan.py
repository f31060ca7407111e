"""The sections in their order, and their time: six minutes in all."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu import bits, card, network, overhead, speed, training
from benchmarks.gpu.section import Section

LOOK = Section("card", 15, card.look)
"""Comes before all others, which are pointless where it finds nothing."""

SECTIONS = (
    Section("bits", 40, bits.work),
    Section("speed", 35, speed.work),
    Section("150m", 20, partial(training.work, preset="150m", compiled=False, allowance=6)),
    Section("150m-compiled", 60, partial(training.work, preset="150m", compiled=True, allowance=6)),
    Section("1b", 30, partial(training.work, preset="1b", compiled=False, allowance=8)),
    Section("1b-compiled", 90, partial(training.work, preset="1b", compiled=True, allowance=8)),
    Section("round", 25, overhead.work),
    Section("network", 45, network.work),
)
