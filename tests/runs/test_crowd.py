"""A round's length, seats and memory are the honest peers' own, whatever a crowd of others does or leaves undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from crowd import BAD, MANNERS, STEPS, Content, Crowd, CrowdBuckets, Manner, Puppet, Trouble, puppeteer, puppets
from run_builders import Ledger, Stage, genesis_without, lay_out

from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import MakeMiner
from muster.protocol.identity import public_of
from muster.protocol.reasons import NULL_ROUND
from muster.protocol.spec import RunSpec, Template
from muster.protocol.wire import Kind
from muster.testnet.roster import Roster
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.aggregator.intake import BEYOND_SEATS

BLOCK = 12.0
"""Seconds of a block."""

MAKER = "maker"
"""The behaviour of the honest miner that writes the crowd's objects."""


def nano(**sections: dict[str, Any]) -> Template:
    """The bench's template with room for a whole subnet; `clock={"reveal": 5}` changes a field."""
    document = nano_template().model_dump()
    document["data"] |= {"slots": 256}
    document["clock"] |= {"seal_age": 1, "evaluate": 2}  # what others cost a validator shows beside little of its own
    for name, fields in sections.items():
        document[name] |= fields
    return Template.model_validate(document)


@dataclass(slots=True)
class Looks:
    """What the leader's looks and seals took, in seconds, and how many opened payloads it held after each."""

    seconds: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Every look of every leader, timed by its event loop."""
    found = Looks()
    observe, publish_seal = Aggregator.observe, Aggregator.publish_seal

    async def observed(leader: Aggregator, *arguments: Any) -> Any:
        began = asyncio.get_running_loop().time()
        events = await observe(leader, *arguments)
        found.seconds.append(asyncio.get_running_loop().time() - began)
        found.held.append(sum(taken.payload is not None for taken in leader._open.leading.intake.peers.values()))
        return events

    async def sealed(leader: Aggregator, *arguments: Any) -> FoundSeal:
        began = asyncio.get_running_loop().time()
        seal = await publish_seal(leader, *arguments)
        found.seconds.append(asyncio.get_running_loop().time() - began)
        return seal

    monkeypatch.setattr(Aggregator, "observe", observed)
    monkeypatch.setattr(Aggregator, "publish_seal", sealed)
    return found


@dataclass(frozen=True, slots=True)
class Played:
    """A run that is over."""

    stage: Stage
    run: SimulatedRun
    rounds: int

    @property
    def ledger(self) -> Ledger:
        """What it left."""
        return Ledger(self.run)

    @property
    def lengths(self) -> list[int]:
        """Blocks from each round's opening to its record."""
        anchors = asyncio.run(self.run.chain.anchors(0))
        recorded = {seen.anchor.round: seen.block for seen in anchors}
        return [recorded[round_] - self.ledger.opening(round_).open.number for round_ in range(self.rounds)]

    @property
    def waits(self) -> list[int]:
        """Blocks from each round's opening to its seal."""
        ledger = self.ledger
        return [ledger.seal(r).block.number - ledger.opening(r).open.number for r in range(self.rounds)]

    @property
    def scores(self) -> list[list[int]]:
        """The rounds whose scores steered each round."""
        return [[used.round for used in self.ledger.record(round_).scores] for round_ in range(self.rounds)]


class Play(Protocol):
    """Plays a run of honest counting miners, the first of which writes the crowd's objects if there is one."""

    def __call__(
        self,
        rounds: int,
        miners: int = 3,
        crowd: Sequence[Puppet] = (),
        known: Sequence[Puppet] = (),
        validators: int = 1,
        template: Template | None = None,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        leaders: Sequence[str] = (),
        newcomer: MakeMiner | None = None,
        **how: Any,
    ) -> Played: ...


@pytest.fixture
def play(texts: list[Path], tmp_path: Path) -> Play:
    """A player of runs by the clock. `known` are members of the crowd whom A_0 lists; `leaders` are added to the
    spec's; a `newcomer` arrives in round 1, unknown to the spec."""
    count = iter(range(100))

    def go(
        rounds: int,
        miners: int = 3,
        crowd: Sequence[Puppet] = (),
        known: Sequence[Puppet] = (),
        validators: int = 1,
        template: Template | None = None,
        seed: int = 0,
        faults: Sequence[Fault] = (),
        leaders: Sequence[str] = (),
        newcomer: MakeMiner | None = None,
        **how: Any,
    ) -> Played:
        special = {MAKER: 1} | ({"newcomer": 1} if newcomer else {})
        roster = Roster.of(seed, miners - 1, validators, special)
        stage = lay_out(tmp_path / f"run-{next(count)}", texts, template or nano(), roster)
        spec = with_genesis(stage.spec, [puppet.identity.hotkey for puppet in known], leaders)
        makers = {MAKER: puppeteer(Crowd((*known, *crowd))), "newcomer": newcomer or counting_miner}
        arrivals = {}
        if newcomer:
            arrivals = {"newcomer-0": 1}
            spec = genesis_without(spec, stage.member("newcomer-0").hotkey)
        simulator = Simulator(
            roster,
            spec,
            stage.text,
            makers=lambda behaviour: makers.get(behaviour, counting_miner),
            buckets=CrowdBuckets((*known, *crowd)),
            script=Script(faults),
            block_seconds=BLOCK,
            arrivals=arrivals,
            **how,
        )
        return Played(stage, clock.run(simulator.run(rounds)), rounds)

    return go


def with_genesis(spec: RunSpec, miners: Sequence[str], leaders: Sequence[str]) -> RunSpec:
    """The spec with more hotkeys in its A_0 and in its list of leaders."""
    genesis = spec.genesis
    grown = {"miners": (*genesis.miners, *miners), "leaders": (*genesis.leaders, *leaders)}
    return spec.model_copy(update={"genesis": genesis.model_copy(update=grown)})


def worst(longer: Played, plain: Played) -> int:
    """By how many blocks a round of one run is longer than the longest of another, at most."""
    return max(longer.lengths) - max(plain.lengths)


FULL = nano(gauntlet={"newcomer_share": 0.0})
"""Without seats for newcomers beside the proven, who is seated does not depend on strangers' heads."""

HONEST, COUNTING = 21, 4
"""Honest peers, and how many of these are whole miners; the others only write objects."""


def test_a_crowd_that_hangs_drips_and_vanishes_at_every_step(play: Play, looks: Looks) -> None:
    known = puppets(HONEST - COUNTING, ("good", None), prefix="honest")
    conducts: list[tuple[Content, Trouble | None]] = [("good", Trouble(s, how)) for s in STEPS for how in MANNERS]
    crowd = puppets(253 - 1 - HONEST, *conducts, ("nothing", None), *((content, None) for content in BAD))
    alone = play(4, COUNTING, known=known, template=FULL)
    looks.seconds.clear()
    looks.held.clear()
    played = play(4, COUNTING, crowd, known, template=FULL)

    snapshot = asyncio.run(played.run.chain.snapshot())
    assert len(snapshot.peers) == 253
    assert played.run.state_roots == alone.run.state_roots
    grace, seats = FULL.clock.grace, FULL.gauntlet.seats
    assert worst(played, alone) <= grace
    assert max(looks.seconds) == BLOCK, "hanging buckets were met, and ended with the block"
    assert max(looks.held) <= seats + BEYOND_SEATS
    assert played.scores == [[], [], [0], [1]], "every round's scores were in time for the one they steer"
    reasons = Counter(entry.reason for round_ in range(4) for entry in played.ledger.record(round_).entries)
    assert {"key_missing", "unavailable", "key_mismatch", "payload_auth", "not_selected"} < set(reasons)


@pytest.mark.parametrize("drippers", [1, 64])
def test_strangers_that_drip_their_payloads_cost_a_round_the_grace_period(
    play: Play, looks: Looks, drippers: int
) -> None:
    alone = play(3)
    looks.seconds.clear()
    played = play(3, crowd=puppets(drippers, ("good", Trouble("payload", "drip"))))
    assert max(looks.seconds) == BLOCK
    assert worst(played, alone) <= nano().clock.grace
    assert played.run.state_roots == alone.run.state_roots


def test_strangers_without_a_seat_do_not_slow_a_validator_down_to_the_time_for_keys(play: Play) -> None:
    """What it cannot read is not evaluated; who waits for it all the same holds up the rounds that need its scores."""
    template = nano(gauntlet={"seats": 3, "newcomer_share": 0.0}, clock={"reveal": 40})
    plain = play(6, template=template)
    played = play(6, crowd=puppets(40, ("good", Trouble("payload", "hang"))), template=template)
    assert worst(played, plain) <= template.clock.grace
    assert played.scores == plain.scores == [[], [], [0], [1], [2], [3]]


@pytest.mark.parametrize("manner", ["hang", "vanish"])
def test_all_stop_answering_between_seal_and_record(play: Play, looks: Looks, manner: Manner) -> None:
    """Expected ones: nobody else is waited for so long."""
    known = puppets(250, ("good", Trouble("key", manner)))
    alone, played = play(2, 2), play(2, 2, known=known)
    assert max(looks.seconds) <= BLOCK
    sealed = [played.ledger.seal(round_).block.number for round_ in range(2)]
    assert played.ledger.opening(1).open.number - sealed[0] == nano().clock.reveal
    assert played.lengths[1] - alone.lengths[1] <= nano().clock.grace, "nobody expects them any more"
    assert len(played.ledger.record(0).accepted) == len(played.ledger.record(1).accepted) == 2


def test_all_stop_answering_after_the_seal(play: Play, looks: Looks) -> None:
    known = puppets(250, ("good", Trouble("key", "hang")))
    played = play(1, 2, known=known)
    assert max(looks.seconds) == BLOCK
    assert played.lengths[0] <= 1 + 1 + nano().clock.reveal, "training, and no keys"


def test_among_231_attackers_a_newcomer_is_scored_at_once_and_seated_soon(play: Play) -> None:
    """All seats are taken by others when it comes, and nobody can tell it from the attackers by their heads."""
    known = puppets(FULL.gauntlet.seats - 4, ("good", None), prefix="honest")
    crowd = puppets(231, *((content, None) for content in BAD), ("good", Trouble("payload", "hang")))
    played = play(4, 4, crowd, known, newcomer=counting_miner)
    me, ledger = played.stage.member("newcomer-0"), played.ledger
    reasons = [{entry.public: entry.reason for entry in ledger.record(r).entries} for r in range(4)]
    mine = [found.get(public_of(me.hotkey)) for found in reasons]
    assert (mine[0], mine[1]) == (None, "not_selected")
    assert "" in mine[2:], "seated in its second or third round"
    (scored,) = (peer for peer in ledger.scores(1).rows if peer.hotkey == me.hotkey)
    assert scored.measured


# Who is waited for.


def test_a_peer_there_every_other_round_costs_two_deadlines_in_sixteen_rounds(play: Play) -> None:
    template = nano()
    played = play(16, absent=lambda name, round_: name == "miner-1" and round_ % 2 == 1, template=template)
    waited = [round_ for round_, wait in enumerate(played.waits) if wait >= template.clock.deadline]
    assert waited == [1, 3]


def test_after_a_null_round_nothing_is_waited_out_when_all_have_delivered(play: Play) -> None:
    template = nano(clock={"min_submissions": 3})
    played = play(4, absent=lambda name, round_: name == "miner-1" and round_ == 1, template=template)
    ledger = played.ledger
    assert [ledger.record(round_).kind for round_ in range(4)] == [Kind.ROUND, Kind.NULL, Kind.ROUND, Kind.ROUND]
    assert set(ledger.reasons(played.stage.roster, 1).values()) == {NULL_ROUND}
    assert played.waits[1] == template.clock.deadline
    assert max(played.waits[2:]) <= 3


@pytest.mark.parametrize("block", [2, 3])
def test_a_run_that_was_paused_seals_no_round_empty(texts: list[Path], tmp_path: Path, block: int) -> None:
    """Everybody is stopped while round 1 is open; by the time they are back its deadline is long over."""
    roster = Roster.of(0, 3, 1, {})
    stage = lay_out(tmp_path / "run", texts, nano(), roster)
    how: dict[str, Any] = {"makers": lambda _: counting_miner, "block_seconds": BLOCK, "folder": tmp_path}
    simulator = Simulator(roster, stage.spec, stage.text, **how)
    plain = clock.run(Simulator(roster, stage.spec, stage.text, **(how | {"folder": None})).run(4))

    async def paused() -> SimulatedRun:
        first = asyncio.create_task(simulator.run(4))
        await simulator.chain.next_block(block - 1)
        first.cancel()
        await asyncio.wait({first})
        simulator.chain.advance(1000)
        return await simulator.run(4)

    run = clock.run(paused())
    ledger = Ledger(run)
    assert ledger.opening(1).open.number <= block < 1000 < ledger.seal(1).block.number
    assert [len(ledger.record(round_).accepted) for round_ in range(4)] == [3, 3, 3, 3]
    assert run.state_roots == plain.state_roots


# Whose scores are waited for.


WAIT = nano().clock.reveal + nano().gauntlet.score_wait
"""Blocks after a seal for which scores are waited for."""


def longer(played: Played, plain: Played) -> list[int]:
    """The rounds that took longer than they do in another run."""
    return [round_ for round_ in range(plain.rounds) if played.lengths[round_] > plain.lengths[round_]]


SILENT = {
    "publishes nothing": Fault("error", "store.put_if_absent", "*/scores/*", who="validator-1"),
    "hangs when it is read": Fault("hang", "store.get", "*/scores/*", who="aggregator-0", owner="operator-1"),
}


LINES = [Fault("slow", "store.get*", f"*.{kind}", who="aggregator-0", seconds=2.0) for kind in ("key", "sub")]
"""What the leader reads of submissions takes a while, as it does over a network."""


@pytest.mark.parametrize("fault", SILENT.values(), ids=SILENT)
def test_a_silent_validator_is_waited_for_once(play: Play, looks: Looks, fault: Fault) -> None:
    plain, played = play(7, validators=2, faults=LINES), play(7, validators=2, faults=[fault, *LINES])
    assert plain.scores == [[], [], [0, 0], [1, 1], [2, 2], [3, 3], [4, 4]]
    assert longer(played, plain) == [2], "the first round that its scores could have steered"
    assert played.waits[2] + WAIT == played.lengths[2]
    assert played.scores == [[], [], [0], [1], [2], [3], [4]]
    assert max(looks.seconds) <= BLOCK


def test_a_validator_of_the_spec_without_permit_is_not_waited_for(play: Play) -> None:
    (stranger,) = puppets(1, ("nothing", None))
    plain, played = play(5), play(5, crowd=[stranger], leaders=[stranger.identity.hotkey])
    assert longer(played, plain) == [2], "its aggregator has never anchored, and is waited for until it is out of touch"
    assert played.scores == [[], [], [0], [1], [2]]


def test_scores_that_are_two_rounds_old_steer_and_cost_one_wait(play: Play) -> None:
    """The only validator's scores of two rounds are never published; seats do not go by lot meanwhile."""
    template = nano(gauntlet={"seats": 2})
    dead = Fault("error", "store.put_if_absent", "*/scores/0000000[34]-*.sco", who="validator-0")
    plain, played = play(9, 4, template=template), play(9, 4, template=template, faults=[dead])
    assert longer(played, plain) == [5]
    assert played.scores == [[], [], [0], [1], [2], [2], [2], [5], [6]]
    for round_ in (5, 6):
        record = played.ledger.record(round_)
        (used,) = record.scores
        best = sorted(used.rows, key=lambda row: -row.score)
        assert best[1].score > best[2].score, "no tie, so nothing is left to the lot"
        assert {entry.public for entry in record.accepted} >= {row.public for row in best[:2] if row.positive}
