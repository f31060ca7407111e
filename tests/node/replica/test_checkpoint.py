"""A checkpoint's bytes follow from θ alone, and nothing but the pinned bytes is ever loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
import rfc8785
import safetensors.torch
import torch
from builders import hash32, layout, theta

from muster.node.replica import checkpoint
from muster.node.replica.checkpoint import Checkpoint, make_checkpoint, read_manifest, read_shards
from muster.protocol.errors import LedgerError, ObjectDamaged
from muster.protocol.wire.manifest import TipInfo, manifest_digest

RUN, ROOT = hash32("run"), hash32("root")
TIP = TipInfo(amendments=(), leaders=("5Leader",), proofs=(), past="r", peers={hash32("peer").hex(): "g"})


def made(round_: int = 4) -> Checkpoint:
    return make_checkpoint(theta(), layout(), RUN, round_, 3, ROOT, TIP)


def loaded(found: Checkpoint) -> list[torch.Tensor]:
    manifest = read_manifest(found.manifest, found.digest, RUN, layout())
    return read_shards(manifest, lambda shard: found.shards[shard.name], layout())


def test_round_trip_to_the_bit() -> None:
    for held, read in zip(theta(), loaded(made()), strict=True):
        assert read.dtype == torch.float32
        assert torch.equal(held.view(torch.int32), read.view(torch.int32))


def test_bytes_are_a_function_of_theta_and_round() -> None:
    copy = make_checkpoint([t.clone() for t in theta()], layout(), RUN, 4, 3, ROOT, TIP)
    assert (copy.shards, copy.manifest) == (made().shards, made().manifest)
    assert made(5).manifest != made(4).manifest
    assert made(5).shards == made(4).shards


def test_shards_are_what_the_safetensors_library_reads() -> None:
    (data,) = made().shards.values()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert set(safetensors.torch.load(data)) == set(json.loads(data[8 : 8 + length]))


def test_a_large_model_is_cut_into_shards_in_layout_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARD_BYTES", 2000)
    found = made()
    assert len(found.shards) > 2
    assert list(found.shards) == sorted(found.shards)
    assert all(torch.equal(a, b) for a, b in zip(theta(), loaded(found), strict=True))


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda data: flipped(data, len(data) - 1),
    lambda data: flipped(data, 9),
    lambda data: data[:-1],
    lambda data: data + b"\0",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_shard_is_refused_by_name(change: Callable[[bytes], bytes]) -> None:
    found = made()
    (name,) = found.shards
    with pytest.raises(ObjectDamaged, match=name):
        loaded(replace(found, shards={name: change(found.shards[name])}))


def test_a_changed_manifest_is_refused() -> None:
    found = made()
    with pytest.raises(ObjectDamaged, match="not the one the record pins"):
        read_manifest(flipped(found.manifest, 30), found.digest, RUN, layout())


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("run", hash32("other").hex(), "another run or model"),
        ("layout", hash32("other").hex(), "another run or model"),
        ("round", -1, "not readable"),
        ("unheard_of", 1, "not readable"),
    ],
)
def test_a_pinned_manifest_of_something_else_is_refused(field: str, value: object, problem: str) -> None:
    data = rfc8785.dumps(json.loads(made().manifest) | {field: value})
    with pytest.raises(LedgerError, match=problem):
        read_manifest(data, manifest_digest(data), RUN, layout())


def test_a_pinned_manifest_in_another_spelling_is_refused() -> None:
    """An auditor that makes it again must come to the same bytes."""
    data = json.dumps(json.loads(made().manifest), sort_keys=True).encode()
    with pytest.raises(LedgerError, match="canonical"):
        read_manifest(data, manifest_digest(data), RUN, layout())


def test_sizes_are_judged_before_anything_is_fetched() -> None:
    document = json.loads(made().manifest)
    document["shards"][0]["bytes"] = 10**12
    data = rfc8785.dumps(document)
    with pytest.raises(LedgerError, match="sizes this model cannot have"):
        read_manifest(data, manifest_digest(data), RUN, layout())
