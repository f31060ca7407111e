"""The one judge of a submission's form: why it is not accepted, by name, or that nothing is wrong with it.

Leader, followers and auditors all call these functions on the same bytes, so the reason in a record is the
only reason there is. Whether work of good form is worth anything is the Gauntlet's question, not this module's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from muster.protocol.errors import WireError
from muster.protocol.rules.assignment import assigned_digest
from muster.protocol.spec import RunSpec
from muster.protocol.spec.layout import Layout, codec_of, max_payload_bytes
from muster.protocol.wire import Opening, Signed, decode_head

MAX_HEAD_BYTES = 4096
"""A submission's head has 422 bytes; the rest is room for optional fields of later versions."""

MAX_KEY_BYTES = 1024
"""A key object has 242 bytes; the rest is room for optional fields."""


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """What a submission of one round is judged against.

    `peers` maps registered public keys to uids (None where the judge has no snapshot of that time, as an
    auditor); `possession` gives the proof a peer must show; it needs θ of the round's base.
    """

    run_id: bytes
    spec: RunSpec
    layout: Layout
    opening: Opening
    possession: Callable[[bytes], bytes]
    peers: Mapping[bytes, int] | None = None


def admit(facts: RoundFacts, owner: bytes, head: bytes) -> Signed:
    """Judge a submission's head, found in the bucket of `owner`.

    Raises:
        WireError: envelope reasons, `head_size`, `foreign_header`, `wrong_round`, `wrong_base`,
            `wrong_layout`, `payload_size`, `windows_range`, `tokens`, `uid_range`, `data_digest`, `possession`;
            where the judge has a snapshot, then `unregistered`, `uid_mismatch`.
    """
    if len(head) > MAX_HEAD_BYTES:
        raise WireError("head_size", f"a head of {len(head)} bytes")
    signed = decode_head(head, facts.run_id)
    header, opening = signed.header, facts.opening
    if header.public != owner:
        raise WireError("foreign_header", f"signed by {header.hotkey}")
    if header.round != opening.round:
        raise WireError("wrong_round", f"round {header.round} in round {opening.round}")
    if header.base_round != opening.base_round:
        raise WireError("wrong_base", f"base round {header.base_round}")
    if header.layout != facts.layout.digest:
        raise WireError("wrong_layout", "another model")
    if signed.ciphertext_bytes > max_payload_bytes(codec_of(facts.spec)):
        raise WireError("payload_size", f"{header.payload_bytes} bytes")
    _admit_data(facts, signed)
    if header.possession != facts.possession(owner):
        raise WireError("possession", "the peer does not hold θ of the base round")
    # Last, because an auditor has no snapshot: what is wrong with the head must be the same to everybody.
    if facts.peers is not None:
        admit_registration(facts.peers, owner, header.uid)
    return signed


def admit_registration(peers: Mapping[bytes, int], owner: bytes, uid: int) -> None:
    """The peer holds the slot it claims.

    Raises:
        WireError: `unregistered`, `uid_mismatch`.
    """
    if owner not in peers:
        raise WireError("unregistered", "the hotkey has no slot")
    if peers[owner] != uid:
        raise WireError("uid_mismatch", f"uid {uid} claimed, {peers[owner]} registered")


def _admit_data(facts: RoundFacts, signed: Signed) -> None:
    header, spec = signed.header, facts.spec
    if not 1 <= header.windows <= spec.inner.steps * spec.inner.batch:
        raise WireError("windows_range", f"{header.windows} windows")
    if header.tokens != header.windows * spec.data.window:
        raise WireError("tokens", f"{header.tokens} tokens of {header.windows} windows")
    if header.data_digest != assigned_digest(facts.opening.assign.value, header.uid, spec.data, header.windows):
        raise WireError("data_digest", "not the assigned windows")
