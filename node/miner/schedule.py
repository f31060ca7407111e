"""Learning rates, as pure functions of how far the run is: a restart, or a round more, keeps them.

An inner step is counted from 0 over the whole run: outer step · H + h, so rounds that change nothing do not count.
"""

from __future__ import annotations

import math

from muster.protocol.spec import InnerSpec


def learning_rate(spec: InnerSpec, inner_step: int) -> float:
    """The rate of an inner step. Step s of the warm-up has lr·(s+1)/warmup; what follows is by `schedule`."""
    if inner_step < spec.warmup:
        return spec.lr * (inner_step + 1) / spec.warmup
    return _cosine(spec, inner_step) if spec.schedule == "cosine" else _endless(spec, inner_step)


def _cosine(spec: InnerSpec, inner_step: int) -> float:
    """Half a cosine down to `final_lr` at `total`, and that for ever (Loshchilov & Hutter, arXiv 1608.03983, §3)."""
    if inner_step >= spec.total:
        return spec.final_lr
    progress = (inner_step - spec.warmup) / (spec.total - spec.warmup)
    weight = (1 + math.cos(math.pi * progress)) / 2
    return weight * spec.lr + (1 - weight) * spec.final_lr


def _endless(spec: InnerSpec, inner_step: int) -> float:
    """lr·√(warmup/(s+1)), never below `final_lr`; once a decay begins, a straight line down to that where it is lower.

    The root is that of Vaswani et al. (arXiv 1706.03762, §5.3), line and end those of Zhai et al. (arXiv 2106.04560,
    §3.5): whoever stops anywhere has lost nothing, and trained on from before the decay it is as if it had not been.
    """
    rate = _root(spec, inner_step)
    begin = max(spec.warmup, spec.decay_from * spec.steps)
    if spec.decay_from == 0 or inner_step <= begin:
        return rate
    progress = min(1.0, (inner_step - begin) / (spec.decay_steps * spec.steps))
    return min(rate, (1 - progress) * _root(spec, begin) + progress * spec.final_lr)


def _root(spec: InnerSpec, inner_step: int) -> float:
    return max(spec.final_lr, spec.lr * math.sqrt(spec.warmup / (inner_step + 1)))
