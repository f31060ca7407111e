"""What each role sends in a round: honest peers by the product's own engine and compression, attackers in their ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from benchmarks.gauntlet import forge
from benchmarks.gauntlet.scenarios import Role
from muster.kernels import Codec, SparseUpdate, compress, compress_
from muster.node.data.dataset import TextReader
from muster.node.miner.engine import Job
from muster.node.miner.inner import LocalEngine
from muster.node.replica import Replica
from muster.protocol.rules.assignment import assigned, share, unassigned
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import RunSpec
from muster.protocol.spec.layout import layout_of


@dataclass(frozen=True, slots=True)
class Sent:
    """A submission: the update, and the ids of the windows it says it was trained on."""

    update: SparseUpdate
    declared: list[int]


@dataclass(frozen=True, slots=True)
class Last:
    """What everybody knows of the round before: who sent what, who was accepted and best, how θ moved (θ before − θ)."""

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


Send = Callable[[Now], Sent | None]


class Trainer:
    """Trains with the product's engine and keeps error feedback as the product does: what is sent counts as sent."""

    def __init__(self, role: Role, spec: RunSpec) -> None:
        self.role = role
        self._inner = spec.inner.model_copy(update={"steps": role.steps, "batch": role.batch})
        self._h = spec.inner.steps
        self._engine = LocalEngine(spec.model, spec.inner)
        self.codec = Codec(layout_of(spec.model).grid, spec.sparse.k)
        self._decay = spec.sparse.error_decay
        self._error: Sequence[Tensor] = [torch.zeros(shape) for shape in self.codec.grid.shapes]

    def windows(self, now: Now) -> list[int]:
        """What it trains on, in order: its own, or of each key it works for in turn a batch."""
        role = self.role
        names, count = role.shares or (role.name,), role.steps * role.batch
        lists = [now.assigned(name, count) for name in names]
        turns = [0] * len(names)
        found: list[int] = []
        for step in range(role.steps):
            who = step % len(names)
            found += lists[who][turns[who] : turns[who] + role.batch]
            turns[who] += role.batch
        return found

    def delta(self, now: Now, windows: Sequence[int]) -> Sequence[Tensor]:
        """Δ after its inner steps on these windows; the schedule is the run's."""
        job = Job(now.round, now.outer_step * self._h, self._inner, now.text.windows(windows))
        return self._engine.run(now.replica, job).tensors

    def compressed(self, delta: Sequence[Tensor]) -> SparseUpdate:
        """What of Δ is sent; the rest waits."""
        update = compress_(delta, self._error, self._decay, self.codec)
        self._error = delta
        return update

    def __call__(self, now: Now) -> Sent:
        """A round's honest work, or as much of it as the role does."""
        update = self.compressed(self.delta(now, self.windows(now)))
        return Sent(update, now.assigned(self.role.name, self.role.declares))


class Flipped(Trainer):
    """Trains, and sends the contrary."""

    def __call__(self, now: Now) -> Sent:
        sent = Trainer.__call__(self, now)
        return Sent(forge.flipped(sent.update), sent.declared)


class WrongData(Trainer):
    """Does a whole round's work on windows that are nobody's."""

    def windows(self, now: Now) -> list[int]:
        beacon = blake3(self.role.name.encode() + now.assign).digest()
        positions = sample(beacon, b"wrong", share(now.spec.data), self.role.steps * self.role.batch)
        return unassigned(now.assign, now.spec.data, positions)


class Mixer(Trainer):
    """Averages the updates of the round before, and changes the mean a little.

    Where it takes no more than the mean, by noise of `factor` times each tensor's size; with fewer steps than a whole
    round by one inner step or more on its own windows, `factor` times.
    """

    def __call__(self, now: Now) -> Sent | None:
        if now.last is None or not now.last.accepted:
            return None
        mean = forge.mean_of([now.last.sent[name].update for name in now.last.accepted])
        if self.role.steps < self._h:
            own = self.delta(now, self.windows(now))
            mixed = [a + self.role.factor * b for a, b in zip(mean, own, strict=True)]
        else:
            draws = torch.Generator().manual_seed(now.draws(self.role.name))
            mixed = [
                a + self.role.factor * a.pow(2).mean().sqrt() * torch.randn(a.shape, generator=draws) for a in mean
            ]
        return Sent(compress(mixed, self.codec), now.assigned(self.role.name, self.role.declares))


class Rider(Trainer):
    """Sends the direction that θ has just moved in, or an average of the last ones decayed by `factor`."""

    _direction: Sequence[Tensor] | None = None

    def __call__(self, now: Now) -> Sent | None:
        if now.last is None:
            return None
        decay, before = self.role.factor, self._direction
        if before is None:
            self._direction = [tensor.clone() for tensor in now.last.step]
        else:
            self._direction = [decay * a + b for a, b in zip(before, now.last.step, strict=True)]
        return Sent(compress(self._direction, self.codec), now.assigned(self.role.name, self.role.declares))


class Forger:
    """Makes its update from one that it has seen, in this round or the one before."""

    def __init__(self, role: Role, spec: RunSpec) -> None:
        self._role = role
        self._codec = Codec(layout_of(spec.model).grid, spec.sparse.k)

    def __call__(self, now: Now) -> Sent | None:
        role = self._role
        update = self._update(now)
        return None if update is None else Sent(update, now.assigned(role.name, role.declares))

    def _update(self, now: Now) -> SparseUpdate | None:
        role = self._role
        match role.kind:
            case "zero":
                return forge.zero(self._codec)
            case "best_of_last":
                return now.last.sent[now.last.best].update if now.last else None
            case "noise":
                like = now.sent[role.of or next(iter(now.sent))].update
                return forge.noise(like, torch.Generator().manual_seed(now.draws(role.name)))
        update = now.sent[role.of].update
        draws = np.random.default_rng(now.draws(role.name))
        match role.kind:
            case "clone":
                return update
            case "scaled":
                return forge.scaled(update, role.factor)
            case "part_zero":
                return forge.part_zero(update)
            case "perturbed":
                return forge.perturbed(update, role.factor, draws)
            case _:
                raise ValueError(f"no such way of forging: {role.kind}")


_TRAINING = {"trainer": Trainer, "flipped": Flipped, "wrong_data": WrongData, "mixer": Mixer, "rider": Rider}


def peer_of(role: Role, spec: RunSpec) -> Send:
    """Who does what the role says."""
    return _TRAINING.get(role.kind, Forger)(role, spec)
