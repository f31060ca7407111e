"""The script: what befalls which request, how often, and what was asked."""

from __future__ import annotations

import pytest

from muster.lab.faults import OPERATIONS, Fault, Request, Script, sort_of
from muster.protocol import paths

RUN = bytes(range(32))
GET = Request("miner-0", "operator-0", "store.get", paths.seal(RUN, 3, bytes(32)))
PUT = Request("miner-0", "miner-0", "store.put", paths.key(RUN, 3))
RANGE = Request("aggregator-0", "miner-0", "store.get_range", paths.payload(RUN, 3), 430)
ANCHORS = Request("miner-0", "chain", "chain.anchors", "3")


def befalls(script: Script, request: Request, heights: range) -> list[int]:
    """The heights at which the request goes wrong."""
    return [height for height in heights if script.before(request, height) or script.after(request, height)]


@pytest.mark.parametrize(
    ("fault", "hit", "spared"),
    [
        (Fault("error"), [GET, PUT, ANCHORS], []),
        (Fault("error", "store.*"), [GET, PUT], [ANCHORS]),
        (Fault("error", "chain.anchors", "3"), [ANCHORS], [GET, PUT]),
        (Fault("error", key="*.key"), [PUT], [GET, ANCHORS]),
        (Fault("error", who="miner-1"), [], [GET, PUT, ANCHORS]),
        (Fault("error", who="miner-*", owner="operator-0"), [GET], [PUT, ANCHORS]),
        (Fault("missing"), [GET], [PUT, ANCHORS]),
        (Fault("damaged"), [GET], [PUT, ANCHORS]),
        (Fault("lost"), [PUT], [GET, ANCHORS]),
        (Fault("slow", seconds=1), [GET, PUT, ANCHORS], []),
        (Fault("error", start=430), [RANGE], [GET, PUT, ANCHORS, RANGE._replace(start=429)]),
    ],
)
def test_patterns_and_kinds_choose(fault: Fault, hit: list[Request], spared: list[Request]) -> None:
    for request in (*hit, *spared):
        assert bool(befalls(Script([fault]), request, range(1))) == (request in hit), request


def test_a_count_is_used_up() -> None:
    fault = Fault("error", count=2)
    script = Script([fault])
    assert befalls(script, GET, range(5)) == [0, 1]
    assert script.fired[fault] == 2


def test_blocks_count_from_the_first_time() -> None:
    assert befalls(Script([Fault("error", blocks=10)]), GET, range(7, 30)) == list(range(7, 17))


def test_until_block_is_a_height() -> None:
    assert befalls(Script([Fault("error", until_block=9)]), GET, range(7, 30)) == [7, 8]


def test_from_block_is_a_height_too() -> None:
    assert befalls(Script([Fault("error", from_block=9, blocks=3)]), GET, range(5, 20)) == [9, 10, 11]


def test_limits_hold_together() -> None:
    fault = Fault("error", count=3, blocks=2, until_block=100)
    assert befalls(Script([fault]), GET, range(5, 20)) == [5, 6]


def test_the_next_fault_follows_one_that_is_used_up() -> None:
    first, then = Fault("error", count=1), Fault("hang", count=1)
    script = Script([first, then])
    assert [script.before(GET, 0) for _ in range(3)] == [first, then, None]


def test_one_that_never_fires_is_known() -> None:
    happens, never = Fault("error", count=1), Fault("missing", key="*.rec")
    script = Script([happens, never])
    script.before(GET, 0)
    assert script.unfired() == [never]


def test_faults_that_mean_nothing_are_refused() -> None:
    for build in (
        lambda: Fault("lost", "store.get"),
        lambda: Fault("damaged", "chain.*"),
        lambda: Fault("error", "store.fetch"),
        lambda: Fault("slow"),
        lambda: Fault("error", seconds=3),
        lambda: Script([Fault("error"), Fault("error")]),
    ):
        with pytest.raises(ValueError, match=r"fault|nothing"):
            build()


@pytest.mark.parametrize(
    ("key", "sort"),
    [
        (paths.hello(RUN), "hello"),
        (paths.payload(RUN, 7), "submissions.sub"),
        (paths.key(RUN, 7), "submissions.key"),
        (paths.seal(RUN, 123_456_789, bytes(32)), "seals.seal"),
        (paths.record(RUN, 7, bytes(32)), "records.rec"),
        (paths.records(RUN, 7), "records"),
        (paths.bundle(RUN, 7, bytes(32)), "bundles.bin"),
        (paths.amendments(RUN), "amendments"),
        (paths.checkpoint(RUN, 7, paths.MANIFEST), "checkpoints.json"),
        ("anchor/12", "anchor"),
        ("assign/0", "assign"),
        ("17", ""),
        ("", ""),
    ],
)
def test_requests_are_counted_by_the_sort_of_key(key: str, sort: str) -> None:
    assert sort_of(key) == sort


def test_requests_can_be_asked_for() -> None:
    script = Script()
    for request in (GET, GET, PUT, ANCHORS):
        script.count(request)
    assert script.asked() == 4
    assert script.asked("miner-0", "store.*") == 3
    assert script.asked(operation="store.get", sort="seals.*") == 2
    assert script.asked("miner-1") == 0


def test_operations_are_named_once() -> None:
    assert len(set(OPERATIONS)) == len(OPERATIONS)
