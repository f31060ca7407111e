"""A leader's word costs a peer nothing that this validator does not see itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from builders import hash32, identity

from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.faulty import FaultyBuckets
from muster.protocol import paths
from muster.protocol.incentive.score import Absent, Failed, NotEvaluated, Outcome
from muster.protocol.reasons import KEY_MISSING, LATE, UNAVAILABLE
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.validator.gauntlet.hearsay import LOOK_SECONDS, confirmed

RUN, ROUND = hash32("run"), 7
ALICE, BOB = identity("alice"), identity("bob")


def record(**reasons: str) -> Any:
    """A record in which these have an entry with these reasons."""
    entries = [SimpleNamespace(public=identity(name).public, reason=reason) for name, reason in reasons.items()]
    return SimpleNamespace(run_id=RUN, round=ROUND, sealed=entries)


def look(
    made: Any, *names: str, bucket: dict[str, list[str]] | None = None, script: Script | None = None
) -> dict[str, Outcome]:
    """What is said of these peers, who have standings; `bucket` says which objects lie in whose."""

    async def main() -> dict[str, Outcome]:
        behind = MemoryBuckets()
        seen = FaultyBuckets(behind, script or Script(), lambda: 0, "validator")
        stores: dict[bytes, Store] = {}
        for name in ("alice", "bob"):
            stores[identity(name).public] = seen.bucket(f"mem:{name}")
            for key in (bucket or {}).get(name, ()):
                await behind.bucket(f"mem:{name}").put(key, b"something")
        return await confirmed(made, [identity(name).hotkey for name in names], stores)

    return clock.run(main(), limit=60.0)


def test_who_has_nothing_in_its_bucket_is_absent() -> None:
    assert look(record(), "alice") == {ALICE.hotkey: Absent()}
    assert look(record(), "dave") == {identity("dave").hotkey: Absent()}, "without a bucket as well"


def test_whose_head_lies_there_is_not() -> None:
    """It may have come too late, or its leader dropped it: nobody can tell afterwards."""
    assert look(record(), "alice", bucket={"alice": [paths.head(RUN, ROUND)]}) == {ALICE.hotkey: NotEvaluated()}


@pytest.mark.parametrize(("reason", "path"), [(KEY_MISSING, paths.key), (UNAVAILABLE, paths.payload)])
def test_what_a_leader_says_is_missing(reason: str, path: Any) -> None:
    assert look(record(alice=reason), "alice") == {ALICE.hotkey: Failed(reason)}
    assert look(record(alice=reason), bucket={"alice": [path(RUN, ROUND)]}) == {ALICE.hotkey: NotEvaluated()}


def test_late_is_what_lacks_one_of_two() -> None:
    """Work that came late is held against nobody who finds it there; half of it is none."""
    failed = {ALICE.hotkey: Failed(LATE)}
    assert look(record(alice=LATE), "alice") == failed
    assert look(record(alice=LATE), bucket={"alice": [paths.key(RUN, ROUND)]}) == failed
    assert look(record(alice=LATE), bucket={"alice": [paths.payload(RUN, ROUND)]}) == failed
    both = [paths.key(RUN, ROUND), paths.payload(RUN, ROUND)]
    assert look(record(alice=LATE), bucket={"alice": both}) == {ALICE.hotkey: NotEvaluated()}


def test_what_everybody_can_see_is_not_looked_for() -> None:
    assert look(record(alice="payload_auth", bob=""), "alice", "bob") == {}


@pytest.mark.parametrize("kind", ["error", "hang"])
def test_a_bucket_that_cannot_be_looked_into_says_nothing_and_delays_nobody(kind: str) -> None:
    script = Script([Fault(kind, "store.head", owner="alice")])  # type: ignore[arg-type]
    assert look(record(), "alice", "bob", script=script) == {ALICE.hotkey: NotEvaluated(), BOB.hotkey: Absent()}


def test_all_looks_together_have_one_deadline() -> None:
    async def main() -> float:
        class Slow:
            async def head(self, key: str, *, deadline: float) -> None:
                await asyncio.sleep(deadline - 1)

        peers = [identity(f"peer {i}") for i in range(200)]
        slow: Any = Slow()
        found = await confirmed(record(), [one.hotkey for one in peers], {one.public: slow for one in peers})
        assert set(found.values()) == {Absent(), NotEvaluated()}
        return asyncio.get_running_loop().time()

    running: Coroutine[Any, Any, float] = main()
    assert clock.run(running, limit=600.0) <= LOOK_SECONDS
