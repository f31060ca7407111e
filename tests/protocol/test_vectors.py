"""The protocol page and its vectors say what the code does, so that a second implementation can trust them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from blake3 import blake3

from muster.kernels import Grid, encode, quantise
from muster.protocol import wire
from muster.protocol.chain import commitments
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.identity import Identity
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.rules.majority import carried_by
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import DataSpec, ModelSpec, RunSpec
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.protocol.storage.pointer import committed_text
from muster.protocol.types import Anchor
from muster.protocol.wire import ScoresUsed

DOCS = Path(__file__).parents[2] / "docs"


@cache
def module(name: str) -> ModuleType:
    """One of the scripts that write the vectors; they import from their own folder, as scripts do."""
    sys.path.append(str(DOCS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(DOCS))


FILES: dict[str, dict[str, Any]] = module("vector_files").read_documents()
PINNED: dict[str, str] = module("vector_files").read_pinned()


@cache
def made() -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], dict[str, str]]:
    """Sections, files and pins as the library makes them now, with what is pinned."""
    result: tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]], dict[str, str]]
    result = module("make_vectors").make_all(PINNED)
    return result


@pytest.mark.parametrize("name", FILES)
def test_the_library_makes_these_vectors(name: str) -> None:
    """After a deliberate change run `make vectors`, which writes the files and the page again."""
    assert made()[1][name] == FILES[name]


def test_no_file_is_missing_and_none_is_left_over() -> None:
    assert set(made()[1]) == set(FILES)
    assert made()[2] == PINNED


def test_a_file_has_one_value_a_line() -> None:
    files = module("vector_files")
    assert all((files.FOLDER / name).read_text() == files.to_text(document) for name, document in FILES.items())


def test_the_page_quotes_the_files() -> None:
    page = (DOCS / "protocol.md").read_text(encoding="utf-8")
    assert module("page_blocks").quoted(page, made()[0]) == page
    assert {name for name in made()[0] if f"<!-- vectors: {name} -->" in page} == set(made()[0])


REFUSED = [name for name, document in FILES.items() if "refused" in document]
RULES_THAT_REFUSE = {name.split("/")[0] for name in REFUSED}


@pytest.mark.parametrize("name", [name for name in FILES if name.split("/")[0] in RULES_THAT_REFUSE])
def test_what_must_fail_fails_and_what_must_not_does_not(name: str) -> None:
    """From what the file gives alone, as another implementation reads it."""
    document = FILES[name]
    assert module("refused").is_refused(name.split("/", maxsplit=1)[0], document["given"]) == document.get("refused")


def test_each_rule_that_refuses_also_shows_what_it_takes() -> None:
    assert len(REFUSED) > 20
    taken = {name.split("/")[0] for name, document in FILES.items() if "expect" in document}
    assert taken >= RULES_THAT_REFUSE


def _identity(given: dict[str, Any]) -> dict[str, Any]:
    made = Identity.derive(given["seed"], given["name"])
    return {"public": made.public.hex(), "ss58": made.hotkey}


def _spec(given: dict[str, Any]) -> dict[str, Any]:
    return {"run_id": RunSpec.from_bytes(given["canonical"].encode()).run_id().hex()}


def _layout(given: dict[str, Any]) -> dict[str, Any]:
    found = layout_of(ModelSpec.model_validate(given["model"]))
    tensors = [[name, list(shape)] for name, shape in zip(found.names, found.shapes, strict=True)]
    return {"tensors": tensors, "digest": found.digest.hex()}


def _grid(given: dict[str, Any]) -> dict[str, Any]:
    grid = Grid([tuple(shape) for shape in given["shapes"]])
    return {"frames": [list(frame) for frame in grid.frames], "kept_at_64_of_last_8_tiles": grid.kept(64)[-8:].tolist()}


def _sample(given: dict[str, Any]) -> dict[str, Any]:
    beacon, label = bytes.fromhex(given["beacon"]), given["label"].encode()
    return {"sample": list(sample(beacon, label, given["population"], given["count"]))}


def _quantised(given: dict[str, Any]) -> dict[str, Any]:
    values = torch.frombuffer(bytearray.fromhex(given["values"]), dtype=torch.float32)
    codes, scales = quantise(values[None])
    return {"scale_bytes_low_high": scales[0].tolist(), "codes": codes[0].tolist()}


def _assigned(given: dict[str, Any]) -> dict[str, Any]:
    data = DataSpec(window=8, slots=given["slots"], windows=given["windows"])
    windows = assigned(bytes.fromhex(given["beacon"]), given["slot"], data, given["count"])
    return {"of_the_slot": list(windows), "data_digest": data_digest(windows).hex()}


def _local(given: dict[str, Any]) -> dict[str, Any]:
    chain = ChainGenesis(seed=given["seed"])
    return {"hash_of_block_5": chain.block(5).hash.hex(), "beacon_assign_0": chain.beacon("assign", 0).hex()}


def _committed(given: dict[str, Any]) -> dict[str, Any]:
    digest, seal = bytes.fromhex(given["digest"]), bytes.fromhex(given["seal"])
    both = [Anchor(given["round"], digest), Anchor(given["round"], digest, seal)]
    fields = [commitments.encode(commitments.Commitment(given["location"], anchor)) for anchor in both]
    pointer = committed_text(given["long_location"], given["bootstrap"])
    named = zip(("fields", "fields_with_the_seal"), ([f.hex() for f in each] for each in fields), strict=True)
    return {"pointer": pointer, **dict(named)}


def _carried(given: dict[str, Any]) -> dict[str, Any]:
    """Validators are numbers there; any keys do."""
    stakes = {blake3(bytes((i,))).digest(): stake for i, stake in enumerate(given["stakes"])}
    keys = list(stakes)
    heard = frozenset(key for i, key in enumerate(keys) if i not in given["silenced"])
    used = [ScoresUsed(key, stake, 0, bytes(32), ()) for key, stake in stakes.items() if stake is not None]
    enough = carried_by(heard, used)
    return {"carried": [enough(frozenset(keys[i] for i in each)) for each in given["signers"]]}


RULES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "identity/alice.json": _identity,
    "spec/example.json": _spec,
    "layout/example.json": _layout,
    "grid/mixed.json": _grid,
    "sampling/thousand.json": _sample,
    "sampling/largest.json": _sample,
    "quantiser/tile.json": _quantised,
    "assignment/example.json": _assigned,
    "chain/local.json": _local,
    "chain/commitment.json": _committed,
    "majority/six-validators.json": _carried,
}


@pytest.mark.parametrize("name", RULES)
def test_what_is_given_is_enough(name: str) -> None:
    """Not by the maker: from the file's `given` alone to its `expect`."""
    found, document = RULES[name](FILES[name]["given"]), FILES[name]
    assert found == {key: document["expect"][key] for key in found}


def of_section(name: str) -> dict[str, Any]:
    """What a section's file says, given or expected."""
    document = FILES[module("vector_files").place_of(name).name]
    values: dict[str, Any] = document["given"] | document["expect"]
    return values


def test_every_object_is_signed() -> None:
    """Not by trusting the maker: each object is read with the run id of the canonical spec in the file."""
    spec = RunSpec.from_bytes(of_section("spec")["canonical"].encode())
    run_id = spec.run_id()
    assert run_id.hex() == of_section("spec")["run_id"]
    signed = wire.decode_head(bytes.fromhex(of_section("head")["object"]), run_id)
    ciphertext = bytes.fromhex(of_section("payload")["object"])
    assert blake3(ciphertext).digest() == signed.header.ciphertext_digest
    readers: dict[str, Callable[[bytes], object]] = {
        "head": lambda data: wire.decode_head(data, run_id),
        "seal": lambda data: wire.decode_seal(data, run_id),
        "record": lambda data: wire.decode_record(data, run_id, len(of_section("layout")["tensors"])),
        "amendment": lambda data: wire.decode_amendment(data, run_id),
        "cosigned": lambda data: wire.decode_amendment(data, run_id),
        "hello": lambda data: wire.decode_hello(data, run_id),
        "scores": lambda data: wire.decode_scores(data, run_id, spec.genesis.leaders[0], 0),
        "proof": lambda data: wire.decode_dispute(data, run_id),
        "equivocation": lambda data: wire.decode_equivocation(data, run_id),
        "key": lambda data: wire.decode_key(data, run_id, 0, signed.header.public),
    }
    for kind, read in readers.items():
        data = bytes.fromhex(of_section(kind)["object"])
        assert wire.digest_of(data).hex() == of_section(kind)["digest"]
        read(data)
        with pytest.raises(wire.WireError, match="signature"):
            read(data[:-1] + bytes([data[-1] ^ 1]))


def test_pinned_bytes_that_no_longer_serve_are_made_again() -> None:
    spoiled = {name: value[:-2] + "00" for name, value in PINNED.items() if name.startswith("signature")}
    assert len(spoiled) > 5
    _, again, _ = module("make_vectors").make_all(PINNED | spoiled)
    for name in ("layout/example.json", "codec/one-frame.json", "outer/three-updates.json", "roots/example.json"):
        assert again[name] == FILES[name]
    for kind in ("amendment", "hello"):
        before, after = (files[f"wire/{kind}.json"]["expect"] for files in (FILES, again))
        assert after["digest"] == before["digest"]
        assert after["object"] != before["object"]
    before, after = (files["wire/head.json"]["expect"] for files in (FILES, again))
    assert after["digest"] != before["digest"], "that of a head covers its signature"


def test_a_key_answers_the_seal() -> None:
    run_id = bytes.fromhex(of_section("spec")["run_id"])
    head = wire.decode_head(bytes.fromhex(of_section("head")["object"]), run_id)
    key = wire.decode_key(bytes.fromhex(of_section("key")["object"]), run_id, 0, head.header.public)
    assert key.seal.hex() == of_section("seal")["digest"]
    assert key.payload_key.hex() == of_section("payload")["payload_key"]
    seal, _ = wire.decode_seal(bytes.fromhex(of_section("seal")["object"]), run_id)
    assert seal.lists(head.header.public, bytes.fromhex(of_section("head")["digest"]))


def test_payloads_are_pinned_for_decoding_only() -> None:
    """Another version of zstd may encode otherwise; then the objects in the files must not change."""
    example = module("example_run")
    run = example.Run(example.Pins(PINNED))
    assert run.payload(0).hex() == of_section("codec")["payload_to_decode"]
    assert len(encode(run.updates[0])) <= max_payload_bytes(codec_of(run.spec))
