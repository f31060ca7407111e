"""What is committed for a location that is too long: it leads to that location, and to no other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import StorageError
from muster.protocol.storage import parse_location
from muster.protocol.storage.pointer import PIN_DIGITS, Pointer, check_bootstrap, committed_text, pin_of, stands_for

BOOTSTRAP = "s3://host.example/bucket"
LONG = f"s3://READ:{'S' * 64}@host.example/bucket/a/long/prefix?region=eu-west-1"

texts = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), min_size=1, max_size=60)


@given(texts, texts)
def test_a_pointer_is_read_back_and_names_its_location(bootstrap: str, location: str) -> None:
    committed = committed_text(location, bootstrap)
    assert len(committed) == len(bootstrap) + 1 + PIN_DIGITS
    pointer = Pointer.parse(committed)
    assert pointer == Pointer(bootstrap, pin_of(location))
    assert pointer.names(location)
    assert stands_for(committed, location)


@given(texts, texts, texts)
def test_and_no_other(bootstrap: str, location: str, other: str) -> None:
    assert stands_for(committed_text(location, bootstrap), other) == (other == location)
    assert stands_for(committed_text(location), other) == (other == location)


@given(texts, texts)
def test_no_pointer_leads_to_a_pointer(bootstrap: str, location: str) -> None:
    chained = committed_text(location, bootstrap)
    pointer = Pointer.parse(committed_text(chained, bootstrap))
    assert pointer is not None
    assert not pointer.names(chained)


@pytest.mark.parametrize(
    "text", ["", "#", "#0123abcd", "dir:a#0123abc", "dir:a#0123ABCD", "dir:a#0123abcd0", "a#b#0123abcd"]
)
def test_whatever_else_is_no_pointer(text: str) -> None:
    assert Pointer.parse(text) is None


def test_no_location_of_the_network_is_taken_for_a_pointer() -> None:
    assert Pointer.parse(LONG) is None
    for place in (BOOTSTRAP, "https://host.example/prefix"):
        with pytest.raises(StorageError):
            parse_location(committed_text(LONG, place))


def test_what_leads_nowhere_is_refused() -> None:
    check_bootstrap(LONG, "")
    check_bootstrap(LONG, BOOTSTRAP)
    check_bootstrap("dir:alice", "dir:alice")
    for location, bootstrap in [(LONG, f"{BOOTSTRAP}#1"), (f"{LONG}#1", BOOTSTRAP), (LONG, "s3://host.example/?")]:
        with pytest.raises(StorageError):
            check_bootstrap(location, bootstrap)
