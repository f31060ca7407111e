"""A hello: what a participant says of itself, so that a person can see why two of them do not get on.

It stands in the participant's bucket under a key that never changes. Nothing in it is consensus: whoever reads one
may tell a person about it, and must decide nothing by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from muster.protocol.errors import WireError
from muster.protocol.identity import Identity
from muster.protocol.types import MAX_LOCATION
from muster.protocol.wire.envelope import Type, read_object, write_object
from muster.protocol.wire.seal import DIGEST_BYTES, chunks, strictly_ascending
from muster.protocol.wire.tlv import OPTIONAL, Cursor, ascii_text, counted, u8, whole

_SOFTWARE = 4
_FORMATS = 5
_CODECS = 6
_RUNS = 7
_PREFIXES = 8
_ROLES = 9
_URL = 10
_LOCATION = OPTIONAL | 11

MAX_HELLO_BYTES = 16 * 2**10
"""Cap of a hello; one that uses every field to its limit is smaller."""
MAX_SOFTWARE = 64
MAX_RUNS = 64
MAX_PREFIXES = 32
MAX_PREFIX = 128
MAX_ROLES = 16
MAX_NAME = 32
"""Characters of a role, or of what a prefix is for."""
MAX_URL = 256

PREFIXES = tuple((name, f"{name}/") for name in ("bundles", "checkpoints", "records", "scores", "seals", "submissions"))
"""Where this release keeps things, below the run id."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Hello:
    """What one participant runs, and where its things are.

    `round` is where it stood when it wrote this. `formats` are the envelope formats and `codecs` the codecs it reads,
    ascending. `runs` are the ids of the runs this bucket serves, ascending. `prefixes` are (what, key prefix below
    the run id) by name. `roles` are what runs with this hotkey, by name. `url` is where the bucket can also be read
    by plain HTTP, "" for nowhere. `location` is where the bucket is, where what is committed is only a pointer to it
    (`muster.protocol.storage.pointer`), "" elsewhere.
    """

    run_id: bytes
    public: bytes
    round: int
    software: str
    formats: tuple[int, ...]
    codecs: tuple[int, ...]
    runs: tuple[bytes, ...]
    prefixes: tuple[tuple[str, str], ...]
    roles: tuple[str, ...]
    url: str = ""
    location: str = ""


def encode_hello(hello: Hello, identity: Identity) -> bytes:
    """The signed object."""
    fields = {
        _SOFTWARE: hello.software.encode("ascii"),
        _FORMATS: bytes(hello.formats),
        _CODECS: bytes(hello.codecs),
        _RUNS: b"".join(hello.runs),
        _PREFIXES: counted(u8(len(name)) + (name + prefix).encode("ascii") for name, prefix in hello.prefixes),
        _ROLES: counted(role.encode("ascii") for role in hello.roles),
    }
    if hello.url:
        fields[_URL] = hello.url.encode("ascii")
    if hello.location:
        fields[_LOCATION] = hello.location.encode("ascii")
    return write_object(Type.HELLO, identity, hello.run_id, hello.round, fields)


def decode_hello(data: bytes, run_id: bytes) -> tuple[Hello, bytes]:
    """The hello and its digest.

    Raises:
        WireError: `hello_size`, `hello_order` where a list is not strictly ascending, or what the envelope raises.
    """
    if len(data) > MAX_HELLO_BYTES:
        raise WireError("hello_size", f"{len(data)} bytes")
    envelope = read_object(data, Type.HELLO, run_id)
    fields = envelope.fields
    hello = Hello(
        run_id=run_id,
        public=envelope.signer,
        round=envelope.round,
        software=fields.text(_SOFTWARE, MAX_SOFTWARE),
        formats=tuple(fields.raw(_FORMATS)),
        codecs=tuple(fields.raw(_CODECS)),
        runs=tuple(chunks(fields.raw(_RUNS), DIGEST_BYTES)),
        prefixes=_items(fields.raw(_PREFIXES), MAX_PREFIXES, _read_prefix),
        roles=_items(fields.raw(_ROLES), MAX_ROLES, lambda cursor: ascii_text(cursor.rest(), MAX_NAME)),
        url="" if fields.get(_URL) is None else fields.text(_URL, MAX_URL),
        location="" if fields.get(_LOCATION) is None else fields.text(_LOCATION, MAX_LOCATION),
    )
    fields.end()
    if len(hello.runs) > MAX_RUNS:
        raise WireError("too_many", f"{len(hello.runs)} runs where at most {MAX_RUNS} are allowed")
    names = [name.encode() for name, _ in hello.prefixes]
    bytewise = [[bytes([version]) for version in versions] for versions in (hello.formats, hello.codecs)]
    lists: list[Sequence[bytes]] = [*bytewise, hello.runs, names, [role.encode() for role in hello.roles]]
    if not all(strictly_ascending(items) for items in lists):
        raise WireError("hello_order", "the lists of a hello must be in order, each item once")
    return hello, envelope.digest


def _items(value: bytes, limit: int, read: Callable[[Cursor], T]) -> tuple[T, ...]:
    return tuple(whole(item, read) for item in whole(value, lambda cursor: cursor.items(limit)))


def _read_prefix(cursor: Cursor) -> tuple[str, str]:
    name = ascii_text(cursor.take(cursor.u8()), MAX_NAME)
    return name, ascii_text(cursor.rest(), MAX_PREFIX)
