"""The protocol page and its vectors say what the code does, so that a second implementation can trust them."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from blake3 import blake3

from muster.kernels import encode
from muster.protocol import wire
from muster.protocol.spec import RunSpec

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "vectors.json").read_text(encoding="utf-8")
VECTORS: dict[str, dict[str, Any]] = json.loads(TEXT)


@cache
def maker() -> ModuleType:
    """The script that writes the vectors; it imports from its own folder, as a script does."""
    sys.path.append(str(DOCS))
    try:
        return importlib.import_module("make_vectors")
    finally:
        sys.path.remove(str(DOCS))


@cache
def made() -> dict[str, dict[str, Any]]:
    """The vectors as the library makes them now, with what the file pins."""
    vectors: dict[str, dict[str, Any]] = maker().make_vectors(VECTORS["pinned"])
    return vectors


@pytest.mark.parametrize("section", VECTORS)
def test_the_library_makes_these_vectors(section: str) -> None:
    """After a deliberate change run `docs/make_vectors.py`, which writes the file and the page again."""
    assert made()[section] == VECTORS[section]


def test_nothing_is_missing_from_the_file() -> None:
    assert maker().to_text(made()) == TEXT


def test_the_page_quotes_the_file() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert maker().quoted(page, VECTORS) == page
    quoted = [name for name in VECTORS if f"<!-- vectors: {name} -->" in page]
    assert set(quoted) == set(VECTORS) - {"pinned"}


def test_every_object_is_signed() -> None:
    """Not by trusting the maker: each object is read with the run id of the canonical spec in the file."""
    run_id = RunSpec.from_bytes(VECTORS["spec"]["canonical"].encode()).run_id()
    assert run_id.hex() == VECTORS["spec"]["run_id"]
    signed = wire.decode_head(bytes.fromhex(VECTORS["head"]["object"]), run_id)
    ciphertext = bytes.fromhex(VECTORS["payload"]["object"])
    assert blake3(ciphertext).digest() == signed.header.ciphertext_digest
    readers: dict[str, Callable[[bytes], object]] = {
        "head": lambda data: wire.decode_head(data, run_id),
        "seal": lambda data: wire.decode_seal(data, run_id),
        "record": lambda data: wire.decode_record(data, run_id, len(VECTORS["layout"]["tensors"])),
        "amendment": lambda data: wire.decode_amendment(data, run_id),
        "hello": lambda data: wire.decode_hello(data, run_id),
        "proof": lambda data: wire.decode_proof(data, run_id),
        "key": lambda data: wire.decode_key(data, run_id, 0, signed.header.public),
    }
    for kind, read in readers.items():
        data = bytes.fromhex(VECTORS[kind]["object"])
        assert wire.digest_of(data).hex() == VECTORS[kind]["digest"]
        read(data)
        with pytest.raises(wire.WireError, match="signature"):
            read(data[:-1] + bytes([data[-1] ^ 1]))


def test_pinned_bytes_that_no_longer_serve_are_made_again() -> None:
    spoiled = {name: value[:-2] + "00" for name, value in VECTORS["pinned"].items() if name.startswith("signature")}
    assert len(spoiled) > 5
    again = maker().make_vectors(VECTORS["pinned"] | spoiled)
    for section in ("layout", "codec", "outer", "roots"):
        assert again[section] == VECTORS[section]
    for kind in ("amendment", "hello"):
        assert again[kind]["digest"] == VECTORS[kind]["digest"]
        assert again[kind]["object"] != VECTORS[kind]["object"]
    assert again["head"]["digest"] != VECTORS["head"]["digest"], "that of a head covers its signature"


def test_a_key_answers_the_seal() -> None:
    run_id = bytes.fromhex(VECTORS["spec"]["run_id"])
    head = wire.decode_head(bytes.fromhex(VECTORS["head"]["object"]), run_id)
    key = wire.decode_key(bytes.fromhex(VECTORS["key"]["object"]), run_id, 0, head.header.public)
    assert key.seal.hex() == VECTORS["seal"]["digest"]
    assert key.payload_key.hex() == VECTORS["payload"]["payload_key"]
    seal, _ = wire.decode_seal(bytes.fromhex(VECTORS["seal"]["object"]), run_id)
    assert seal.lists(head.header.public, bytes.fromhex(VECTORS["head"]["digest"]))


def test_payloads_are_pinned_for_decoding_only() -> None:
    """Another version of zstd may encode otherwise; then the objects in the file must not change."""
    run = maker().Run(maker().Pins(VECTORS["pinned"]))
    assert run.payload(0).hex() == VECTORS["codec"]["payload_to_decode"]
    assert len(encode(run.updates[0])) <= run.layout.max_payload_bytes(run.spec.sparse.k)
