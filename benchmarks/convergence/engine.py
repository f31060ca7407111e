"""One run of the study in one process: the project's own replica, trainer, kernels and rules, and nothing around them.

There are no signatures, stores or chain, so a run takes little longer than its training. What it computes is
what a real run computes: for plain SparseLoCo the losses are the simulator's, and so the testnet's, to the last bit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.convergence import updates
from benchmarks.convergence.attack import on_empty_entries
from benchmarks.convergence.overlap import Local, merged
from benchmarks.convergence.setting import roster_of, spec_of, windows_of
from benchmarks.convergence.stopwatch import Stopwatch
from benchmarks.convergence.variant import Variant
from muster.kernels import SparseUpdate, fold
from muster.node.data.dataset import TextReader
from muster.node.miner.engine import Diverged, Job, ThetaView
from muster.node.miner.inner import LocalEngine
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.ledger import prepare
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import RunSpec, Template
from muster.protocol.spec.layout import layout_of
from muster.validator.gauntlet.validator import HELDOUT_BEACON

WORK_SHARES = (0.25, 0.5, 0.75, 1.0)
"""What peers manage of H where work is uneven, in turn by slot."""
_FP32_BYTES = 4
_ATTACKER = "attacker"


@dataclass(frozen=True, slots=True)
class Result:
    """What a run gives.

    Attributes:
        losses: held-out nat/byte after each round; infinite from the round on in which training diverged, which is an
            outcome like any other here.
        bytes_up: what a working peer sends in a round, on average, without the header.
        stopwatch: where the time went.
    """

    losses: tuple[float, ...]
    bytes_up: float
    stopwatch: Stopwatch


class Sent(NamedTuple):
    """An update on its way into a step, with the windows its peer declares and what it counts for beside the others."""

    update: SparseUpdate
    windows: int
    weight: float = 1.0


class Peer:
    """An honest peer: its engine with its moments, and its error feedback."""

    def __init__(self, index: int, uid: int, public: bytes, spec: RunSpec, variant: Variant) -> None:
        self.index = index
        self.uid = uid
        self.public = public
        self.engine = LocalEngine(spec.model, spec.inner)
        self._variant = variant
        self._grid = layout_of(spec.model).grid
        self._error: list[Tensor] | None = None
        self.weights: Sequence[Tensor] = ()
        """Where it trains on from, where it does not wait for θ."""

    def works(self, round_: int) -> bool:
        """Whether it takes part in a round."""
        variant = self._variant
        joins = variant.rounds // 2 if variant.late and self.index >= variant.peers // 2 else 0
        return round_ >= joins and chance(variant, "absent", round_, self.uid).random() >= variant.absence

    @property
    def inner_steps(self) -> int:
        """How many inner steps it manages in a round."""
        share = WORK_SHARES[self.index % len(WORK_SHARES)] if self._variant.uneven else 1.0
        return max(1, int(self._variant.steps * share))

    def send(self, delta: Sequence[Tensor], round_: int, accepted: bool) -> SparseUpdate:
        """Compress, and keep what error feedback keeps, knowing whether the submission will be accepted."""
        variant = self._variant
        error = self._error or [torch.zeros_like(tensor) for tensor in delta]
        acc = fold(error, delta, variant.beta)
        grid = self._grid
        if variant.selection == "topk":
            update = updates.largest(acc, variant.k, grid)
        else:
            noise = torch.Generator().manual_seed(chance(variant, "entries", round_, self.uid).getrandbits(63))
            update = updates.random_entries(acc, variant.k, grid, noise)
        update = updates.with_values(update, acc, variant.values)
        if variant.error_feedback:
            self._error = updates.subtracted(acc, update) if accepted or variant.commit == "always" else acc
        return update


def play(variant: Variant, text: TextReader, template: Template | None = None) -> Result:
    """Play a whole run on `text`; `template` replaces its preset."""
    stopwatch = Stopwatch()
    with stopwatch.time("total"):
        run = _Run(variant, spec_of(variant, text.manifest, template), text, stopwatch)
        losses: list[float] = []
        try:
            losses.extend(run.round(round_) for round_ in range(variant.rounds))
        except Diverged:
            losses += [math.inf] * (variant.rounds - len(losses))
    return Result(tuple(losses), run.bytes_up, stopwatch)


def chance(variant: Variant, purpose: str, round_: int, uid: int) -> random.Random:
    """Randomness of a run that depends on nothing but its seed and what it is for."""
    return random.Random(f"muster/study/{variant.seed}/{purpose}/{round_}/{uid}")


class _Run:
    """θ and everybody who trains it."""

    def __init__(self, variant: Variant, spec: RunSpec, text: TextReader, stopwatch: Stopwatch) -> None:
        self._variant = variant
        self._spec = spec
        self._text = text
        self._stopwatch = stopwatch
        # The study steps θ by rules of its own, so it keeps the tensors that the replica computes with.
        self._theta = genesis_parameters(spec.model, spec.genesis.seed)
        self._replica = Replica(spec.model, spec.run_id(), self._theta, 0)
        self._outer_step = 0
        self._inner = spec.inner
        self._sent: list[int] = []
        self._overdue: dict[int, list[Sent]] = {}
        roster = roster_of(variant)
        workers = roster.miners[: 1 if variant.method == "single" else variant.peers]
        first = len(roster.operators)
        self._attackers = [member.identity.public for member in roster.miners[variant.peers :]]
        if variant.method in ("single", "ddp"):
            self._inner = spec.inner.model_copy(update={"batch": spec.inner.batch * len(workers)})
            self._together = LocalEngine(spec.model, self._inner)
            self._uids = range(first, first + len(workers))
        else:
            self._peers = [Peer(i, first + i, m.identity.public, spec, variant) for i, m in enumerate(workers)]
            self._outer = torch.optim.SGD(
                self._theta,
                lr=variant.alpha,
                momentum=variant.outer_momentum,
                nesterov=variant.outer_momentum > 0,
            )
        drawn = sample(HELDOUT_BEACON, b"heldout", spec.data.heldout, spec.gauntlet.heldout_windows)
        self._heldout = text.heldout(drawn)

    @property
    def bytes_up(self) -> float:
        """Mean bytes a working peer sent in a round."""
        return sum(self._sent) / len(self._sent) if self._sent else 0.0

    def round(self, round_: int) -> float:
        """Play a round; the held-out loss after it."""
        method = self._variant.method
        if method in ("single", "ddp"):
            self._train_together(round_)
        elif method == "diloco":
            self._average(round_)
        else:
            self._sparse(round_)
        with self._stopwatch.time("evaluate"):
            return self._replica.loss(self._heldout)

    def _windows(self, round_: int, uid: int) -> Tensor:
        spec = self._spec
        count = spec.inner.steps * spec.inner.batch
        return self._text.windows(windows_of(spec.genesis.seed, round_, uid, spec.data, count))

    def _train(
        self, engine: LocalEngine, windows: Tensor, start: ThetaView | None = None, done: int = 0
    ) -> Sequence[Tensor]:
        """Δ of the steps that `windows` are for, from `start`, θ unless given; `done` of the round's are over."""
        job = Job(self._outer_step, self._outer_step * self._inner.steps + done, self._inner, windows)
        with self._stopwatch.time_training():
            return engine.run(start or self._replica, job).tensors

    def _train_on(self, peer: Peer, windows: Tensor) -> Sequence[Tensor]:
        """Δ of a round in which θ reaches the peer only after `delay` steps."""
        variant, layout = self._variant, self._replica.layout
        early = windows[: variant.delay * self._spec.inner.batch]
        rest = windows[len(early) :]
        first = not peer.weights  # then no step is on its way
        start = Local(layout, peer.weights or self._theta)
        delta = self._train(peer.engine, early, start)
        reached = start.after(delta)
        if len(rest):
            start = Local(layout, reached if first else merged(variant.merge, self._theta, reached, delta))
            more = self._train(peer.engine, rest, start, variant.delay)
            ended = start.after(more)
            peer.weights = merged("take", self._theta, ended, more) if variant.merge == "fresh" else ended
            return [a + b for a, b in zip(delta, more, strict=True)]
        unmixed = first and variant.merge == "mix"
        peer.weights = reached if unmixed else merged(variant.merge, self._theta, reached, delta)
        return delta

    def _train_together(self, round_: int) -> None:
        """H steps on batches made of everybody's."""
        inner = self._spec.inner
        shares = torch.stack([self._windows(round_, uid) for uid in self._uids])
        batches = shares.view(len(self._uids), inner.steps, inner.batch, -1).transpose(0, 1).flatten(0, 2)
        for tensor, delta in zip(self._theta, self._train(self._together, batches), strict=True):
            tensor.sub_(delta)
        self._outer_step += 1
        if self._variant.method == "ddp":
            self._sent.append(self._dense_bytes * inner.steps)

    def _deltas(self, round_: int) -> list[tuple[Peer, Sequence[Tensor]]]:
        """The pseudo-gradients of all who take part."""
        deltas = []
        for peer in self._peers:
            if peer.works(round_):
                windows = self._windows(round_, peer.uid)[: peer.inner_steps * self._spec.inner.batch]
                train = partial(self._train_on, peer) if self._variant.delay else partial(self._train, peer.engine)
                deltas.append((peer, train(windows)))
        return deltas

    def _accepted(self, round_: int, peer: Peer) -> bool:
        return chance(self._variant, "lost", round_, peer.uid).random() >= self._variant.loss

    def _average(self, round_: int) -> None:
        """DiLoCo: the outer optimizer's step along the mean of the whole pseudo-gradients."""
        deltas = self._deltas(round_)
        self._sent += [self._dense_bytes] * len(deltas)
        accepted = [delta for peer, delta in deltas if self._accepted(round_, peer)]
        if accepted:
            with self._stopwatch.time("outer"):
                self._step_along(torch.stack(parts).mean(0) for parts in zip(*accepted, strict=True))

    def _sparse(self, round_: int) -> None:
        """SparseLoCo: compress with error feedback, cap and weigh what is accepted, aggregate."""
        deltas = self._deltas(round_)
        batch = self._spec.inner.batch
        accepted: dict[bytes, Sent] = {}
        overdue: list[Sent] = []
        with self._stopwatch.time("compress"):
            for peer, delta in deltas:
                good = self._accepted(round_, peer)
                update = peer.send(delta, round_, good)
                self._sent.append(updates.payload_bytes(update, self._variant.values))
                sent = Sent(update, peer.inner_steps * batch)
                if self._in_time(round_, peer):
                    if good:
                        accepted[peer.public] = sent
                else:
                    overdue.append(sent._replace(weight=self._variant.age_weight))
            if accepted:
                honest = [sent.update for sent in accepted.values()]
                for uid, public in enumerate(self._attackers):
                    draws = np.random.default_rng(chance(self._variant, _ATTACKER, round_, uid).getrandbits(63))
                    accepted[public] = Sent(on_empty_entries(honest, draws), self._spec.inner.steps * batch)
        self._overdue[round_ + self._variant.age] = overdue
        # A record lists submissions by key, and sums are in its order.
        applied = [accepted[public] for public in sorted(accepted)] + self._overdue.pop(round_, [])
        if applied:
            with self._stopwatch.time("outer"):
                self._aggregate(applied)

    def _in_time(self, round_: int, peer: Peer) -> bool:
        # The very draws of `loss`, so that what comes late and what never comes are compared on the same submissions.
        return chance(self._variant, "lost", round_, peer.uid).random() >= self._variant.overdue

    def _aggregate(self, applied: list[Sent]) -> None:
        """The outer step with what was sent, each by its own weight on top of the clip's."""
        variant, outer = self._variant, self._spec.outer
        capped, weights, _ = prepare([s.update for s in applied], [s.windows for s in applied], self._spec)
        weights = weights * np.array([[s.weight] for s in applied], np.float32)
        if not (variant.outer_momentum or variant.sign):
            updates.aggregate_(self._theta, capped, weights, outer.alpha_at(self._outer_step), outer.rule)
            self._outer_step += 1
            return
        minus_u = [torch.zeros_like(tensor) for tensor in self._theta]
        updates.aggregate_(minus_u, capped, weights, 1.0, outer.rule)
        self._step_along((-tensor).sign() if variant.sign else -tensor for tensor in minus_u)

    def _step_along(self, direction: Iterable[Tensor]) -> None:
        """A step of the outer optimizer with a pseudo-gradient."""
        for tensor, gradient in zip(self._theta, direction, strict=True):
            tensor.grad = gradient
        self._outer.step()
        self._outer_step += 1

    @property
    def _dense_bytes(self) -> int:
        return _FP32_BYTES * self._replica.layout.parameters
