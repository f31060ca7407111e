"""A replica on an older θ for a while: what a record's submissions are worth is measured on the θ they were made from.

The steps since then are taken back by their undo logs and taken again, so no θ is copied, and rounds go on meanwhile:
whoever needs the newest θ goes there first.
"""

from __future__ import annotations

from dataclasses import replace

from muster.node.ledger.participant import Step
from muster.node.replica import Replica


class Rewind:
    """Moves a replica along steps that it has taken, oldest first; from one thread at a time."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._steps: list[Step] = []
        self._taken = 0

    def add(self, step: Step) -> None:
        """The replica, which stood on the newest θ, has taken a step."""
        assert self._taken == len(self._steps), "a step is taken from the newest θ"
        self._steps.append(step)
        self._taken += 1

    def drop(self) -> None:
        """The replica, which stood on the newest θ, has taken the newest step back for good."""
        assert self._taken == len(self._steps), "the newest step is taken back from the newest θ"
        self._steps.pop()
        self._taken -= 1

    def forget(self, before: int) -> None:
        """Let go of the steps of rounds before this one; θ is never moved to before them again."""
        self.to_newest()
        self._steps = [step for step in self._steps if step.before.round >= before]
        self._taken = len(self._steps)

    def to(self, round_: int) -> None:
        """Move θ to where the record of a round was made, which must be one of the steps or the newest θ."""
        place = sum(step.before.round < round_ for step in self._steps)
        while self._taken > place:
            step = self._steps[self._taken - 1]
            if step.log is not None:
                self._replica.undo(step.applied, step.log)
            self._taken -= 1
        while self._taken < place:
            self._retake()

    def to_newest(self) -> None:
        """Move θ to where the ledger stands."""
        while self._taken < len(self._steps):
            self._retake()

    def _retake(self) -> None:
        step = self._steps[self._taken]
        log = self._replica.step(step.applied, step.before.spec)
        self._steps[self._taken] = replace(step, log=log)
        self._taken += 1
