"""Vectors that must fail: what no implementation may take, by rule and case, with its reason where the rule has them.

Signatures are pinned, as those of the other vectors are; everything else is a function of `example_run`.
"""

from __future__ import annotations

import json
from typing import Any

import rfc8785
import zstandard
from example_run import Run
from vector_files import Document

from muster.kernels import Codec, FrameError, Grid, decode
from muster.protocol.errors import ConfigError
from muster.protocol.identity import verify
from muster.protocol.spec import ChainSpec, RunSpec

MESSAGE = b"muster"
ORDER = 2**252 + 27742317777372353535851937790883648493
"""Of the group in which sr25519 signs: a scalar has one form below it."""

LENGTH_BYTES = 4


def documents(run: Run) -> dict[str, Document]:
    """All of them by file name."""
    return {
        **{f"signature/{case}.json": document for case, document in _signatures(run).items()},
        **{f"codec/{case}.json": document for case, document in _payloads(run).items()},
        **{f"spec/{case}.json": document for case, document in _specs(run).items()},
    }


def is_refused(rule: str, given: dict[str, Any]) -> str | None:
    """The reason for which this library refuses what is given, None where it takes it."""
    match rule:
        case "signature":
            parts = (bytes.fromhex(given[name]) for name in ("public", "message", "signature"))
            return None if verify(*parts) else "signature"
        case "codec":
            return codec_reason(bytes.fromhex(given["payload_to_decode"]), given["shapes"], given["k"])
        case "spec":
            return spec_reason(given["canonical"].encode())
    raise AssertionError(rule)


def codec_reason(payload: bytes, shapes: list[list[int]], k: int) -> str | None:
    """Why a payload without its version byte is refused, None where it is not."""
    try:
        decode(payload, Codec(Grid([tuple(shape) for shape in shapes]), k))
    except FrameError as error:
        return error.reason
    return None


def spec_reason(data: bytes) -> str | None:
    """The code of the error with which a spec is refused, None where it is not."""
    try:
        RunSpec.from_bytes(data)
    except ConfigError as error:
        return error.code
    return None


def _signatures(run: Run) -> dict[str, Document]:
    alice = run.miners[0]

    def wrapped(message: bytes) -> bytes:
        return b"<Bytes>" + message + b"</Bytes>"

    good = alice.sign(MESSAGE)
    scalar = int.from_bytes(good[32:], "little") & (2**255 - 1)
    unreduced = (scalar + ORDER) | 1 << 255
    once, twice = wrapped(MESSAGE), wrapped(wrapped(MESSAGE))
    cases: dict[str, tuple[str, bytes, bytes, bool]] = {
        "plain": ("Over the message itself: the only form", MESSAGE, good, True),
        "wrapped-itself": ("A message that is in the wrapping is one like others", once, alice.sign(once), True),
        "wrapped-once": ("Over the message in the wallets' wrapping", MESSAGE, alice.sign(once), False),
        "wrapped-twice": ("Over the message wrapped twice", MESSAGE, alice.sign(twice), False),
        "wrapped-once-more": ("Over a wrapped message, wrapped once more", once, alice.sign(twice), False),
        "unwrapped": ("Over what is in the wrapping", once, good, False),
        "unmarked": ("Without schnorrkel's mark", MESSAGE, good[:63] + bytes((good[63] & 0x7F,)), False),
        "unreduced": ("Its scalar is not reduced", MESSAGE, good[:32] + unreduced.to_bytes(32, "little"), False),
        "longer": ("With a byte more", MESSAGE, good + b"\0", False),
    }  # fmt: skip
    return {
        case: _document(
            about,
            {"public": alice.public.hex(), "message": message.hex(), "signature": signature.hex()},
            None if holds else "signature",
        )
        for case, (about, message, signature, holds) in cases.items()
    }


def _payloads(run: Run) -> dict[str, Document]:
    """Each of one wrong thing, and some of two: the first that fails in the order of reading is the reason."""
    good, grid, k = run.payload(0), run.layout.grid, run.spec.sparse.k
    assert len(grid.frames) == 1
    end = LENGTH_BYTES + int.from_bytes(good[:LENGTH_BYTES], "little")
    content, codes = zstandard.ZstdDecompressor().decompress(good[LENGTH_BYTES:end]), good[end:]
    scales, entries = 2 * grid.tiles, Codec(grid, k).count

    def framed(content: bytes, codes: bytes = codes, **how: Any) -> bytes:
        body = zstandard.ZstdCompressor(level=1, **how).compress(content)
        return len(body).to_bytes(LENGTH_BYTES, "little") + body + codes

    zeroed = bytes(scales) + content[scales:]
    outside = content[:scales] + b"\xfe" * entries
    cases = {
        "empty": ("Nothing", b"", "frame_truncated"),
        "cut": ("Without its last byte", good[:-1], "frame_truncated"),
        "longer": ("With a byte after the last frame", good + b"\0", "frame_trailing"),
        "length": ("A length that no frame of these tiles has", b"\xff" * 4 + good[4:], "frame_length"),
        "no-magic": ("What should be a zstd frame begins otherwise", good[:4] + b"\0" + good[5:], "frame_zstd"),
        "checksum": ("A zstd frame with a checksum", framed(content, write_checksum=True), "frame_zstd"),
        "no-size": ("A zstd frame without its content size", framed(content, write_content_size=False), "frame_zstd"),
        "bomb": ("A zstd frame that announces a megabyte", framed(bytes(2**20)), "frame_length"),
        "few-gaps": ("Fewer gaps than entries", framed(content[:scales] + bytes(entries - 1)), "frame_length"),
        "endless-gaps": ("Gaps that all go on", framed(content[:scales] + b"\xff" * entries), "frame_gaps"),
        "outside": ("Indices outside their tiles", framed(outside), "index_range"),
        "zero-scale": ("Values of a scale of 0 that are not 0", framed(zeroed), "scale_zero"),
        "outside-and-longer": ("An index outside, and a byte too many", framed(outside) + b"\0", "index_range"),
        "outside-and-cut": ("An index outside, and codes that end early", framed(outside)[:-1], "index_range"),
        "zero-scale-and-longer": ("A code at scale 0, and a byte too many", framed(zeroed) + b"\0", "scale_zero"),
    }  # fmt: skip
    shapes = [list(shape) for shape in run.layout.shapes]
    made = {
        case: _payload(run, case, about, payload, reason, shapes, k) for case, (about, payload, reason) in cases.items()
    }
    padded = framed(bytes((1, 0)) + bytes(10), b"\0\0\x10")
    return made | {
        "padding": _payload(run, "padding", "A bit after the last code", padded, "code_padding", [[10]], 4096)
    }


def _payload(run: Run, case: str, about: str, payload: bytes, reason: str, shapes: list[list[int]], k: int) -> Document:
    """Pinned: another version of zstd would compress it otherwise."""

    def serves(known: bytes) -> bool:
        return codec_reason(known, shapes, k) == reason

    pinned = run.pins.take(f"refused payload {case}", serves, lambda: payload)
    return _document(about, {"shapes": shapes, "k": k, "payload_to_decode": pinned.hex()}, reason)


def _specs(run: Run) -> dict[str, Document]:
    document = json.loads(run.spec.canonical())
    older = {**document, "genesis": {k: v for k, v in document["genesis"].items() if k != "chain"}}
    del older["protocol"]
    chain = ChainSpec.of(run.chain.origin).model_dump() | {"netuid": 65_536}
    texts = {
        "protocol-1": ("Of protocol 1, which named no chain", rfc8785.dumps(older), "config.protocol"),
        "protocol-3": ("Of a later protocol", rfc8785.dumps(document | {"protocol": 3}), "config.protocol"),
        "spelling": ("The same values in another spelling", json.dumps(document, sort_keys=True).encode(), "config"),
        "unknown": ("With a key that this protocol does not have", rfc8785.dumps(document | {"note": ""}), "config"),
        "netuid": ("A subnet beyond u16", rfc8785.dumps(_with_chain(document, chain)), "config"),
    }
    return {
        case: _document(about, {"canonical": data.decode()}, reason) for case, (about, data, reason) in texts.items()
    }


def _with_chain(document: dict[str, Any], chain: dict[str, Any]) -> dict[str, Any]:
    return {**document, "genesis": document["genesis"] | {"chain": chain}}


def _document(about: str, given: dict[str, Any], reason: str | None) -> Document:
    return {"about": about, "given": given, **({"expect": {}} if reason is None else {"refused": reason})}
