"""A daemon tells where it stands to whoever asks in time and in form, and nothing to anybody else."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from blockbuster import blockbuster_ctx
from builders import beacon, run_spec

from muster.node.telemetry import events
from muster.node.telemetry.ailments import Ailments
from muster.node.telemetry.facts import Facts
from muster.node.telemetry.health import BLOCK_SILENCE, ROUNDS_OVERDUE, longest_round, problems
from muster.node.telemetry.journal import Journal, Noted
from muster.node.telemetry.service import MAX_LINE_BYTES, About, Address, Service, heartbeat, parse_address, serving
from muster.node.telemetry.watched import WatchedBuckets
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ChainError, ConfigError, ObjectMissing, ObjectTooLarge, StorageError
from muster.protocol.ledger import Tip, genesis_tip
from muster.protocol.spec.history import SpecHistory
from muster.protocol.storage import Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.types import Block

LOOPBACK = Address("127.0.0.1", 0)
NOW = 1000.0


def service(tip: Tip | None, facts: Facts) -> Service:
    """A service that is asked at a fixed time."""
    made = Service(About("miner-0", "ab" * 32, {"muster": "1.2.3"}), facts, clock=lambda: NOW)
    made.tip = lambda: tip
    return made


def live_facts(tip: Tip) -> Facts:
    """A miner that has just seen the open round's block."""
    facts = Facts()
    facts.note(Noted(1.0, events.Started(role="miner", pid=1)))
    facts.note(Noted(1.0, events.Joined(tip.round, hotkey="5Me")))
    facts.saw_block(tip.opening.open.number, NOW)
    return facts


@asynccontextmanager
async def asked(made: Service, idle: float = 10.0) -> AsyncIterator[Callable[..., Any]]:
    """The service on a free port, and how to ask it: (method, path) → (status, text)."""
    async with serving(made, LOOPBACK, idle) as where, aiohttp.ClientSession(f"http://{where}") as session:

        async def ask(path: str, method: str = "GET", **how: Any) -> tuple[int, str]:
            async with session.request(method, path, **how) as answer:
                return answer.status, await answer.text()

        yield ask


@pytest.fixture
def tip() -> Tip:
    """A ledger whose round 0 is open."""
    return genesis_tip(SpecHistory.of(run_spec()), beacon("assign"), beacon("possess"))


async def test_a_live_node_answers_all_three(tip: Tip) -> None:
    async with asked(service(tip, live_facts(tip))) as ask:
        assert await ask("/healthz") == (200, "ok\n")
        status, text = await ask("/metrics")
        assert status == 200
        assert "\nmuster_healthy 1.0\n" in text
        status, text = await ask("/status")
    assert status == 200
    told = json.loads(text)
    assert (told["healthy"], told["role"], told["name"], told["round"]) == (True, "miner", "miner-0", tip.round)
    assert told["tip"] == {"round": tip.round, "parent": tip.parent.hex(), "closed": False}
    assert told["versions"] == {"muster": "1.2.3"}


async def test_what_cannot_be_written_is_no_health(tip: Tip) -> None:
    facts = live_facts(tip)
    facts.note(Noted(1.0, events.Ailing(what="the journal", problem="the journal cannot be kept on disk: why")))
    facts.note(Noted(1.0, events.LinesLost(lines=3)))
    async with asked(service(tip, facts)) as ask:
        assert await ask("/healthz") == (503, "the journal cannot be kept on disk: why\n")
        assert json.loads((await ask("/status"))[1])["ailing"] == dict(facts.ailing)
        text = (await ask("/metrics"))[1]
        assert "\nmuster_ailing 1.0\n" in text
        assert "\nmuster_journal_lines_lost_total 3.0\n" in text
        facts.note(Noted(2.0, events.Recovered(what="the journal")))
        assert await ask("/healthz") == (200, "ok\n")


async def test_a_node_that_has_not_joined_says_so() -> None:
    async with asked(service(None, Facts())) as ask:
        assert await ask("/healthz") == (503, "the chain has not answered yet\nthe run is not joined yet\n")
        told = json.loads((await ask("/status"))[1])
        assert "\nmuster_healthy 0.0\n" in (await ask("/metrics"))[1]
    assert (told["tip"], told["state_root"], told["healthy"]) == (None, None, False)


async def test_a_miner_is_told_its_pay(tip: Tip) -> None:
    facts = live_facts(tip)
    judged = events.Judged(3, validator="5V", peers=8, share=0.118, reason="It is paid for all its work.", rank=3)
    async with asked(service(tip, facts)) as ask:
        assert json.loads((await ask("/status"))[1])["pay"] is None
        facts.note(Noted(1.0, judged))
        assert json.loads((await ask("/status"))[1])["pay"] == {
            "round": 3, "validator": "5V", "peers": 8, "share": 0.118, "rank": 3,
            "reason": "It is paid for all its work.",
        }  # fmt: skip
    assert judged.said() == "has rank 3 of 8, share 0.118; It is paid for all its work."


async def test_a_loss_that_is_no_number_is_still_json(tip: Tip) -> None:
    facts = live_facts(tip)
    facts.note(Noted(1.0, events.Heldout(0, loss=float("nan"))))
    async with asked(service(tip, facts)) as ask:
        assert json.loads((await ask("/status"))[1])["loss"] == {"inner": None, "heldout": None}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/status", 405), ("DELETE", "/metrics", 405), ("GET", "/", 404), ("GET", "/../etc/passwd", 404)],
)
async def test_nothing_else_is_answered(tip: Tip, method: str, path: str, status: int) -> None:
    async with asked(service(tip, live_facts(tip))) as ask:
        assert (await ask(path, method))[0] == status


async def test_a_large_request_is_refused(tip: Tip) -> None:
    async with asked(service(tip, live_facts(tip))) as ask:
        assert (await ask("/status?" + "a" * MAX_LINE_BYTES))[0] == 400
        assert (await ask("/status", headers={"X-Long": "a" * (MAX_LINE_BYTES + 1)}))[0] == 400


@pytest.mark.parametrize("sent", [b"", b"GET /status HTTP/1.1\r\nHost: a\r\n"])
async def test_a_client_that_does_not_finish_its_request_is_cut_off(tip: Tip, sent: bytes) -> None:
    async with serving(service(tip, live_facts(tip)), LOOPBACK, idle=0.1) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(sent)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_every_answer_ends_its_connection(tip: Tip) -> None:
    async with serving(service(tip, live_facts(tip)), LOOPBACK) as where:
        reader, writer = await asyncio.open_connection(*where)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.read()).endswith(b"ok\n")
        writer.close()


async def test_a_port_in_use_is_a_sentence(tip: Tip) -> None:
    async with serving(service(tip, live_facts(tip)), LOOPBACK) as where:
        with pytest.raises(ConfigError, match=f"cannot listen on {where} .*: the port is in use"):
            async with serving(service(tip, live_facts(tip)), where):
                pass


async def test_an_address_of_another_machine_is_a_sentence(tip: Tip) -> None:
    with pytest.raises(ConfigError, match="not one of this machine"):
        async with serving(service(tip, live_facts(tip)), Address("203.0.113.1", 0)):
            pass


async def test_after_the_block_nobody_answers(tip: Tip) -> None:
    async with serving(service(tip, live_facts(tip)), LOOPBACK) as where:
        pass
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*where)


async def test_answering_never_blocks_the_loop(tip: Tip) -> None:
    with blockbuster_ctx(scanned_modules=["muster", "prometheus_client"]):
        async with asked(service(tip, live_facts(tip))) as ask:
            for path in ("/healthz", "/status", "/metrics"):
                assert (await ask(path))[0] == 200


async def test_an_answer_that_blocks_is_caught(tip: Tip) -> None:
    def clock() -> float:
        time.sleep(0)
        return NOW

    made = Service(About("miner-0", "ab" * 32, {"muster": "1.2.3"}), live_facts(tip), clock=clock)
    made.tip = lambda: tip
    with blockbuster_ctx(scanned_modules=["muster", "prometheus_client"]):
        async with asked(made) as ask:
            assert (await ask("/healthz"))[0] == 500


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("0.0.0.0:9100", Address("0.0.0.0", 9100)),
        ("localhost:65535", Address("localhost", 65535)),
        ("[::1]:9100", Address("::1", 9100)),
        ("off", None),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address | None) -> None:
    assert parse_address(text) == address
    assert address is None or str(address) == text


@pytest.mark.parametrize("text", ["", "9100", "127.0.0.1", "127.0.0.1:", "::1:9100", "a:65536", "a b:1", "http://a:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be HOST:PORT"):
        parse_address(text)


def test_a_chain_that_stands_still_is_a_problem(tip: Tip) -> None:
    facts = live_facts(tip)
    assert problems(facts, tip, NOW + BLOCK_SILENCE) == []
    (problem,) = problems(facts, tip, NOW + BLOCK_SILENCE + 1)
    assert "no block after" in problem


def test_a_round_without_a_record_is_a_problem_until_one_is_applied(tip: Tip) -> None:
    facts = live_facts(tip)
    last = tip.opening.open.number + ROUNDS_OVERDUE * longest_round(tip.spec)
    facts.saw_block(last, NOW)
    assert problems(facts, tip, NOW) == []
    facts.saw_block(last + 1, NOW)
    (problem,) = problems(facts, tip, NOW)
    assert f"round {tip.round} has brought no record" in problem
    # A node that catches up applies old records: that is progress.
    applied = events.Applied(0, kind="round", root="", outer_step=1, accepted=(), rejected={}, bytes_up=0, bytes_down=0)
    facts.note(Noted(2.0, applied))
    assert problems(facts, tip, NOW) == []


def test_a_closed_run_waits_for_nothing(tip: Tip) -> None:
    facts = live_facts(tip)
    facts.saw_block(10**9, NOW)
    assert problems(facts, replace(tip, closed=True), NOW) == []


class _Heights(Chain):
    """A chain of which only the head is asked; an error in the list is raised."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = iter(answers)

    async def head(self) -> Block:
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return Block(answer, bytes(32))

    origin = block = final = beacon = snapshot = register = commit = anchors = set_weights = next_block = None  # type: ignore[assignment]


async def test_the_heartbeat_sees_blocks_and_counts_failures() -> None:
    facts, heartbeats = Facts(), iter(range(3))

    async def sleep(_seconds: float) -> None:
        if next(heartbeats) == 2:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await heartbeat(_Heights(4, ChainError("the endpoint is gone"), 6), facts, sleep)
    assert (facts.block, facts.chain_errors) == (6, 1)


def test_the_journal_tells_its_listener_every_event() -> None:
    heard: list[Any] = []
    journal = Journal(None, clock=lambda: 7.0, listener=heard.append)
    journal.note(events.Key(3))
    assert heard == [Noted(7.0, events.Key(3))] == journal.noted


class _Broken(MemoryBuckets):
    """Buckets whose stores fail in one way."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def _make(self, location: str) -> Store:
        store = super()._make(location)

        async def fail(*_args: Any, **_how: Any) -> Any:
            raise self._error

        for name in ("get", "put"):
            setattr(store, name, fail)
        return store


@pytest.mark.parametrize(
    ("error", "count"), [(StorageError("refused"), 2), (ObjectMissing("not there"), 0), (ObjectTooLarge("huge"), 0)]
)
async def test_failures_of_stores_are_counted_and_answers_are_not(error: StorageError, count: int) -> None:
    facts = Facts()
    store = WatchedBuckets(_Broken(error), facts.store_failed, Ailments()).bucket("mem:a")
    with pytest.raises(type(error)):
        await store.get("key", max_bytes=1)
    with pytest.raises(type(error)):
        await store.put("key", b"")
    assert facts.store_errors == count


async def test_a_watched_store_is_the_store(tmp_path: Path) -> None:
    store = WatchedBuckets(MemoryBuckets(), lambda: None, Ailments()).bucket("mem:a")
    assert await store.put_if_absent("a/b", b"1234")
    assert not await store.put_if_absent("a/b", b"5")
    assert await store.get("a/b", max_bytes=9) == b"1234"
    assert await store.get_range("a/b", 1, 2) == b"23"
    assert [info.key for info in await store.list("a/")] == ["a/b"]
    await store.download("a/b", tmp_path / "b", max_bytes=9)
    assert (tmp_path / "b").read_bytes() == b"1234"
    await store.upload("c", tmp_path / "b")
    assert await store.get("c", max_bytes=9) == b"1234"
    await store.delete("a/b")
    assert await store.head("a/b") is None
