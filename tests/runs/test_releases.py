"""Two minor releases in one run: what a later one adds is signed and ignored, and what nobody may ignore is refused.

A later minor release is made of this one by what the protocol leaves room for: every object that its peers sign has
optional fields that nobody here knows, and their hellos name formats and codecs to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from builders import resigned
from run_builders import MAX_BYTES, Ledger, MakeStage, Stage

from muster.audit import Auditor
from muster.lab import clock
from muster.lab.nano import counting_miner
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node import hello
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import stages
from muster.node.miner.stages import HONEST, OpenRound, Stages
from muster.node.miner.state import Made
from muster.protocol import paths, wire
from muster.protocol.identity import Identity, hotkey_of
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.wire import hello as hellos
from muster.protocol.wire import key, proof, record, scores, seal, submission
from muster.protocol.wire.envelope import Type, read_object, write_object
from muster.protocol.wire.tlv import OPTIONAL

ROUNDS = 4
CLOCK = {"term": 2, "min_blocks": 2}
LATER = {OPTIONAL | 100: b"of a later release", OPTIONAL | 0x7FFF: b""}
"""Optional fields that this release does not know."""

CRITICAL = {100: b"nobody may ignore this"}

MODULES = (hellos, key, proof, record, scores, seal, submission)
"""Where objects are signed."""

Release = Callable[[Identity, Type], dict[int, bytes]]
"""What a peer's release adds to an object that it signs."""


def with_releases(patch: pytest.MonkeyPatch, release: Release) -> None:
    """Everybody signs by his own release."""

    def write(kind: Type, identity: Identity, run_id: bytes, round_: int, fields: dict[int, bytes]) -> bytes:
        return write_object(kind, identity, run_id, round_, fields | release(identity, kind))

    for module in MODULES:
        patch.setattr(module, "write_object", write)


def played(made: Stage, rounds: int = ROUNDS, stages: Stages = HONEST) -> SimulatedRun:
    makers = lambda _: partial(counting_miner, stages=stages)  # noqa: E731
    simulator = Simulator(made.roster, made.spec, made.text, makers=makers, block_seconds=12.0)
    return clock.run(simulator.run(rounds))


def of(made: Stage, names: Collection[str], fields: dict[int, bytes], kinds: Collection[Type] = tuple(Type)) -> Release:
    """These add fields to what they sign of these kinds; all others have the release that is here."""
    chosen = {made.member(name).identity.public for name in names}
    return lambda identity, kind: fields if identity.public in chosen and kind in kinds else {}


def test_half_of_a_run_is_a_minor_release_behind(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Miners and leaders of both: everybody is accepted, all stand on the same, and an auditor finds nothing to say."""
    made = stage(miners=2, validators=2, clock=CLOCK)
    newer = ("operator-1", "miner-1")
    with_releases(monkeypatch, of(made, newer, LATER))
    run = played(made)
    assert len(run.state_roots) == ROUNDS
    ledger = Ledger(run)
    led = set()
    for round_ in range(ROUNDS):
        assert set(ledger.reasons(made.roster, round_).values()) == {""}
        assert len(ledger.record(round_).entries) == 2
        led.add(made.name_of(hotkey_of(ledger.record(round_).leader)))
        assert {made.name_of(hotkey_of(one.validator)) for one in ledger.record(round_).scores} == (
            {"operator-0", "operator-1"} if round_ else set()
        )
    assert led == {"operator-0", "operator-1"}
    kinds = {kind for name in newer for kind in signed_later(run, name)}
    assert kinds == {Type.HEAD, Type.KEY, Type.SEAL, Type.RECORD, Type.SCORES}, "all that they signed had more in it"
    report = asyncio.run(Auditor(made.run, run.chain, run.buckets, lambda _line: None).audit(None))
    assert (report.faults, report.notes, report.state_roots) == ([], [], run.state_roots)


def signed_later(run: SimulatedRun, name: str) -> set[Type]:
    """The kinds of objects in somebody's bucket that he signed with fields of a later release."""
    bucket, found = run.buckets.bucket(f"mem:{name}"), set()
    assert isinstance(bucket, MemoryStore)
    endings = {"head": Type.HEAD, "key": Type.KEY, "seal": Type.SEAL, "rec": Type.RECORD, "sco": Type.SCORES}
    for info in asyncio.run(bucket.list()):
        kind = endings.get(info.key.rpartition(".")[2])
        if kind is not None:
            data = asyncio.run(bucket.get(info.key, max_bytes=MAX_BYTES))
            if read_object(data, kind, run.spec.run_id()).fields.get(OPTIONAL | 100):
                found.add(kind)
    return found


@pytest.mark.parametrize(("kind", "reason"), [(Type.HEAD, "unknown_field"), (Type.KEY, "key_unknown_field")])
def test_a_field_that_nobody_may_ignore_costs_its_peer_the_round_and_nobody_else(
    stage: MakeStage, kind: Type, reason: str
) -> None:
    made = stage(miners=2, clock=CLOCK)
    name = {Type.HEAD: paths.head, Type.KEY: paths.key}[kind]

    async def again(now: OpenRound) -> None:
        """Put an object of this round again, with the field in it."""
        me, at = now.context, name(now.tip.run_id, now.tip.round)
        if me.identity.public == made.member("miner-1").identity.public:
            data = await me.bucket.get(at, max_bytes=MAX_BYTES)
            await me.bucket.put(at, resigned(data, me.identity, now.tip.run_id, lambda fields: fields.update(CRITICAL)))

    async def put(now: OpenRound, one: Made) -> None:
        await stages.put(now, one)
        await again(now) if kind is Type.HEAD else None

    async def show(now: OpenRound, one: Made, found: FoundSeal) -> None:
        await stages.show_key(now, one, found)
        await again(now) if kind is Type.KEY else None

    run = played(made, 3, Stages(put=put, key=show))
    assert len(run.state_roots) == 3
    for round_ in range(3):
        assert Ledger(run).reasons(made.roster, round_) == {"miner-0": "", "miner-1": reason}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Type.SEAL, Type.RECORD])
def test_a_leader_that_signs_what_nobody_may_ignore_loses_its_turn(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch, kind: Type
) -> None:
    """The two others close its rounds; it follows them."""
    made = stage(miners=2, validators=3, clock=CLOCK | {"turn": 8, "touch": 80})
    with_releases(monkeypatch, of(made, ("operator-1",), CRITICAL, (kind,)))
    run = played(made, 4)
    assert len(run.state_roots) == 4
    led = {made.name_of(hotkey_of(Ledger(run).record(round_).leader)) for round_ in range(4)}
    assert led == {"operator-0", "operator-2"}


def hello_of(made: Stage, identity: Identity, **changes: Any) -> bytes:
    said = hello.make_hello(made.run.history.run_id, identity.public, 3, ("miner",))
    return wire.encode_hello(replace(said, **changes), identity)


def test_a_hello_of_a_later_release_is_read_and_says_that_its_peer_can_follow(
    stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stage(miners=1)
    run_id, identity, bucket = made.run.history.run_id, made.member("miner-0").identity, MemoryStore()
    with_releases(monkeypatch, of(made, ("miner-0",), LATER))
    formats, codecs = hello.make_hello(run_id, identity.public, 0, ()).formats, hello.VERSIONS
    said = {"software": "muster 9.9", "formats": (*formats, 200), "codecs": (*codecs, 200), "roles": ("miner", "relay")}
    asyncio.run(bucket.put(paths.hello(run_id), hello_of(made, identity, **said)))
    found = asyncio.run(hello.read_hello(bucket, run_id, identity.public))
    assert (found.software, found.roles) == ("muster 9.9", ("miner", "relay"))
    assert hello.incompatibility(found, made.spec) is None
    last = replace(found, formats=(200,))
    assert hello.incompatibility(last, made.spec) == f"it reads the wire formats [200], not {formats[0]}"
