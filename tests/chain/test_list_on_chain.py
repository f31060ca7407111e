"""A list of three aggregators on Bittensor's own runtime: votes, a quota that is used up, another tempo, a takeover.

The chain shows each hotkey's newest anchor only, so a majority has to hold for `clock.turn` blocks. What is asserted is
read from the chain's blocks afterwards, as anybody could.
"""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from live_run import MOVED, LiveRun, Write, say, writes_since
from local_chain import TEMPO, LocalChain
from runs.run_builders import Stage, template, write_text

from muster.node.data.dataset import TextReader
from muster.node.telemetry import events
from muster.protocol import paths, wire
from muster.protocol.chain.bittensor import BittensorChain, set_up_subnet
from muster.protocol.chain.commitments import MIN_SPACE, CommitSpace
from muster.protocol.errors import RateLimited
from muster.run.file import BITTENSOR, NO_RUN, RunFile
from muster.run.folder import create
from muster.testnet.roster import Member, Roster

pytestmark = [pytest.mark.chain, pytest.mark.timeout(3600)]

SEED, MINERS, AGGREGATORS = 11, 2, 3
ROSTER = Roster.of(SEED, MINERS, AGGREGATORS, {})
LEADER, SECOND, THIRD = ROSTER.operators
WATCH = "miner-0"
CLOCK = {
    "min_blocks": 0, "deadline": 12, "reveal": 6, "grace": 5, "seal_age": 15, "evaluate": 16, "anchor": 5,
    "term": 1000, "turn": 4, "touch": 120, "checkpoint_every": 100,
}  # fmt: skip
BLOCK_MS = 2_000
"""Between two blocks, and the run's own transactions make blocks too."""
STAKE = 400 * 10**9
ROOMY = CommitSpace(3100, TEMPO)
TIGHT = MIN_SPACE + 10
"""Bytes of an epoch that hold one commitment and no second one."""
OTHER_TEMPO = 6


@dataclass
class Seen:
    """What came of it. `moments` are the block numbers at which something was changed, by what."""

    run: LiveRun
    writes: Sequence[Write] = ()
    moments: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    amended: int = 0
    spaces: list[CommitSpace | None] = field(default_factory=list)

    def of(self, member: Member) -> list[Write]:
        """A member's commitments, in chain order."""
        return [write for write in self.writes if write.hotkey == member.hotkey]

    def votes(self, round_: int) -> Mapping[str, tuple[bytes, int]]:
        """Who has anchored a record of a round: its digest, and the block of the last one."""
        return {
            write.hotkey: (write.anchor.digest, write.block)
            for write in self.writes
            if write.anchor is not None and write.anchor.round == round_
        }


async def lay_out(chain: LocalChain, folder: Path) -> Stage:
    """A subnet of the roster's, and a run that stands on it."""
    hotkeys = [member.hotkey for member in ROSTER.members]
    stakes = {operator.hotkey: STAKE for operator in ROSTER.operators}
    netuid = await set_up_subnet(chain.url, hotkeys, stakes, tempo=TEMPO)
    client = BittensorChain([chain.url], netuid)
    origin, head = await client.origin(), await client.head()
    await client.close()
    made = template(
        inner={"steps": 24, "batch": 1, "total": 192, "warmup": 1, "lr": 2e-2, "final_lr": 2e-2},
        gauntlet={"eval_windows": 24, "step_scale": 1.0, "score_wait": 0},
        clock=CLOCK,
    )
    parts = RunFile(run_id=NO_RUN, chain=BITTENSOR, netuid=netuid, endpoints=(chain.url,))
    texts = write_text(folder / "text")
    run = create(folder / "run", made, ROSTER, texts, 0.25, parts, head.number, origin)
    return Stage(run, ROSTER, TextReader.open(run.data, run.history.genesis.data.manifest))


async def amend(run: LiveRun) -> int:
    """Two of three equal stakes take the dead one off the list; the first round in which that counts."""
    tip = run.participants[WATCH].tip
    round_ = tip.round + tip.spec.clock.amend_delay + 1
    listed = json.dumps([SECOND.hotkey, THIRD.hotkey], separators=(",", ":"))
    data = wire.encode_amendment(SECOND.identity, tip.run_id, 1, round_, "genesis.leaders", listed)
    data = wire.cosign_amendment(THIRD.identity, tip.run_id, data)
    await run.buckets.bucket(f"mem:{SECOND.name}").put(paths.amendment(tip.run_id, 1), data)
    return round_


async def play(chain: LocalChain, folder: Path) -> Seen:
    """The whole story, one thing after another."""
    run = LiveRun(chain, await lay_out(chain, folder), folder / "queues")
    seen, client = Seen(run), run.client
    first = run.stage.spec.genesis.block

    async def at(what: str) -> None:
        seen.moments[what] = (await client.head()).number
        seen.spaces.append(await client.commit_space())
        say(f"block {seen.moments[what]}: {what}")

    def final() -> int:
        return max(run.finals(WATCH), default=-1)

    async with chain.making_blocks(BLOCK_MS):
        run.start()
        try:
            await run.until(lambda: final() >= 1)

            await chain.sudo("Commitments", "set_max_space", new_limit=TIGHT)
            await at("tight")
            reached, other = final(), run.writes(THIRD, "its other process")
            with pytest.raises(RateLimited) as refused:
                await other.commit(THIRD.identity, f"mem:{THIRD.name}{MOVED}")
            seen.refused = str(refused.value)
            await run.until(lambda: final() >= reached + 2)
            await chain.sudo("Commitments", "set_max_space", new_limit=ROOMY.bytes)
            await at("roomy")
            await other.commit(THIRD.identity, f"mem:{THIRD.name}{MOVED}")
            await at("moved")

            await chain.sudo("AdminUtils", "sudo_set_tempo", netuid=run.netuid, tempo=OTHER_TEMPO)
            await at("tempo")
            reached = final()
            await run.until(lambda: final() > reached)

            await run.kill(LEADER)
            await at("killed")
            reached = max(run.roots(WATCH))
            await run.until(lambda: final() > reached)
            await at("end")

            seen.amended = await amend(run)
            await run.until(lambda: final() >= seen.amended)
        finally:
            await run.end()
    seen.writes = await writes_since(chain, run.netuid, first)
    return seen


@pytest.fixture(scope="module")
def seen(chain: LocalChain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The run, once for all that is asked of it."""
    if not chain.ours:
        pytest.skip("a chain of one's own makes blocks as fast as this needs them")
    found = asyncio.run(play(chain, tmp_path_factory.mktemp("list")))
    with warnings.catch_warnings():
        # Of who was killed while the SDK opened a connection nobody is left to close it.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    yield found


def test_a_record_is_final_once_a_majority_has_held_for_a_turn(seen: Seen) -> None:
    finals = seen.run.finals(WATCH)
    assert list(finals) == list(range(len(finals))), "each one, in order"
    for round_, block in finals.items():
        votes = seen.votes(round_)
        assert len({digest for digest, _ in votes.values()}) == 1
        cast = sorted(block for _, block in votes.values())
        assert len(cast) > AGGREGATORS // 2
        held = block - cast[AGGREGATORS // 2]
        assert held >= CLOCK["turn"], f"round {round_}: {votes}, final at {block}"


def test_every_aggregator_votes_and_the_leaders_anchor_comes_first(seen: Seen) -> None:
    before = [
        round_
        for round_ in seen.run.finals(WATCH)
        if max(b for _, b in seen.votes(round_).values()) < seen.moments["killed"]
    ]
    assert len(before) >= 4
    for round_ in before:
        votes = seen.votes(round_)
        assert set(votes) == {operator.hotkey for operator in ROSTER.operators}
        assert min(votes, key=lambda hotkey: votes[hotkey][1]) == LEADER.hotkey


def test_the_next_leader_takes_over_within_a_turn_and_no_work_is_lost(seen: Seen) -> None:
    run, killed = seen.run, seen.moments["killed"]
    recorded = [event.round for event in run.told(f"aggregator-{SECOND.name}") if isinstance(event, events.Recorded)]
    taken = recorded[0]
    assert recorded == list(range(taken, taken + len(recorded))), "from then on it leads"
    votes = [seen.votes(round_)[SECOND.hotkey][1] for round_ in (taken, taken - 1)]
    longest = sum(CLOCK[part] for part in ("deadline", "reveal", "anchor", "turn"))
    assert votes[0] > killed
    assert votes[0] - votes[1] <= longest
    applied = {event.round: event for event in run.told(WATCH) if isinstance(event, events.Applied)}
    for round_ in range(taken, max(run.finals(WATCH)) + 1):
        assert sorted(applied[round_].accepted) == sorted(miner.hotkey for miner in ROSTER.miners)
    assert not [write for write in seen.of(LEADER) if write.block > killed]


def test_whoever_lives_holds_the_same_bits(seen: Seen) -> None:
    last = max(seen.run.finals(WATCH))
    roots = [seen.run.roots(label) for label in seen.run.tasks]
    common = set.intersection(*(set(each) for each in roots))
    assert common >= set(range(last))
    assert all(len({each[round_] for each in roots}) == 1 for round_ in common)


def test_one_queue_of_two_processes_keeps_location_and_anchor(seen: Seen) -> None:
    """The location moves once, at the word of the process that does not vote, and no anchor brings the old one back."""
    writes, moved = seen.of(THIRD), seen.moments["moved"]
    locations = [write.location for write in writes]
    turned = locations.index(f"mem:{THIRD.name}{MOVED}")
    assert set(locations[:turned]) == {f"mem:{THIRD.name}"}
    assert set(locations[turned:]) == {f"mem:{THIRD.name}{MOVED}"}
    assert writes[turned].block <= moved
    assert writes[turned].anchor == writes[turned - 1].anchor is not None, "a location leaves the anchor alone"
    rounds = [write.anchor.round for write in writes if write.anchor is not None]
    assert rounds == sorted(rounds)
    assert rounds[-1] > rounds[0]


def test_with_the_quota_used_up_the_record_waits_says_so_and_goes_before_a_location(seen: Seen) -> None:
    assert f"of the {TIGHT} bytes that a hotkey may commit" in seen.refused
    assert "as many are kept for the next anchor" in seen.refused
    begun, ended = seen.moments["tight"], seen.moments["roomy"]
    for operator in ROSTER.operators:
        within = [write for write in seen.of(operator) if begun < write.block <= ended]
        assert len(within) >= 2, "it voted all the same"
        assert len(within) <= (ended - begun) // TEMPO + 2, "once an epoch"
    told = [
        event.problem or ""
        for event in seen.run.told(f"aggregator-{LEADER.name}")
        if isinstance(event, events.Transition) and event.problem
    ]
    assert any("bytes that a hotkey may commit" in problem for problem in told)


def test_another_tempo_is_followed_at_once(seen: Seen) -> None:
    assert seen.spaces == [
        CommitSpace(TIGHT, TEMPO),
        ROOMY,
        ROOMY,
        CommitSpace(ROOMY.bytes, OTHER_TEMPO),
        CommitSpace(ROOMY.bytes, OTHER_TEMPO),
        CommitSpace(ROOMY.bytes, OTHER_TEMPO),
    ]
    changed = seen.moments["tempo"]
    assert [round_ for round_, block in seen.run.finals(WATCH).items() if block > changed], "rounds go on"
    for operator in (SECOND, THIRD):
        weighed = [event for event in seen.run.told(f"validator-{operator.name}") if isinstance(event, events.Weights)]
        assert weighed


def test_a_majority_of_the_stake_amends_the_list_and_the_two_go_on(seen: Seen) -> None:
    for label in seen.run.tasks:
        history = seen.run.participants[label].tip.history
        lists = [history.at(round_).genesis.leaders for round_ in (0, seen.amended - 1, seen.amended)]
        everybody = tuple(operator.hotkey for operator in ROSTER.operators)
        assert lists == [everybody, everybody, (SECOND.hotkey, THIRD.hotkey)], label
    assert set(seen.votes(seen.amended)) == {SECOND.hotkey, THIRD.hotkey}


@pytest.mark.parametrize(
    "reason",
    [
        "forks and blocks that are taken back: this chain has one author, and every block is final at once",
        "nodes that are behind each other, or cut off: there is one node",
        "blocks each 12 seconds of wall time: they are made faster here, and rules count blocks",
        "a runtime upgrade while a run goes on: there is one runtime",
        "what others do with the room of a block: nobody else sends transactions",
    ],
)
def test_what_the_runtime_on_one_machine_cannot_show(reason: str) -> None:
    pytest.skip(reason)
