"""Looking never acts: in a whole run nobody writes anything but in carrying out an instruction, or in scoring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from run_builders import MakeStage, play

from muster.lab import simulator
from muster.lab.nano import CountingEngine
from muster.node.context import Context
from muster.node.ledger.participant import Follower
from muster.node.ledger.session import Session
from muster.node.miner import Miner
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.identity import Identity
from muster.protocol.ledger import Tip
from muster.protocol.storage import DEFAULT_DEADLINE, Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.types import Anchor
from muster.validator.aggregator.aggregator import Aggregator
from muster.validator.gauntlet.validator import Validator

_looking: ContextVar[str | None] = ContextVar("looking", default=None)
"""Whose session runs here and carries nothing out; None elsewhere: who joins is not looking yet."""

INSTRUCTIONS = ("train", "publish_seal", "publish_key", "publish_record", "apply", "beside")
"""And what a validator does beside the session: it scores what was applied, and looks at no open round."""

written: Counter[tuple[str, str]] = Counter()
"""What was written in carrying out which instruction: what this test watches happens."""

_doing: ContextVar[str] = ContextVar("doing", default="")


def check(what: str) -> None:
    """A write, by whoever it is."""
    assert _looking.get() is None, f"{_looking.get()} writes {what} while it looks"
    if _doing.get():
        written[_doing.get(), what.rpartition(".")[2]] += 1


class Checked(MemoryStore):
    """A bucket that notices who writes to it, and why."""

    async def put(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> None:
        check(key)
        await super().put(key, data, deadline=deadline)

    async def put_if_absent(self, key: str, data: bytes, *, deadline: float = DEFAULT_DEADLINE) -> bool:
        check(key)
        return await super().put_if_absent(key, data, deadline=deadline)

    async def upload(self, key: str, source: Path, *, deadline: float = DEFAULT_DEADLINE) -> None:
        check(key)
        await super().upload(key, source, deadline=deadline)

    async def delete(self, key: str, *, deadline: float = DEFAULT_DEADLINE) -> None:
        check(key)
        await super().delete(key, deadline=deadline)


class CheckedBuckets(MemoryBuckets):
    """Buckets of that kind."""

    def _make(self, location: str) -> Store:
        return Checked()


class CheckedChain(VirtualChain):
    """A chain that notices it too."""

    async def register(self, identity: Identity) -> int:
        check("register")
        return await super().register(identity)

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        check("commit")
        await super().commit(identity, location, anchor)

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        check("weights")
        await super().set_weights(identity, weights)


class CheckedSession(Session):
    """A session that looks, but for as long as it carries out an instruction."""

    async def run(self) -> None:
        _looking.set(type(self._participant).__name__)
        await super().run()


def instructed(role: type[Follower]) -> type[Follower]:
    """The role, writing only as instructed."""

    def carried_out(name: str) -> Callable[..., Any]:
        async def carry_out(self: Follower, *args: Any) -> Any:
            looking, doing = _looking.set(None), _doing.set(name)
            try:
                return await getattr(super(made, self), name)(*args)
            finally:
                _looking.reset(looking)
                _doing.reset(doing)

        return carry_out

    made: type[Follower] = type(role.__name__, (role,), {name: carried_out(name) for name in INSTRUCTIONS})
    return made


def instructed_miner(context: Context, tip: Tip, *around: Any) -> Miner:
    """A counting miner that writes only as instructed."""
    made = instructed(Miner)(context, tip, *around, CountingEngine(0, context.identity.public))
    assert isinstance(made, Miner)
    return made


def test_nobody_writes_but_on_instruction(stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leader, follower, validator, miners; a round with a miner away; the end."""
    monkeypatch.setattr(simulator, "VirtualChain", CheckedChain)
    monkeypatch.setattr(simulator, "Session", CheckedSession)
    monkeypatch.setattr(simulator, "Validator", instructed(Validator))
    written.clear()
    run = play(
        stage(miners=3, validators=2),
        4,
        buckets=CheckedBuckets(),
        leader=instructed(Aggregator),
        makers=lambda _: instructed_miner,
        absent=lambda name, round_: name == "miner-1" and round_ == 2,
    )
    assert len(run.state_roots) == 4
    assert {name for name, _ in written} == set(INSTRUCTIONS), "each of them was seen to write"
    assert {what for name, what in written if name == "apply"} >= {"rec"}
    assert {what for name, what in written if name == "beside"} == {"sco", "weights"}
    assert {what for name, what in written if name == "publish_record"} >= {"rec", "bin", "commit", "safetensors"}
