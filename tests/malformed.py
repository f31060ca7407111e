"""Submissions a bad or broken peer may put in its bucket, so that every judge meets the same ones.

Each class says under which reasons it may be rejected: what its first wrong byte is called, read at once
or head first as an aggregator reads. Signatures draw their own randomness, everything else is a function
of the arguments.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

from builders import NO_SEAL, body_of, field, framed, hash32, header, resigned, split_fields
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from malformed_payloads import PAYLOADS

from muster import kernels
from muster.kernels import SparseUpdate
from muster.protocol import wire
from muster.protocol.identity import SIGNATURE_BYTES, Identity
from muster.protocol.rules.admission import MAX_HEAD_BYTES, RoundFacts
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.spec.layout import codec_of, max_payload_bytes
from muster.protocol.wire import PREFIX_BYTES, Type

STRUCTURE = frozenset({"truncated", "field_order", "missing_field", "field_size", "signature"})
"""What a body whose field boundaries moved may be called."""

_RUN, _HOTKEY = 1, 2
_LENGTH_FIELD = 8
_FIELD_HEADER = 6


class Work(NamedTuple):
    """A submission: its two objects."""

    head: bytes
    payload: bytes


class Malformed(NamedTuple):
    """The objects of a bucket, and the reasons it may be rejected for."""

    label: str
    work: Work
    key: bytes
    reasons: frozenset[str]


@dataclass(frozen=True, slots=True)
class Bench:
    """An honest miner of the round (in slot `uid`), its work, a stranger to borrow from, and the seal keys answer."""

    facts: RoundFacts
    miner: Identity
    uid: int
    update: SparseUpdate
    stranger: Identity
    seal: bytes = NO_SEAL

    def encrypt(
        self, payload: bytes, key: bytes, *, run: bytes = b"", round_: int | None = None, public: bytes = b""
    ) -> bytes:
        """A sealed payload of any bytes, bound to the miner unless told else; apart from the library."""
        number = self.facts.opening.round if round_ is None else round_
        bound = (run or self.facts.run_id) + number.to_bytes(8, "little") + (public or self.miner.public)
        return ChaCha20Poly1305(key).encrypt(bytes(12), b"\x01" + payload, b"muster/payload/v2" + bound)

    def key(self, key: bytes, signer: Identity | None = None, round_: int | None = None) -> bytes:
        """The miner's own key object, or somebody else's, or another round's."""
        number = self.facts.opening.round if round_ is None else round_
        return wire.encode_key(signer or self.miner, self.facts.run_id, number, key, self.seal)

    def submission(
        self, key: bytes, ciphertext: bytes | None = None, signer: Identity | None = None, **changes: Any
    ) -> Work:
        """An honest submission, with other ciphertext, another signer or changed header fields."""
        signer = signer or self.miner
        if ciphertext is None:
            ciphertext = self.encrypt(kernels.encode(self.update), key, public=signer.public)
        made = header(self.facts, signer, self.uid, ciphertext, key)
        return Work(wire.encode_head(replace(made, **changes), signer), ciphertext)

    def changed(self, work: Work, change: Callable[[dict[int, bytes]], object]) -> Work:
        """A submission with changed header fields, signed again by the miner."""
        return work._replace(head=resigned(work.head, self.miner, self.facts.run_id, change))


Case = tuple[Work, bytes, set[str] | frozenset[str]]
Maker = Callable[[Bench, random.Random, bytes], Case]


def _flip(data: bytes, offset: int, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _body_reasons(body: bytes, offset: int) -> set[str] | frozenset[str]:
    """What a body with one wrong bit at `offset` may be called."""
    at = 0
    for tag, value in split_fields(body):
        if offset < at + _FIELD_HEADER:
            return STRUCTURE
        at += _FIELD_HEADER + len(value)
        if offset < at:
            return {"wrong_run"} if tag == _RUN else {"signature"}
    raise AssertionError("an offset beyond the body")


def _flip_head(data: bytes, rng: random.Random) -> tuple[bytes, set[str] | frozenset[str]]:
    """One wrong bit in the prefix, the body or the signature, each third of the time."""
    body = body_of(data)
    region = rng.randrange(3)
    if region == 0:
        offset = rng.randrange(PREFIX_BYTES)
        names = ["magic"] * 4 + ["format", "type", "reserved", "reserved"]
        if offset < _LENGTH_FIELD:
            return _flip(data, offset, rng), {names[offset]}
        return _flip(data, offset, rng), STRUCTURE | {"trailing", "body_size", "wrong_run"}
    if region == 1:
        offset = rng.randrange(len(body))
        return _flip(data, PREFIX_BYTES + offset, rng), _body_reasons(body, offset)
    return _flip(data, PREFIX_BYTES + len(body) + rng.randrange(SIGNATURE_BYTES), rng), {"signature"}


def _flipped_head(bench: Bench, rng: random.Random, key: bytes) -> Case:
    work = bench.submission(key)
    head, reasons = _flip_head(work.head, rng)
    return work._replace(head=head), bench.key(key), reasons


def _flipped_ciphertext(bench: Bench, rng: random.Random, key: bytes) -> Case:
    work = bench.submission(key)
    flipped = _flip(work.payload, rng.randrange(len(work.payload)), rng)
    return work._replace(payload=flipped), bench.key(key), {"ciphertext_digest"}


def _flipped_key(bench: Bench, rng: random.Random, key: bytes) -> Case:
    shown, reasons = _flip_head(bench.key(key), rng)
    return bench.submission(key), shown, {f"key_{reason}" for reason in reasons}


def _truncated(bench: Bench, rng: random.Random, key: bytes) -> Case:
    head, payload = bench.submission(key)
    if rng.random() < 0.5:
        return Work(head[: rng.randrange(len(head))], payload), bench.key(key), {"truncated"}
    return Work(head, payload[: rng.randrange(len(payload))]), bench.key(key), {"ciphertext_size"}


def _extended(bench: Bench, rng: random.Random, key: bytes) -> Case:
    head, payload = bench.submission(key)
    more = rng.randbytes(rng.randrange(1, 100))
    if rng.random() < 0.5:
        return Work(head + more, payload), bench.key(key), {"trailing"}
    return Work(head, payload + more), bench.key(key), {"ciphertext_size"}


def _swapped_sections(bench: Bench, rng: random.Random, key: bytes) -> Case:
    head, payload = bench.submission(key)
    cuts = (0, PREFIX_BYTES, len(head) - SIGNATURE_BYTES, len(head))
    sections = [head[a:b] for a, b in pairwise(cuts)]
    order = sections[:]
    while order == sections:
        rng.shuffle(order)
    reasons = STRUCTURE | {"wrong_run"} if order[0] == sections[0] else {"magic"}
    return Work(b"".join(order), payload), bench.key(key), reasons


def _objects_swapped(bench: Bench, rng: random.Random, key: bytes) -> Case:
    """Head and payload under each other's names."""
    head, payload = bench.submission(key)
    return Work(payload, head), bench.key(key), {"magic"}


def _random_bytes(bench: Bench, rng: random.Random, key: bytes) -> Case:
    noise = rng.randbytes(rng.randrange(2000))
    return Work(noise, b""), bench.key(key), {"magic"} if len(noise) >= PREFIX_BYTES else {"truncated"}


def _random_body(bench: Bench, rng: random.Random, key: bytes) -> Case:
    head = framed(Type.HEAD, bench.miner, bench.facts.run_id, rng.randbytes(rng.randrange(400)))
    return Work(head, b""), bench.key(key), STRUCTURE - {"signature"}


def _declared_body(bench: Bench, rng: random.Random, key: bytes) -> Case:
    head, payload = bench.submission(key)
    return Work(head[:_LENGTH_FIELD] + b"\xff" * 4 + head[PREFIX_BYTES:], payload), bench.key(key), {"body_size"}


def _fields_swapped(bench: Bench, rng: random.Random, key: bytes) -> Case:
    fields = split_fields(body_of(bench.submission(key).head))
    i, j = sorted(rng.sample(range(len(fields)), 2))
    fields[i], fields[j] = fields[j], fields[i]
    return _rewritten(bench, key, fields), bench.key(key), {"field_order"}


def _field_twice(bench: Bench, rng: random.Random, key: bytes) -> Case:
    fields = split_fields(body_of(bench.submission(key).head))
    i = rng.randrange(len(fields))
    return _rewritten(bench, key, [*fields[: i + 1], *fields[i:]]), bench.key(key), {"field_order"}


def _rewritten(bench: Bench, key: bytes, fields: list[tuple[int, bytes]]) -> Work:
    """The submission with its head's body made of these fields, in this order, signed again."""
    body = b"".join(field(tag, value) for tag, value in fields)
    return bench.submission(key)._replace(head=framed(Type.HEAD, bench.miner, bench.facts.run_id, body))


def _field_missing(bench: Bench, rng: random.Random, key: bytes) -> Case:
    tag = rng.choice([tag for tag, _ in split_fields(body_of(bench.submission(key).head))])
    return bench.changed(bench.submission(key), lambda f: f.pop(tag)), bench.key(key), {"missing_field"}


def _field_unknown(bench: Bench, rng: random.Random, key: bytes) -> Case:
    tag, value = rng.randrange(14, 0x8000), rng.randbytes(rng.randrange(40))
    whole = bench.changed(bench.submission(key), lambda f: f.update({tag: value}))
    return whole, bench.key(key), {"unknown_field"}


def _field_resized(bench: Bench, rng: random.Random, key: bytes) -> Case:
    tag, longer = rng.randrange(1, 14), rng.random() < 0.5
    whole = bench.changed(bench.submission(key), lambda f: f.update({tag: f[tag] + b"\0" if longer else f[tag][1:]}))
    return whole, bench.key(key), {"field_size"}


def _head_too_long(bench: Bench, rng: random.Random, key: bytes) -> Case:
    filler = bytes(MAX_HEAD_BYTES)
    whole = bench.changed(bench.submission(key), lambda f: f.update({0x8001: filler}))
    return whole, bench.key(key), {"head_size", "truncated"}


def _other_slot(bench: Bench, rng: random.Random, key: bytes) -> Case:
    """Another slot's windows, honestly declared: only the registry knows better."""
    facts = bench.facts
    uid = (bench.uid + rng.randrange(1, facts.spec.data.slots)) % facts.spec.data.slots
    count = facts.spec.inner.steps * facts.spec.inner.batch
    digest = data_digest(assigned(facts.opening.assign.value, uid, facts.spec.data, count))
    return bench.submission(key, uid=uid, data_digest=digest), bench.key(key), {"uid_mismatch"}


def _payload_too_long(bench: Bench, rng: random.Random, key: bytes) -> Case:
    most = max_payload_bytes(codec_of(bench.facts.spec))
    ciphertext = rng.randbytes(most + 1 + rng.randrange(8))
    return bench.submission(key, ciphertext), bench.key(key), {"payload_size"}


def _payload_never_sent(bench: Bench, rng: random.Random, key: bytes) -> Case:
    """A head that announces (and signs for) a terabyte."""
    return bench.submission(key, payload_bytes=2**40 + rng.randrange(2**40)), bench.key(key), {"payload_size"}


def _copied(bench: Bench, rng: random.Random, key: bytes) -> Case:
    return bench.submission(key, signer=bench.stranger), bench.key(key, bench.stranger), {"foreign_header"}


def _signed_by_stranger(bench: Bench, rng: random.Random, key: bytes) -> Case:
    work = bench.submission(key)
    forged = resigned(work.head, bench.stranger, bench.facts.run_id, lambda _: None)
    return work._replace(head=forged), bench.key(key), {"signature"}


def _resigned(bench: Bench, rng: random.Random, key: bytes) -> Case:
    """A stranger's header under one's own name: the proof of possession has the stranger's in it."""
    theirs = bench.submission(key, signer=bench.stranger)
    mine = bench.changed(theirs, lambda f: f.update({_HOTKEY: bench.miner.public}))
    return mine, bench.key(key), {"possession"}


def _payload_of_another(bench: Bench, rng: random.Random, key: bytes) -> Case:
    """A payload sealed for another peer, round or run, with everything else in order."""
    bound: dict[str, Any] = rng.choice(
        [
            {"public": bench.stranger.public},
            {"round_": bench.facts.opening.round + 1},
            {"run": hash32("another run")},
        ]
    )
    ciphertext = bench.encrypt(kernels.encode(bench.update), key, **bound)
    return bench.submission(key, ciphertext), bench.key(key), {"payload_auth"}


def _payload_noise(bench: Bench, rng: random.Random, key: bytes) -> Case:
    return bench.submission(key, rng.randbytes(rng.randrange(16, 200))), bench.key(key), {"payload_auth"}


def _another_key(bench: Bench, rng: random.Random, key: bytes) -> Case:
    return bench.submission(key), bench.key(rng.randbytes(32)), {"key_mismatch"}


def _another_seal(bench: Bench, rng: random.Random, key: bytes) -> Case:
    """A key that opens the payload, and answers no seal of this round."""
    return bench.submission(key), replace(bench, seal=rng.randbytes(32)).key(key), {"key_seal"}


def _key_of_another_round(bench: Bench, rng: random.Random, key: bytes) -> Case:
    number = bench.facts.opening.round + rng.randrange(1, 1000)
    return bench.submission(key), bench.key(key, round_=number), {"key_round"}


def _key_by_stranger(bench: Bench, rng: random.Random, key: bytes) -> Case:
    return bench.submission(key), bench.key(key, bench.stranger), {"key_hotkey"}


def _key_size(bench: Bench, rng: random.Random, key: bytes) -> Case:
    length = rng.choice([0, 31, 33, 64])
    return bench.submission(key), bench.key(rng.randbytes(length)), {"key_field_size"}


def _no_key_object(bench: Bench, rng: random.Random, key: bytes) -> Case:
    head = bench.submission(key).head[:200]
    return (
        bench.submission(key),
        rng.choice([b"", rng.randbytes(300), head]),
        {"key_truncated", "key_magic", "key_type"},
    )


HEADER_CHANGES: dict[str, tuple[str, str, Callable[[RoundFacts, random.Random], Any]]] = {
    "other_run": ("wrong_run", "run_id", lambda _, rng: rng.randbytes(32)),
    "other_round": ("wrong_round", "round", lambda facts, rng: facts.opening.round + rng.randrange(1, 1000)),
    "other_base": (
        "wrong_base",
        "base_round",
        lambda facts, rng: facts.opening.round + rng.randrange(1, 1000),
    ),
    "other_layout": ("wrong_layout", "layout", lambda _, rng: rng.randbytes(32)),
    "no_such_slot": ("uid_range", "uid", lambda facts, rng: rng.randrange(facts.spec.data.slots, 2**32)),
    "no_windows": ("windows_range", "windows", lambda _, rng: 0),
    "many_windows": ("windows_range", "windows", lambda _, rng: rng.randrange(2**32, 2**64)),
    "wrong_tokens": ("tokens", "tokens", lambda _, rng: rng.randrange(2**63, 2**64)),
    "wrong_data": ("data_digest", "data_digest", lambda _, rng: rng.randbytes(32)),
    "wrong_possession": ("possession", "possession", lambda _, rng: rng.randbytes(32)),
    "shorter_payload": ("ciphertext_size", "payload_bytes", lambda *_: 1),
    "wrong_payload_bytes": ("payload_size", "payload_bytes", lambda _, rng: rng.randrange(2**40, 2**41)),
    "wrong_ciphertext": ("ciphertext_digest", "ciphertext_digest", lambda _, rng: rng.randbytes(32)),
    "wrong_commitment": ("key_mismatch", "key_commitment", lambda _, rng: rng.randbytes(32)),
}
"""Header fields that a signature covers and the facts contradict: label → (reason, field, value)."""


def _bad_header(reason: str, name: str, value: Callable[[RoundFacts, random.Random], Any]) -> Maker:
    """An honest submission but for one header field."""

    def case(bench: Bench, rng: random.Random, key: bytes) -> Case:
        return bench.submission(key, **{name: value(bench.facts, rng)}), bench.key(key), {reason}

    return case


def _bad_payload(make: Callable[[SparseUpdate, random.Random], tuple[bytes, set[str]]]) -> Maker:
    """A payload that is sealed as it should be and is not one."""

    def case(bench: Bench, rng: random.Random, key: bytes) -> Case:
        payload, reasons = make(bench.update, rng)
        return bench.submission(key, bench.encrypt(payload, key)), bench.key(key), reasons

    return case


MAKERS: dict[str, Maker] = {
    **{
        maker.__name__.removeprefix("_"): maker
        for maker in (
            _flipped_head, _flipped_ciphertext, _flipped_key, _truncated, _extended, _swapped_sections,
            _objects_swapped, _another_seal,
            _random_bytes, _random_body, _declared_body, _fields_swapped, _field_twice, _field_missing,
            _field_unknown, _field_resized, _head_too_long, _other_slot, _payload_too_long,
            _payload_never_sent, _copied, _signed_by_stranger, _resigned, _payload_of_another, _payload_noise,
            _another_key, _key_of_another_round, _key_by_stranger, _key_size, _no_key_object,
        )
    },
    **{label: _bad_header(*change) for label, change in HEADER_CHANGES.items()},
    **{f"payload_{label}": _bad_payload(make) for label, make in PAYLOADS.items()},
}  # fmt: skip
"""Every class by its label."""


def malformed_submissions(
    seed: int,
    count: int,
    facts: RoundFacts,
    miner: Identity,
    uid: int,
    update: SparseUpdate,
    stranger: Identity,
) -> Iterator[Malformed]:
    """`count` malformed submissions for the bucket of `miner`, registered as `uid`; the classes take turns.

    `update` is honest work for `facts.layout` and `facts.spec.sparse.k`; `stranger` is any other hotkey.
    """
    rng = random.Random(seed)
    bench = Bench(facts, miner, uid, update, stranger)
    labels = list(MAKERS)
    for i in range(count):
        label = labels[i % len(labels)]
        work, key, reasons = MAKERS[label](bench, rng, rng.randbytes(32))
        yield Malformed(label, work, key, frozenset(reasons))
