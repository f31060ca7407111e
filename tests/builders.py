"""The smallest run that has everything: a model of 2,992 parameters, two miners, and what they sign and send.

Every value is a function of its arguments, made of integers or digests: a test that fails once fails always.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from blake3 import blake3
from torch import Tensor

from muster.kernels import Codec, SparseUpdate, compress
from muster.node.context import in_place
from muster.node.replica import Replica
from muster.node.replica.checkpoint import SHARD_BYTES
from muster.node.replica.genesis import genesis_parameters
from muster.protocol import wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import WireError
from muster.protocol.identity import SIGNATURE_BYTES, Identity, public_of
from muster.protocol.incentive.row import ScoreRow
from muster.protocol.ledger import genesis_tip
from muster.protocol.ledger.roots import GENESIS_RUN, possession, state_root
from muster.protocol.rules.admission import RoundFacts
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.spec import ChainSpec, ModelSpec, RunSpec, load_template
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import AEAD_TAG_BYTES, Layout, layout_of
from muster.protocol.types import Beacon, Block
from muster.protocol.wire import Header, Opening, ScoreFile, Type
from muster.protocol.wire.manifest import TipInfo

SEED = 7
K = 64

MODEL = ModelSpec(
    vocab=64,
    hidden=16,
    layers=1,
    heads=2,
    kv_heads=1,
    head_dim=8,
    ffn=24,
    context=8,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tied=True,
    init_std=0.02,
)


@cache
def identity(name: str) -> Identity:
    """The hotkey of a participant by name; the same name is the same key in every test."""
    return Identity.derive(SEED, name)


MINERS = ("alice", "bob")
LEADER, OWNER = "leader", "owner"


def peers(*names: str) -> dict[bytes, int]:
    """Registered keys with their uids, counted from 0 in the order given (the two miners without names)."""
    return {identity(name).public: uid for uid, name in enumerate(names or MINERS)}


def hash32(*parts: object) -> bytes:
    """32 bytes that stand for any digest or hash."""
    return blake3(repr(parts).encode()).digest()


def layout() -> Layout:
    """The layout of the small model."""
    return layout_of(MODEL)


@cache
def theta(seed: int = SEED) -> tuple[Tensor, ...]:
    """θ_0 of the run with genesis seed `seed`; only read it."""
    return tuple(genesis_parameters(MODEL, seed))


def run_spec(**sections: Mapping[str, Any]) -> RunSpec:
    """A whole small spec with a true genesis root; `clock={"deadline": 5}` changes a field of a section."""
    document = load_template("tiny").model_dump()
    document["model"] = MODEL.model_dump()
    document["inner"] |= {"steps": 2, "batch": 3}
    document["clock"] |= {"min_blocks": 1, "deadline": 10, "reveal": 3, "grace": 1, "anchor": 5}
    document["clock"] |= {"seal_age": 4, "evaluate": 9, "term": 1000, "turn": 5, "touch": 400}
    document["gauntlet"] |= {"score_wait": 2, "lag": 1}
    document["data"] |= {
        "window": MODEL.context,
        "slots": 4,
        "windows": 50,
        "heldout": 5,
        "manifest": "ab" * 32,
    }
    document["genesis"] = {
        "seed": SEED,
        "chain": ChainSpec.of(ChainGenesis(seed=SEED).origin).model_dump(),
        "root": state_root(theta(), layout(), GENESIS_RUN, 0).hex(),
        "miners": tuple(identity(name).hotkey for name in MINERS),
        "leaders": (identity(LEADER).hotkey,),
        "owner": identity(OWNER).hotkey,
    }
    for name, fields in sections.items():
        document[name] |= fields
    return RunSpec.model_validate(document)


def block(number: int) -> Block:
    """The block at a height of a chain that exists only here."""
    return Block(number, hash32("block", number))


def beacon(purpose: str, round_: int = 0, at: int = 0) -> Beacon:
    """A beacon from the block at height `at`."""
    return Beacon(block(at), hash32("beacon", purpose, round_))


def opening(**changes: Any) -> Opening:
    """The opening of round 3, which waits for both miners between blocks 101 and 110."""
    fields: dict[str, Any] = {
        "round": 3,
        "open": block(100),
        "min_block": 101,
        "deadline": 110,
        "anchor_by": 120,
        "expected": tuple(sorted(identity(name).public for name in MINERS)),
        "base_round": 3,
        "spec_digest": hash32("spec"),
        "assign": beacon("assign", 3, 90),
        "possess": beacon("possess", 3, 100),
    }
    return Opening(**(fields | changes))


def possession_of(opened: Opening) -> Callable[[bytes], bytes]:
    """The proofs of peers that hold θ_0, as a judge that holds it computes them."""
    return lambda public: possession(theta(), layout(), opened.possess.value, public, opened.round)


def round_facts(spec: RunSpec | None = None, registered: Mapping[bytes, int] | None = None) -> RoundFacts:
    """What submissions of round 3 are judged against, with both miners registered unless told else."""
    spec, opened = spec or run_spec(), opening()
    known = peers() if registered is None else registered
    return RoundFacts(spec.run_id(), spec, layout_of(spec.model), opened, possession_of(opened), known)


def genesis_facts(spec: RunSpec) -> RoundFacts:
    """What submissions of a run's first round are judged against."""
    tip = genesis_tip(SpecHistory.of(spec), beacon("assign"), beacon("possess"))
    return tip.facts(possession_of(tip.opening), peers())


TIP_INFO = TipInfo(amendments=(), leaders=("5Leader",), proofs=(), past="r", peers={"00" * 32: "g"})


def checkpoint_of(
    replica: Replica, round_: int, shard_bytes: int = SHARD_BYTES, tip: TipInfo = TIP_INFO
) -> tuple[dict[str, bytes], bytes]:
    """The files of θ's checkpoint before the record of a round, the manifest among them, and what the record pins."""
    files: dict[str, bytes] = {}

    async def put(name: str, data: bytes) -> None:
        files[name] = data

    writing = replica.save(round_, tip, put, in_place, shard_bytes)
    with pytest.raises(StopIteration) as ended:  # nothing in it waits
        writing.send(None)
    digest, _ = ended.value.value
    return files, digest


@cache
def update(salt: int = 1) -> SparseUpdate:
    """An update of the small model, different for each salt, with the scales of genesis weights."""
    return compress(genesis_parameters(MODEL, 1000 + salt), Codec(layout().grid, K))


def payload_key(salt: int = 1) -> bytes:
    """The key a payload is sealed with."""
    return hash32("key", salt)


def header(facts: RoundFacts, miner: Identity, uid: int, ciphertext: bytes, key: bytes) -> Header:
    """The header an honest miner in slot `uid` makes of a sealed payload; `dataclasses.replace` spoils it."""
    spec = facts.spec
    windows = spec.inner.steps * spec.inner.batch
    return Header(
        run_id=facts.run_id,
        public=miner.public,
        round=facts.opening.round,
        base_round=facts.opening.base_round,
        uid=uid,
        layout=facts.layout.digest,
        possession=facts.possession(miner.public),
        data_digest=data_digest(assigned(facts.opening.assign.value, uid, spec.data, windows)),
        windows=windows,
        tokens=windows * spec.data.window,
        payload_bytes=len(ciphertext) - AEAD_TAG_BYTES,
        ciphertext_digest=blake3(ciphertext).digest(),
        key_commitment=wire.key_commitment(key),
    )


NO_SEAL = hash32("no seal")
"""What keys answer in tests that need no seal."""


@dataclass(frozen=True)
class Sent:
    """A miner's objects of one round: head and payload, and its key for a seal."""

    head: bytes
    payload: bytes
    _key: Callable[[bytes], bytes]

    def key(self, seal: bytes = NO_SEAL) -> bytes:
        """The key object that answers the seal with this digest."""
        return self._key(seal)


def submission(
    facts: RoundFacts, miner: Identity, uid: int, work: SparseUpdate | None = None, key: bytes | None = None
) -> Sent:
    """An honest miner's objects of the round."""
    opens, run_id, round_ = key or payload_key(), facts.run_id, facts.opening.round
    ciphertext = wire.encrypt_payload(work or update(), opens, run_id, round_, miner.public)
    head = wire.encode_head(header(facts, miner, uid, ciphertext, opens), miner)
    return Sent(head, ciphertext, lambda seal: wire.encode_key(miner, run_id, round_, opens, seal))


def field(tag: int, value: bytes) -> bytes:
    """One TLV field, written independently of the library: tag u16, length u32, value."""
    return tag.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value


def split_fields(body: bytes) -> list[tuple[int, bytes]]:
    """The (tag, value) pairs of a body, in the order they stand in it."""
    fields, at = [], 0
    while at < len(body):
        tag, length = struct.unpack_from("<HI", body, at)
        fields.append((tag, body[at + 6 : at + 6 + length]))
        at += 6 + length
    return fields


def body_of(data: bytes) -> bytes:
    """The body of a well-formed object."""
    return data[wire.PREFIX_BYTES : -SIGNATURE_BYTES]


def framed(kind: Type, signer: Identity, run_id: bytes, body: bytes) -> bytes:
    """An object with any body at all, properly signed, written independently of the library."""
    tag = f"muster/{kind.name.lower()}/v2".encode()
    prefix = struct.pack("<4sBBHI", b"MSTR", 2, kind, 0, len(body))
    return prefix + body + signer.sign(tag + run_id + body)


def resigned(data: bytes, signer: Identity, run_id: bytes, change: Callable[[dict[int, bytes]], object]) -> bytes:
    """A well-formed object after `change` to its fields, signed again."""
    fields = dict(split_fields(body_of(data)))
    change(fields)
    body = b"".join(field(tag, value) for tag, value in sorted(fields.items()))
    return framed(Type(data[5]), signer, run_id, body)


def reason_of(call: Callable[[], object]) -> str:
    """The reason of the WireError that `call` has to raise."""
    with pytest.raises(WireError) as caught:
        call()
    return caught.value.reason


def score_row(name: str, **changes: Any) -> ScoreRow:
    """What a validator says of a participant that it measured in its first round."""
    values: dict[str, Any] = {
        "hotkey": identity(name).hotkey,
        "uid": 1,
        "assigned_before": 2.5,
        "assigned_after": 2.25,
        "unassigned_before": 2.5,
        "unassigned_after": 2.375,
        "control_assigned": 0.125,
        "control_unassigned": 0.125,
        "assigned_spread": 0.0625,
        "unassigned_spread": 0.0625,
        "assigned_error": 0.0625,
        "unassigned_error": 0.0625,
        "outcome": "evaluated",
        "mu": 0.05,
        "rating_mu": 26.0,
        "rating_sigma": 8.125,
        "evaluated": 1,
        "last_score": 0.125,
        "positive": True,
        "peer_score": 0.08125,
        "incentive": 0.5,
    }
    return ScoreRow(**(values | changes))


def score_file(
    validator: Identity, run_id: bytes, round_: int, *rows: ScoreRow, record: bytes = b"\xab" * 32
) -> ScoreFile:
    """A validator's file, about a record that nobody made unless told else, the rows in key order."""
    ordered = tuple(sorted(rows, key=lambda row: public_of(row.hotkey)))
    return ScoreFile(run_id, validator.public, round_, record, 2.75, ordered)
