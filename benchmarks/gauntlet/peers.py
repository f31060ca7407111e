"""What each role sends in a round: honest peers by the product's engine and compression, attackers in their ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from benchmarks.gauntlet import forge
from benchmarks.gauntlet.scenarios import Role
from muster.kernels import SparseUpdate, compress, compress_
from muster.node.data.dataset import TextReader
from muster.node.miner.engine import Job
from muster.node.miner.inner import LocalEngine
from muster.node.replica import Replica
from muster.protocol.rules.assignment import assigned, share, unassigned
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import RunSpec
from muster.protocol.spec.layout import codec_of


@dataclass(frozen=True, slots=True)
class Sent:
    """A submission: the update, and the ids of the windows it says it was trained on."""

    update: SparseUpdate
    declared: list[int]


@dataclass(frozen=True, slots=True)
class Last:
    """What everybody knows of the round before: who sent what, who was accepted and best, θ before it less θ."""

    sent: Mapping[str, Sent]
    accepted: Sequence[str]
    best: str
    step: Sequence[Tensor]


@dataclass(slots=True)
class Now:
    """An open round: θ, the beacon, the slots, the round before, and what has been sent so far."""

    round: int
    seed: int
    spec: RunSpec
    text: TextReader
    replica: Replica
    outer_step: int
    assign: bytes
    slots: Mapping[str, int]
    last: Last | None
    sent: dict[str, Sent] = field(default_factory=dict)

    def assigned(self, name: str, count: int) -> list[int]:
        """The first windows assigned to a role's slot."""
        return assigned(self.assign, self.slots[name], self.spec.data, count)

    def draws(self, name: str) -> int:
        """A seed that depends on the run's, the role and the round alone."""
        digest = blake3(f"muster/gauntlet/{self.seed}/{name}/{self.round}".encode()).digest(length=4)
        return int.from_bytes(digest, "little")


class Sender(ABC):
    """Whoever takes part: makes an update a round, and says what windows it was trained on."""

    def __init__(self, role: Role, spec: RunSpec) -> None:
        self.role = role
        self.codec = codec_of(spec)

    def __call__(self, now: Now) -> Sent | None:
        """A round's submission, or None where there is nothing to make one of."""
        update = self.update(now)
        return None if update is None else Sent(update, now.assigned(self.role.name, self.role.declares))

    @abstractmethod
    def update(self, now: Now) -> SparseUpdate | None:
        """The update of a round."""


class Trainer(Sender):
    """Trains with the product's engine and keeps error feedback as the product does: what is sent counts as sent."""

    def __init__(self, role: Role, spec: RunSpec) -> None:
        super().__init__(role, spec)
        self._inner = spec.inner.model_copy(update={"steps": role.steps, "batch": role.batch})
        self._h = spec.inner.steps
        self._engine = LocalEngine(spec.model, spec.inner)
        self._decay = spec.sparse.error_decay
        self._error: Sequence[Tensor] = [torch.zeros(shape) for shape in self.codec.grid.shapes]

    def windows(self, now: Now) -> list[int]:
        """What it trains on, in order: its own, or of each key it works for in turn a batch."""
        role = self.role
        names, count = role.shares or (role.name,), role.steps * role.batch
        lists = [now.assigned(name, count) for name in names]
        found: list[int] = []
        for step in range(role.steps):
            turn, who = divmod(step, len(names))
            found += lists[who][turn * role.batch : (turn + 1) * role.batch]
        return found

    def delta(self, now: Now) -> Sequence[Tensor]:
        """Δ after its inner steps; the schedule is the run's."""
        windows = now.text.windows(self.windows(now))
        job = Job(now.round, now.outer_step * self._h, self._inner, windows)
        return self._engine.run(now.replica, job).tensors

    def worked(self, now: Now) -> SparseUpdate:
        """What of Δ is sent; the rest waits."""
        delta = self.delta(now)
        update = compress_(delta, self._error, self._decay, self.codec)
        self._error = delta
        return update

    def update(self, now: Now) -> SparseUpdate | None:
        """A round's honest work, or as much of it as the role does."""
        return self.worked(now)


class Flipped(Trainer):
    """Trains, and sends the contrary."""

    def update(self, now: Now) -> SparseUpdate | None:
        """The opposite of a round's honest work."""
        return forge.flipped(self.worked(now))


class WrongData(Trainer):
    """Does a whole round's work on windows that are nobody's."""

    def windows(self, now: Now) -> list[int]:
        """Windows of nobody's share."""
        beacon = blake3(self.role.name.encode() + now.assign).digest()
        positions = sample(beacon, b"wrong", share(now.spec.data), self.role.steps * self.role.batch)
        return unassigned(now.assign, now.spec.data, positions)


class Stale(Trainer):
    """Trains in one round of `factor`, and sends what came of it in the others, too."""

    _kept: SparseUpdate | None = None

    def update(self, now: Now) -> SparseUpdate | None:
        """The update it has, or a new one."""
        if self._kept is None or now.round % int(self.role.factor) == 0:
            self._kept = self.worked(now)
        return self._kept


class Mixer(Trainer):
    """Averages the updates of the round before, and changes the mean a little.

    By noise of `factor` times each tensor's size; who does fewer steps than a whole round's adds what these give on its
    own windows, `factor` times, instead.
    """

    def update(self, now: Now) -> SparseUpdate | None:
        """A mixture, from the second round on."""
        if now.last is None or not now.last.accepted:
            return None
        mean = forge.mean_of([now.last.sent[name].update for name in now.last.accepted])
        factor = self.role.factor
        if self.role.steps < self._h:
            return compress([a + factor * b for a, b in zip(mean, self.delta(now), strict=True)], self.codec)
        draws = torch.Generator().manual_seed(now.draws(self.role.name))
        noise = [a.pow(2).mean().sqrt() * torch.randn(a.shape, generator=draws) for a in mean]
        return compress([a + factor * b for a, b in zip(mean, noise, strict=True)], self.codec)


class Rider(Sender):
    """Sends the direction that θ has just moved in, or a sum of the last ones decayed by `factor`."""

    _direction: Sequence[Tensor] | None = None

    def update(self, now: Now) -> SparseUpdate | None:
        """The direction, from the second round on."""
        if now.last is None:
            return None
        step, before = now.last.step, self._direction
        if before is None:
            self._direction = [tensor.clone() for tensor in step]
        else:
            self._direction = [self.role.factor * a + b for a, b in zip(before, step, strict=True)]
        return compress(self._direction, self.codec)


class Forger(Sender):
    """Makes its update from one that it has seen, in this round or the one before."""

    def update(self, now: Now) -> SparseUpdate | None:
        """A forgery, where there is what it is made of."""
        role, draws = self.role, now.draws(self.role.name)
        if role.kind == "zero":
            return forge.zero(self.codec)
        if role.kind == "best_of_last":
            return now.last.sent[now.last.best].update if now.last else None
        # An attacker that needs no one's work in particular takes after whoever acts first.
        seen = now.sent[role.of or next(iter(now.sent))].update
        ways: Mapping[str, Callable[[], SparseUpdate]] = {
            "noise": lambda: forge.noise(seen, torch.Generator().manual_seed(draws)),
            "clone": lambda: seen,
            "scaled": lambda: forge.scaled(seen, role.factor),
            "part_zero": lambda: forge.part_zero(seen),
            "perturbed": lambda: forge.perturbed(seen, role.factor, np.random.default_rng(draws)),
        }
        return ways[role.kind]()


_WAYS: Mapping[str, type[Sender]] = {
    "trainer": Trainer,
    "flipped": Flipped,
    "wrong_data": WrongData,
    "stale": Stale,
    "mixer": Mixer,
    "rider": Rider,
}


def peer_of(role: Role, spec: RunSpec) -> Sender:
    """Who does what the role says."""
    return _WAYS.get(role.kind, Forger)(role, spec)
