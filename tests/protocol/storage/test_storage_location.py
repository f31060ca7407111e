"""The grammar of locations on the network: one canonical text each, and nothing else gets through."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.protocol.errors import StorageError
from muster.protocol.storage import Credentials, S3Location, WebLocation, is_network_location, parse_location

LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=10)
HOSTS = st.one_of(
    st.lists(LABEL, max_size=2).map(lambda labels: ".".join([*labels, "example"])),
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: address.compressed),
    st.just("localhost"),
)
PORTS = st.integers(1, 65535)
PREFIXES = st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True), max_size=3).map("/".join)
SECRETS = st.text([chr(code) for code in range(33, 127)], min_size=1, max_size=40)


@st.composite
def s3_locations(draw: st.DrawFn) -> S3Location:
    host = draw(HOSTS)
    return S3Location(
        host,
        draw(PORTS),
        draw(st.from_regex(r"[a-z0-9][a-z0-9-]{1,20}[a-z0-9]", fullmatch=True)),
        draw(PREFIXES),
        draw(st.sampled_from(["us-east-1", "auto", "eu_1"])),
        draw(st.booleans()) and host.endswith("example"),
        draw(st.booleans()),
        draw(st.none() | st.builds(Credentials, SECRETS, SECRETS)),
    )


@given(s3_locations() | st.builds(WebLocation, HOSTS, PORTS, PREFIXES, st.booleans()))
def test_what_is_written_is_read_back(location: S3Location | WebLocation) -> None:
    text = str(location)
    assert parse_location(text) == location
    assert is_network_location(text)
    if isinstance(location, S3Location) and location.read is not None:
        assert location.read.secret not in {location.shown, repr(location.read)}
        assert "@" not in location.shown


@given(st.text(alphabet="s3:/@[]?&=%.-_abc019 \n\0é", max_size=40).map("s3://".__add__) | st.text(max_size=60))
def test_any_text_is_a_location_or_refused(text: str) -> None:
    try:
        location = parse_location(text)
    except StorageError as error:
        assert len(text) < 8 or text not in str(error)
    else:
        assert parse_location(str(location)) == location


@pytest.mark.parametrize(
    ("text", "canonical", "endpoint"),
    [
        ("s3://127.0.0.1:9000/bkt", "s3://127.0.0.1:9000/bkt", "http://127.0.0.1:9000"),
        ("s3://127.0.0.1/bkt?tls=on", "s3://127.0.0.1/bkt?tls=on", "https://127.0.0.1"),
        ("s3://localhost/bkt/", "s3://localhost/bkt", "http://localhost"),
        ("s3://[::1]:9000/bkt/a/b", "s3://[::1]:9000/bkt/a/b", "http://[::1]:9000"),
        ("s3://[0:0::2]/bkt", "s3://[::2]/bkt", "https://[::2]"),
        ("s3://S3.Example.COM:443/bkt", "s3://s3.example.com/bkt", "https://s3.example.com"),
        ("s3://h.example:80/bkt?tls=off", "s3://h.example/bkt?tls=off", "http://h.example"),
        (
            "s3://h.example/bkt?tls=on&style=virtual&region=eu-1",
            "s3://h.example/bkt?region=eu-1&style=virtual",
            "https://bkt.h.example",
        ),
        ("s3://a%2Fb:c%2b%3D%40@h.example/bkt", "s3://a%2Fb:c%2B%3D%40@h.example/bkt", "https://h.example"),
        ("https://h.example", "https://h.example", "https://h.example"),
        ("https://h.example:8443/runs/1/", "https://h.example:8443/runs/1", "https://h.example:8443/runs/1"),
        ("http://127.0.0.1/x", "http://127.0.0.1/x", "http://127.0.0.1/x"),
    ],
)
def test_canonical_texts(text: str, canonical: str, endpoint: str) -> None:
    location = parse_location(text)
    assert (str(location), location.endpoint) == (canonical, endpoint)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bucket",
        "dir:x",
        "ftp://h.example/bkt",
        "S3://h.example/bkt",
        "s3:///bkt",
        "s3://h.example",
        "s3://h.example/",
        "s3://h.example/b",
        "s3://h.example/Bkt",
        "s3://h.example/bkt..x",
        "s3://h.example/bkt//a",
        "s3://h.example/bkt/../a",
        "s3://h.example/bkt/%2e%2e/a",
        "s3://h.example/bkt/.hidden",
        "s3://h.example/bkt/a#b",
        "s3://h.example:0/bkt",
        "s3://h.example:65536/bkt",
        "s3://h.example:/bkt",
        "s3://h.example:+80/bkt",
        "s3://127.1/bkt",
        "s3://2130706433/bkt",
        "s3://0x7f.1/bkt",
        "s3://0177.0.0.1/bkt",
        "s3://::1/bkt",
        "s3://[::1/bkt",
        "s3://[fe80::1%25eth0]/bkt",
        "s3://[127.0.0.1]/bkt",
        "s3://h_x.example/bkt",
        "s3://-h.example/bkt",
        "s3://h.example./bkt",
        "s3://a@h.example/bkt",
        "s3://a:@h.example/bkt",
        "s3://:b@h.example/bkt",
        "s3://a:b:c@h.example/bkt",
        "s3://a:b+c@h.example/bkt",
        "s3://a:b%0@h.example/bkt",
        "s3://a:b%00@h.example/bkt",
        "s3://a:b%FF@h.example/bkt",
        "s3://a:b%20@h.example/bkt",
        "s3://a:b@evil@h.example/bkt",
        "s3://h.example/bkt?",
        "s3://h.example/bkt?tls=maybe",
        "s3://h.example/bkt?tls=on&tls=off",
        "s3://h.example/bkt?key=x",
        "s3://h.example/bkt?region=",
        "s3://h.example/bkt?region=a/b",
        "s3://127.0.0.1/bkt?style=virtual",
        "https://user:pw@h.example/x",
        "https://h.example/x?y=z",
        "s3://h.example/bkt/" + "x/" * 300 + "x",
        "s3://hé.example/bkt",
        "s3://h.example/bkt\n",
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(StorageError):
        parse_location(text)


def test_a_location_whose_canonical_text_is_too_long_is_refused() -> None:
    short = f"s3://h.example/bkt/{'a' * 120}/{'b' * 120}/{'c' * 120}/{'d' * 100}?region=eu"
    assert len(short) < 512
    parse_location(short)
    pair = f"s3://{'~' * 10}:{'-' * 128}@h.example/bkt/{'a' * 120}/{'b' * 120}/{'c' * 120}"
    with pytest.raises(StorageError, match="512"):
        parse_location(pair)


def test_a_secret_is_in_no_repr_and_no_error() -> None:
    pair = Credentials("ACCESS", "hush-hush")
    assert "hush" not in f"{pair!r} {pair}"
    with pytest.raises(StorageError) as caught:
        parse_location("s3://ACCESS:hush-hush@h.example/bkt/../x")
    assert "hush" not in str(caught.value)
    with pytest.raises(StorageError, match="printable"):
        Credentials("ACCESS", "hush hush")
