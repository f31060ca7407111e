"""Canonical type-length-value fields: one byte string per meaning, and room for fields nobody has thought of yet.

A field is `tag u16 ‖ length u32 ‖ value`, little-endian, tags strictly ascending. A reader that does not know a tag
rejects the message, unless the tag has `OPTIONAL` set: then the bytes are signed and ignored.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from muster.protocol.errors import WireError

OPTIONAL = 0x8000
_FIELD = struct.Struct("<HI")
_U8, _U32, _U64, _F64 = struct.Struct("<B"), struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<d")

T = TypeVar("T")


def u8(value: int) -> bytes:
    """One byte."""
    return _U8.pack(value)


def u32(value: int) -> bytes:
    """Four bytes, little-endian."""
    return _U32.pack(value)


def u64(value: int) -> bytes:
    """Eight bytes, little-endian."""
    return _U64.pack(value)


def f64(value: float) -> bytes:
    """IEEE 754 double, little-endian."""
    return _F64.pack(value)


def counted(items: Iterable[bytes]) -> bytes:
    """A list: count u32, then each item as length u32 ‖ bytes."""
    parts = [u32(len(item)) + item for item in items]
    return u32(len(parts)) + b"".join(parts)


def write_fields(fields: Mapping[int, bytes]) -> bytes:
    """Canonical bytes of a set of fields."""
    return b"".join(_FIELD.pack(tag, len(fields[tag])) + fields[tag] for tag in sorted(fields))


class Cursor:
    """Reads fixed-size values off untrusted bytes; running short is a `truncated` WireError."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > len(self._data) - self._offset:
            raise WireError("truncated", f"{size} bytes wanted, {len(self._data) - self._offset} left")
        start, self._offset = self._offset, self._offset + size
        return self._data[start : self._offset]

    def u8(self) -> int:
        """One byte."""
        return self.take(1)[0]

    def u32(self) -> int:
        """Four bytes, little-endian."""
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        """Eight bytes, little-endian."""
        return int(_U64.unpack(self.take(8))[0])

    def f64(self) -> float:
        """IEEE 754 double, little-endian."""
        return float(_F64.unpack(self.take(8))[0])

    def items(self, limit: int) -> list[bytes]:
        """A counted list of at most `limit` items."""
        count = self.u32()
        if count > limit:
            raise WireError("too_many", f"{count} items where at most {limit} are allowed")
        return [self.take(self.u32()) for _ in range(count)]

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._offset

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(len(self._data) - self._offset)

    def end(self) -> None:
        """Nothing may be left."""
        if self._offset != len(self._data):
            raise WireError("trailing", f"{len(self._data) - self._offset} bytes too many")


def whole(value: bytes, read: Callable[[Cursor], T]) -> T:
    """Read a value that must use up all of its bytes."""
    cursor = Cursor(value)
    result = read(cursor)
    cursor.end()
    return result


class Fields:
    """The fields of one message body; every getter marks its tag as understood, `end` rejects what is left."""

    __slots__ = ("_fields", "_known")

    def __init__(self, body: bytes) -> None:
        """Split a body.

        Raises:
            WireError: `truncated`, or `field_order` (tags not strictly ascending: a duplicate counts).
        """
        self._fields: dict[int, bytes] = {}
        self._known: set[int] = set()
        offset, last = 0, -1
        while offset < len(body):
            if len(body) - offset < _FIELD.size:
                raise WireError("truncated", "a field header is cut off")
            tag, length = _FIELD.unpack_from(body, offset)
            offset += _FIELD.size
            if tag <= last:
                raise WireError("field_order", f"field {tag} after field {last}")
            if length > len(body) - offset:
                raise WireError("truncated", f"field {tag} is cut off")
            self._fields[tag] = body[offset : offset + length]
            offset, last = offset + length, tag

    def get(self, tag: int) -> bytes | None:
        """A field that may be absent."""
        self._known.add(tag)
        return self._fields.get(tag)

    def raw(self, tag: int) -> bytes:
        """A field that must be there."""
        value = self.get(tag)
        if value is None:
            raise WireError("missing_field", f"field {tag}")
        return value

    def sized(self, tag: int, size: int) -> bytes:
        """A field of exactly `size` bytes."""
        value = self.raw(tag)
        if len(value) != size:
            raise WireError("field_size", f"field {tag} has {len(value)} bytes, not {size}")
        return value

    def digest(self, tag: int) -> bytes:
        """32 bytes."""
        return self.sized(tag, 32)

    def u8(self, tag: int) -> int:
        """One byte."""
        return self.sized(tag, 1)[0]

    def u32(self, tag: int) -> int:
        """Four bytes."""
        return int(_U32.unpack(self.sized(tag, 4))[0])

    def u64(self, tag: int) -> int:
        """Eight bytes."""
        return int(_U64.unpack(self.sized(tag, 8))[0])

    def text(self, tag: int, limit: int) -> str:
        """Printable ASCII of at most `limit` bytes."""
        return ascii_text(self.raw(tag), limit)

    def end(self) -> None:
        """Reject unknown critical fields."""
        for tag in self._fields:
            if tag not in self._known and not tag & OPTIONAL:
                raise WireError("unknown_field", f"critical field {tag}")


def ascii_text(value: bytes, limit: int) -> str:
    """Decode printable ASCII of at most `limit` bytes; anything else is a `text` WireError."""
    if len(value) > limit or any(not 32 <= byte < 127 for byte in value):
        raise WireError("text", f"printable ASCII of at most {limit} bytes expected")
    return value.decode("ascii")
