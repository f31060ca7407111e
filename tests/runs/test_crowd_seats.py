"""Seats under attack: whoever fills the front of the order with bad payloads takes no seat from anybody."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest
from crowd import BAD, REASONS, Content, CrowdBuckets, Forged, Puppet, Trouble, forge, puppets
from run_builders import lay_out
from test_crowd import BLOCK, nano

from muster.lab import clock
from muster.node.context import in_place
from muster.node.ledger.participant import Errands, possession
from muster.node.ledger.reader import genesis_tip
from muster.node.replica import Replica
from muster.node.submission import Submissions
from muster.protocol import paths, wire
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.ledger import Tip
from muster.protocol.spec.history import SpecHistory
from muster.protocol.wire import ScoresUsed, Seal, UsedScore
from muster.testnet.roster import Roster
from muster.validator.aggregator.intake import BEYOND_SEATS, Intake

T = TypeVar("T")

SEATS, PEERS, FRONT, SEEDS = 10, 36, 20, 40

ROSTER = Roster.of(0, 1, 1, {})
LEADER = ROSTER.operators[0].identity.public
SEAL = bytes(32)
"""The digest of the seal that keys answer."""

DRIPS = Trouble("payload", "drip")
CONDUCTS: tuple[tuple[Content, Trouble | None], ...] = (*((content, None) for content in BAD), ("good", DRIPS))
"""What attackers do."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A sealed round once its leader's time is up: whom the rules accept, each one's reason, payloads opened."""

    accepted: tuple[bytes, ...]
    reasons: Mapping[bytes, str]
    opened: int


@dataclass(frozen=True, slots=True)
class Arena:
    """Round 0 of a run, over and over: a leader's intake alone, driven by the clock."""

    tip: Tip
    replica: Replica
    made: dict[tuple[bytes, Content, int], Forged] = field(default_factory=dict)
    proofs: dict[bytes, bytes] = field(default_factory=dict)

    def possession(self, public: bytes) -> bytes:
        """A proof, computed once."""
        if public not in self.proofs:
            self.proofs[public] = possession(self.tip, self.replica)(public)
        return self.proofs[public]

    def objects(self, puppet: Puppet, uid: int) -> Forged:
        """A submission and its key, made once."""
        known = (puppet.public, puppet.content, uid)
        if known not in self.made:
            self.made[known] = forge(self.tip, puppet, uid, self.possession(puppet.public))
        return self.made[known]

    async def play(
        self, crowd: Sequence[Puppet], scores: Sequence[ScoresUsed], seats: int, blocks: int, opening: float = 0.0
    ) -> Taken:
        """What a leader that looks at every block has by `blocks` blocks after the seal.

        Opening a payload takes it `opening` seconds.
        """

        async def busy(work: Callable[[], T]) -> T:
            await asyncio.sleep(opening)
            return work()

        tip, buckets, chain = self.tip, CrowdBuckets(crowd), VirtualChain(ROSTER.chain_genesis(256))
        stores = {puppet.public: buckets.bucket(f"mem:{puppet.name}") for puppet in crowd}
        uids = {puppet.public: uid for uid, puppet in enumerate(crowd)}
        for puppet in crowd:
            head, payload, key = self.objects(puppet, uids[puppet.public])
            await stores[puppet.public].put(paths.head(tip.run_id, 0), head)
            await stores[puppet.public].put(paths.payload(tip.run_id, 0), payload)
            if key is not None:
                await stores[puppet.public].put(paths.key(tip.run_id, 0), key(SEAL))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(chain.drive_by_clock(BLOCK))
            with chain.participant():
                errands, head = Errands(tasks, chain), await chain.head()
                facts = tip.facts(self.possession, uids)
                intake = Intake(facts, Submissions(tip, busy), errands, in_place)
                await intake.look(stores, head)
                assert len(intake.peers) == len(crowd)
                listed = tuple((p, wire.head_digest(taken.head.data)) for p, taken in sorted(intake.peers.items()))
                intake.close(Seal(tip.run_id, LEADER, 0, tip.parent, 0, head, listed), SEAL)
                order = tip.order(intake.candidates(), scores)
                for _ in range(blocks):
                    if await intake.reveal(stores, order, seats, head) == frozenset(stores):
                        break
                    head = await chain.next_block(head.number)
                errands.cancel()
        failures = intake.failures()
        choice = tip.choose({public: failures.get(public, "") for public in stores}, scores)
        return Taken(choice.accepted, choice.reasons, len(crowd) - len(failures))


@pytest.fixture(scope="module")
def arena(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Arena:
    """An arena with ten seats."""
    template = nano(gauntlet={"seats": SEATS})
    spec = lay_out(tmp_path_factory.mktemp("arena") / "run", texts, template, ROSTER).spec
    history = SpecHistory.of(spec)
    tip = asyncio.run(genesis_tip(history, VirtualChain(ROSTER.chain_genesis(256))))
    return Arena(tip, Replica.genesis(spec, history.run_id))


def random_scores(rng: random.Random, peers: Sequence[Puppet]) -> tuple[ScoresUsed, ...]:
    """One validator's scores of most of the peers, most of whom have proven themselves."""
    rated = sorted(puppet.public for puppet in peers if rng.random() < 0.8)
    rows = tuple(UsedScore(public, rng.random(), rng.random() < 0.8) for public in rated)
    return (ScoresUsed(LEADER, 1, 0, bytes(32), rows),)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_bad_payloads_in_front_leave_no_seat_empty(arena: Arena, share: float) -> None:
    """In each of forty rounds: the first good ones in order have them, and each attacker ahead its own reason."""
    honest = puppets(PEERS, ("good", None))
    spec = arena.tip.spec
    for seed in range(SEEDS):
        rng = random.Random(seed)
        scores = random_scores(rng, honest)
        ranked = arena.tip.order([puppet.public for puppet in honest], scores)
        bad = set(rng.sample(ranked[:FRONT], round(share * FRONT)))
        crowd = [
            Puppet(peer.name, peer.identity, *rng.choice(CONDUCTS)) if peer.public in bad else peer for peer in honest
        ]
        taken = clock.run(arena.play(crowd, scores, SEATS, spec.clock.reveal))
        seated = [public for public in ranked if public not in bad][:SEATS]
        assert taken.accepted == tuple(sorted(seated))
        for peer in crowd:
            ahead = ranked.index(peer.public) < ranked.index(seated[-1])
            if peer.public in bad and ahead:
                assert taken.reasons[peer.public] == (REASONS[peer.content] or "unavailable")


def test_a_leader_holds_no_more_payloads_than_it_needs_whoever_hangs_in_front(arena: Arena) -> None:
    """Those in front may yet come, so nothing in the order is settled; and still nobody far behind is needed."""
    names = puppets(150, ("good", Trouble("payload", "slow")))
    ranked = arena.tip.order([puppet.public for puppet in names], ())
    hang = set(ranked[:5])
    crowd = [Puppet(p.name, p.identity, "good", Trouble("payload", "hang")) if p.public in hang else p for p in names]
    taken = clock.run(arena.play(crowd, (), SEATS, arena.tip.spec.clock.reveal, opening=0.3))
    assert taken.accepted == tuple(sorted(ranked[5 : 5 + SEATS]))
    assert SEATS <= taken.opened <= SEATS + BEYOND_SEATS


def test_dripping_payloads_do_not_fill_the_line(arena: Arena) -> None:
    """Ten times as many as there are places, and the one good payload behind all of them."""
    names = puppets(232, ("good", DRIPS))
    last = arena.tip.order([puppet.public for puppet in names], ())[-1]
    crowd = [Puppet(p.name, p.identity) if p.public == last else p for p in names]
    taken = clock.run(arena.play(crowd, (), SEATS, arena.tip.spec.clock.grace))
    assert taken.accepted == (last,)
