"""Hellos: what a participant says of itself, signed, of bounded size, in one order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import body_of, hash32, identity, reason_of, resigned
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol import paths, wire
from muster.protocol.wire import MAX_HELLO_BYTES, Hello
from muster.protocol.wire.hello import MAX_NAME, MAX_PREFIX, MAX_PREFIXES, MAX_ROLES, MAX_RUNS, MAX_SOFTWARE, MAX_URL
from muster.protocol.wire.tlv import OPTIONAL, u32

ALICE = identity("alice")
RUN, OTHER = sorted((hash32("run"), hash32("other run")))
HELLO = Hello(
    run_id=RUN,
    public=ALICE.public,
    round=3,
    software="muster 1.2.3",
    formats=(1,),
    codecs=(1, 2),
    runs=(RUN, OTHER),
    prefixes=wire.PREFIXES,
    roles=("aggregator", "validator"),
    url="https://alice.example/muster",
)
DATA = wire.encode_hello(HELLO, ALICE)

printable = st.characters(min_codepoint=32, max_codepoint=126)
names = st.text(printable, max_size=MAX_NAME)
versions = st.sets(st.integers(0, 255), max_size=8).map(lambda found: tuple(sorted(found)))


@st.composite
def hellos(draw: st.DrawFn) -> Hello:
    """Any hello an honest participant may write."""
    return Hello(
        run_id=RUN,
        public=ALICE.public,
        round=draw(st.integers(0, 2**64 - 1)),
        software=draw(st.text(printable, max_size=MAX_SOFTWARE)),
        formats=draw(versions),
        codecs=draw(versions),
        runs=tuple(sorted(draw(st.sets(st.binary(min_size=32, max_size=32), max_size=4)))),
        prefixes=tuple(sorted(draw(st.dictionaries(names, st.text(printable, max_size=MAX_PREFIX))).items())),
        roles=tuple(sorted(draw(st.sets(names, max_size=4)))),
        url=draw(st.text(printable, max_size=MAX_URL)),
    )


@given(hellos())
def test_any_hello_round_trips(hello: Hello) -> None:
    data = wire.encode_hello(hello, ALICE)
    read, digest = wire.decode_hello(data, RUN)
    assert (read, digest) == (hello, wire.digest_of(data))
    assert body_of(wire.encode_hello(read, ALICE)) == body_of(data)


def test_the_largest_hello_fits_the_cap() -> None:
    def many(count: int, size: int) -> list[str]:
        return [f"{i:0{size}d}" for i in range(count)]

    largest = Hello(
        run_id=RUN,
        public=ALICE.public,
        round=2**64 - 1,
        software="s" * MAX_SOFTWARE,
        formats=tuple(range(256)),
        codecs=tuple(range(256)),
        runs=tuple(sorted(hash32(i) for i in range(MAX_RUNS))),
        prefixes=tuple((name, "p" * MAX_PREFIX) for name in many(MAX_PREFIXES, MAX_NAME)),
        roles=tuple(many(MAX_ROLES, MAX_NAME)),
        url="u" * MAX_URL,
    )
    data = wire.encode_hello(largest, ALICE)
    assert len(data) <= MAX_HELLO_BYTES
    assert wire.decode_hello(data, RUN)[0] == largest


@pytest.mark.parametrize(
    ("hello", "reason"),
    [
        (replace(HELLO, formats=(2, 1)), "hello_order"),
        (replace(HELLO, codecs=(1, 1)), "hello_order"),
        (replace(HELLO, runs=(OTHER, RUN)), "hello_order"),
        (replace(HELLO, prefixes=HELLO.prefixes[::-1]), "hello_order"),
        (replace(HELLO, prefixes=(("seals", "a/"), ("seals", "b/"))), "hello_order"),
        (replace(HELLO, roles=("validator", "aggregator")), "hello_order"),
        (replace(HELLO, runs=tuple(sorted(hash32(i) for i in range(MAX_RUNS + 1)))), "too_many"),
        (replace(HELLO, roles=tuple(f"{i:02d}" for i in range(MAX_ROLES + 1))), "too_many"),
        (replace(HELLO, prefixes=tuple((f"{i:02d}", "") for i in range(MAX_PREFIXES + 1))), "too_many"),
        (replace(HELLO, software="s" * (MAX_SOFTWARE + 1)), "text"),
        (replace(HELLO, roles=("r" * (MAX_NAME + 1),)), "text"),
        (replace(HELLO, prefixes=(("n" * (MAX_NAME + 1), ""),)), "text"),
        (replace(HELLO, prefixes=(("n", "p" * (MAX_PREFIX + 1)),)), "text"),
        (replace(HELLO, url="u" * (MAX_URL + 1)), "text"),
        (replace(HELLO, url="u" * MAX_HELLO_BYTES), "hello_size"),
    ],
)
def test_a_hello_that_is_not_in_form(hello: Hello, reason: str) -> None:
    data = wire.encode_hello(hello, ALICE)
    assert reason_of(lambda: wire.decode_hello(data, RUN)) == reason


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        (4, b"muster\n", "text"),
        (7, RUN + b"\0", "field_size"),
        (8, u32(1) + u32(1) + b"\x05", "truncated"),
        (8, u32(0) + b"\0", "trailing"),
        (9, u32(1), "truncated"),
        (11, b"", "unknown_field"),
        (OPTIONAL, b"later", None),
    ],
)
def test_a_field_that_is_not_right(tag: int, value: bytes, reason: str | None) -> None:
    data = resigned(DATA, ALICE, RUN, lambda fields: fields.update({tag: value}))
    if reason is None:
        assert wire.decode_hello(data, RUN)[0] == HELLO
    else:
        assert reason_of(lambda: wire.decode_hello(data, RUN)) == reason


@pytest.mark.parametrize("tag", range(4, 10))
def test_every_field_but_the_address_is_needed(tag: int) -> None:
    missing = resigned(DATA, ALICE, RUN, lambda fields: fields.pop(tag))
    assert reason_of(lambda: wire.decode_hello(missing, RUN)) == "missing_field"


def test_the_address_may_be_absent() -> None:
    without = resigned(DATA, ALICE, RUN, lambda fields: fields.pop(10))
    assert wire.decode_hello(without, RUN)[0] == replace(HELLO, url="")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA[:-1], "truncated"),
        (DATA + b"\0", "trailing"),
        (resigned(DATA, identity("mallory"), RUN, lambda _: None), "signature"),
        (wire.encode_key(ALICE, RUN, 3, bytes(32), bytes(32)), "type"),
        (wire.encode_hello(replace(HELLO, run_id=OTHER), ALICE), "wrong_run"),
    ],
)
def test_an_object_that_is_not_a_hello(data: bytes, reason: str) -> None:
    assert reason_of(lambda: wire.decode_hello(data, RUN)) == reason


def test_where_it_is() -> None:
    assert paths.hello(RUN) == f"{RUN.hex()}/hello"
