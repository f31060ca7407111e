"""Where a run's time goes, so that nobody mistakes the study's own cost for the algorithm's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from muster.node.miner.optimizers import InnerOptimizer
from muster.protocol.spec import InnerSpec


@dataclass(slots=True)
class Stopwatch:
    """Processor seconds of one thread's run by part; `optimizer` is contained in `training`.

    Processor time and not the clock's: runs share a machine with others.
    """

    total: float = 0.0
    training: float = 0.0
    optimizer: float = 0.0
    compress: float = 0.0
    outer: float = 0.0
    evaluate: float = 0.0

    @property
    def model(self) -> float:
        """Forward, backward and gradient clip."""
        return self.training - self.optimizer

    @property
    def rest(self) -> float:
        """What is in none of the parts: reading and drawing windows, building models."""
        return self.total - self.training - self.compress - self.outer - self.evaluate

    @property
    def outside_training(self) -> float:
        """Share of the time that is no inner training: what the study itself costs."""
        return 1 - self.training / self.total

    @property
    def outside_model(self) -> float:
        """Share of the time outside the model's forward and backward."""
        return 1 - self.model / self.total

    @contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        began = time.process_time()
        try:
            yield
        finally:
            setattr(self, part, getattr(self, part) + time.process_time() - began)

    @contextmanager
    def time_training(self) -> Iterator[None]:
        """Add what happens inside to `training`, and the optimizers' steps in it to `optimizer` as well."""
        step = InnerOptimizer.step

        def timed(optimizer: InnerOptimizer, inner: InnerSpec, rate: float) -> None:
            with self.time("optimizer"):
                step(optimizer, inner, rate)

        with patch.object(InnerOptimizer, "step", timed), self.time("training"):
            yield
