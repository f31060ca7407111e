"""The rules of the local chain as pure functions, so that its two backends (file, memory) cannot differ.

A backend knows the height and keeps a `ChainState`; `reach` and `apply` say what that state becomes. Peers
change it only by extrinsics, each signed by its hotkey over

    "muster/extrinsic/v1" ‖ genesis hash (32) ‖ canonical JSON (RFC 8785) of the call ‖ nonce (8 bytes, LE)

where the nonce counts the hotkey's extrinsics, so none can be replayed, here or on another chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import assert_never

import rfc8785
from blake3 import blake3

from muster.protocol.chain import emission
from muster.protocol.chain.base import AnchorSeen, Peer, Snapshot
from muster.protocol.errors import ChainError, IdentityError
from muster.protocol.identity import Identity, hotkey_of, public_of, verify
from muster.protocol.types import MAX_LOCATION, WEIGHT_MAX, Anchor, Block, Origin

MAX_INTEGER = 2**53 - 1
"""Largest integer of a call or a genesis: beyond it canonical JSON is not defined (RFC 8785 §3.2.2.3)."""

DIGEST_BYTES = 32

LOCAL = "local"
"""The kind of every chain with these rules, whatever keeps it: the same run on a file and in memory is the same run."""


@dataclass(frozen=True, slots=True)
class ChainGenesis:
    """What a local chain is created with and never changes; two chains of one seed have the same blocks.

    `stakes` (hotkey → smallest units) become a hotkey's stake when it registers: a local chain has no market.
    `tempo`, `immunity` and `weights_rate_limit` are blocks. Their defaults are far below mainnet's (360,
    thousands, 100), because a local run lasts hundreds of blocks and has to show epochs. `epoch_emission` is
    what each epoch pays, in smallest units (10^9 of them are one token, as on Bittensor).

    Raises:
        ChainError: a number is out of range or a stake's key is not a hotkey.
    """

    seed: int
    stakes: Mapping[str, int] = field(default_factory=dict)
    slots: int = 256
    tempo: int = 20
    immunity: int = 100
    max_validators: int = 64
    weights_rate_limit: int = 5
    epoch_emission: int = 1_000_000_000

    def __post_init__(self) -> None:
        for name in (number.name for number in fields(self) if number.name != "stakes"):
            least = 1 if name in ("slots", "tempo", "max_validators") else 0
            if not least <= getattr(self, name) <= MAX_INTEGER:
                raise ChainError(f"a chain's {name} must be from {least} to {MAX_INTEGER}")
        for hotkey, stake in self.stakes.items():
            if not 0 <= stake <= MAX_INTEGER:
                raise ChainError(f"the stake of {hotkey} must be from 0 to {MAX_INTEGER}")
            try:
                public_of(hotkey)
            except IdentityError as error:
                raise ChainError(f"a stake is named for {hotkey!r}, which is not a hotkey address") from error

    @property
    def origin(self) -> Origin:
        """Which chain this is."""
        return Origin(LOCAL, self.block(0).hash)

    def block(self, number: int) -> Block:
        """The block at a height ≥ 0: hash = BLAKE3("muster/block/v1" ‖ seed ‖ number), both 8 bytes LE."""
        return Block(number, blake3(b"muster/block/v1" + _u64(self.seed) + _u64(number)).digest())

    def beacon(self, purpose: str, round_: int) -> bytes:
        """BLAKE3("muster/beacon/v1" ‖ seed ‖ purpose ‖ round), 32 bytes; never a function of height or time.

        Raises:
            ChainError: the round is not from 0 to `MAX_INTEGER`.
        """
        if not 0 <= round_ <= MAX_INTEGER:
            raise ChainError(f"there is no beacon for round {round_}")
        return blake3(b"muster/beacon/v1" + _u64(self.seed) + purpose.encode() + _u64(round_)).digest()


@dataclass(frozen=True, slots=True)
class Register:
    """Take a slot."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Publish where the hotkey's bucket is and maybe an anchor."""

    location: str
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True)
class SetWeights:
    """Replace a validator's weights: (uid, 0…`WEIGHT_MAX`) in uid order."""

    weights: tuple[tuple[int, int], ...]


Call = Register | Commit | SetWeights


@dataclass(frozen=True, slots=True)
class Extrinsic:
    """A call with the public key (32 bytes), nonce and signature (64 bytes) of who makes it."""

    public: bytes
    nonce: int
    call: Call
    signature: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """The holder of a slot. `registered` and `weighed` (None: never) are blocks, `weights` sorted pairs."""

    uid: int
    hotkey: str
    stake: int
    registered: int
    incentive: float = 0.0
    emission: int = 0
    location: str | None = None
    weighed: int | None = None
    weights: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ChainState:
    """Everything the rules look at, as of block `height`.

    `extrinsics` counts those of that block, `epochs` those paid since genesis; `members[i]` has uid i.
    Anchors are not here: they are history, which a backend appends to and no rule reads.
    """

    height: int = 0
    extrinsics: int = 0
    epochs: int = 0
    members: tuple[Member, ...] = ()
    nonces: Mapping[str, int] = field(default_factory=dict)

    def member(self, hotkey: str) -> Member | None:
        """Who is registered under an address."""
        return next((member for member in self.members if member.hotkey == hotkey), None)


def sign(genesis: ChainGenesis, state: ChainState, identity: Identity, call: Call) -> Extrinsic:
    """Sign a call with the nonce that is due for its hotkey.

    Raises:
        ChainError: the call is malformed (see `apply`).
    """
    nonce = state.nonces.get(identity.hotkey, 0)
    return Extrinsic(identity.public, nonce, call, identity.sign(_signed_bytes(genesis, call, nonce)))


def reach(genesis: ChainGenesis, state: ChainState, height: int) -> ChainState:
    """The state at `height`, not below the state's own: epochs due since then are paid.

    An epoch falls on every block whose number is a multiple of the tempo, before that block's extrinsics.
    Between two extrinsics nothing changes, so running all overdue epochs at the next one is the same as
    running each in its own block.
    """
    assert height >= state.height
    if height > state.height:
        state = replace(state, height=height, extrinsics=0)
    due = height // genesis.tempo - state.epochs
    return _run_epochs(genesis, state, due) if due else state


def apply(
    genesis: ChainGenesis, state: ChainState, extrinsic: Extrinsic, height: int
) -> tuple[ChainState, AnchorSeen | None]:
    """The state after an extrinsic in block `height`, and the anchor it adds to the history.

    Raises:
        ChainError: bad signature or nonce, malformed call, every slot taken and protected, not registered, no
            permit, unknown uid, weight out of range, or too soon; the state stays what it was.
    """
    call = extrinsic.call
    if not verify(extrinsic.public, _signed_bytes(genesis, call, extrinsic.nonce), extrinsic.signature):
        raise ChainError("the extrinsic's signature is not by its hotkey for this chain; sign it again")
    hotkey = hotkey_of(extrinsic.public)
    due = state.nonces.get(hotkey, 0)
    if extrinsic.nonce != due:
        raise ChainError(f"{hotkey} must sign with nonce {due}, not {extrinsic.nonce}; sign it again")

    state = reach(genesis, state, height)
    index = state.extrinsics
    state = replace(state, extrinsics=index + 1, nonces={**state.nonces, hotkey: due + 1})
    match call:
        case Register():
            return _register(genesis, state, hotkey), None
        case Commit(location, anchor):
            state = _replace_member(state, replace(registered(state, hotkey), location=location))
            return state, AnchorSeen(hotkey, anchor, height, index) if anchor else None
        case SetWeights(weights):
            return _set_weights(genesis, state, registered(state, hotkey), weights), None
        case _:
            assert_never(call)


def permitted(genesis: ChainGenesis, state: ChainState) -> tuple[int, ...]:
    """The uids that may validate, in order: the `max_validators` largest stakes > 0, ties to lowest uid."""
    staked = sorted((-member.stake, member.uid) for member in state.members if member.stake)
    return tuple(sorted(uid for _, uid in staked[: genesis.max_validators]))


def registered(state: ChainState, hotkey: str) -> Member:
    """Who is registered under an address.

    Raises:
        ChainError: nobody.
    """
    member = state.member(hotkey)
    if member is None:
        raise ChainError(f"{hotkey} is not registered; register it first")
    return member


def check_reached(number: int, height: int) -> None:
    """Refuse block `number` unless 0 ≤ `number` ≤ `height`.

    Raises:
        ChainError: there is no such block, or not yet.
    """
    if not 0 <= number <= height:
        raise ChainError(f"there is no block {number} yet: the chain is at {height}; wait with next_block")


def snapshot(genesis: ChainGenesis, state: ChainState) -> Snapshot:
    """What the chain shows of a state."""
    validators = permitted(genesis, state)
    return Snapshot(
        genesis.block(state.height),
        tuple(
            Peer(
                uid=member.uid,
                hotkey=member.hotkey,
                stake=member.stake,
                permit=member.uid in validators,
                incentive=member.incentive,
                emission=member.emission,
                location=member.location,
            )
            for member in state.members
        ),
    )


def _u64(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _signed_bytes(genesis: ChainGenesis, call: Call, nonce: int) -> bytes:
    if not 0 <= nonce <= MAX_INTEGER:
        raise ChainError(f"{nonce} is not a nonce")
    return b"muster/extrinsic/v1" + genesis.block(0).hash + rfc8785.dumps(_as_json(call)) + _u64(nonce)


def _as_json(call: Call) -> dict[str, str | list[list[int]] | dict[str, str | int] | None]:
    """The call as the object that is signed; refuses what has no canonical form or breaks a bound."""
    match call:
        case Register():
            return {"call": "register"}
        case Commit(location, anchor):
            _check_location(location)
            return {
                "call": "commit",
                "location": location,
                "anchor": _anchor_json(anchor) if anchor else None,
            }
        case SetWeights(weights):
            uids = [uid for uid, _ in weights]
            if uids != sorted(set(uids)):
                raise ChainError("weights must be listed in ascending uid order, each uid once")
            for uid, weight in weights:
                if not 0 <= uid <= MAX_INTEGER:
                    raise ChainError(f"{uid} is an unknown uid")
                if not 0 <= weight <= WEIGHT_MAX:
                    raise ChainError(f"the weight {weight} of uid {uid} is not from 0 to {WEIGHT_MAX}")
            return {"call": "set_weights", "weights": [[uid, weight] for uid, weight in weights]}
        case _:
            assert_never(call)


def _check_location(location: str) -> None:
    try:
        size = len(location.encode())
    except UnicodeEncodeError as error:
        raise ChainError("the committed location is not valid Unicode text") from error
    if size > MAX_LOCATION:
        raise ChainError(f"the committed location has {size} bytes, over {MAX_LOCATION}; use a shorter prefix")


def weights_of(state: ChainState, hotkey: str) -> dict[int, int]:
    """The weights that a hotkey set last, uid → weight; none of one that is not registered."""
    member = state.member(hotkey)
    return dict(member.weights) if member else {}


def _anchor_json(anchor: Anchor) -> dict[str, str | int]:
    sizes = {len(part) for part in (anchor.digest, anchor.seal) if part is not None}
    if not 0 <= anchor.round <= MAX_INTEGER or sizes != {DIGEST_BYTES}:
        raise ChainError(f"an anchor is a round from 0 to {MAX_INTEGER} and one or two {DIGEST_BYTES}-byte digests")
    seal = {} if anchor.seal is None else {"seal": anchor.seal.hex()}
    return {"round": anchor.round, "digest": anchor.digest.hex(), **seal}


def _replace_member(state: ChainState, member: Member) -> ChainState:
    members = list(state.members)
    members[member.uid] = member
    return replace(state, members=tuple(members))


def _register(genesis: ChainGenesis, state: ChainState, hotkey: str) -> ChainState:
    if state.member(hotkey):
        return state
    newcomer = Member(len(state.members), hotkey, genesis.stakes.get(hotkey, 0), registered=state.height)
    if newcomer.uid < genesis.slots:
        return replace(state, members=(*state.members, newcomer))
    newcomer = replace(newcomer, uid=_evicted(genesis, state))
    # Weights on the uid were meant for its last holder; as on Bittensor, they do not pay the next one.
    members = [
        replace(member, weights=tuple(pair for pair in member.weights if pair[0] != newcomer.uid))
        for member in state.members
    ]
    return _replace_member(replace(state, members=tuple(members)), newcomer)


def _evicted(genesis: ChainGenesis, state: ChainState) -> int:
    """The uid that makes room: of the members past their immunity the least rewarded, ties to the lowest uid.

    Permit holders stay: on Bittensor their dividends keep them, and here nothing else would.
    """
    validators = permitted(genesis, state)
    candidates = [
        (member.incentive, member.uid)
        for member in state.members
        if member.uid not in validators and state.height - member.registered >= genesis.immunity
    ]
    if not candidates:
        raise ChainError(
            f"all {genesis.slots} slots are taken by immune peers or validators; try again after up to "
            f"{genesis.immunity} blocks"
        )
    return min(candidates)[1]


def _set_weights(
    genesis: ChainGenesis, state: ChainState, member: Member, weights: tuple[tuple[int, int], ...]
) -> ChainState:
    if member.uid not in permitted(genesis, state):
        raise ChainError(f"{member.hotkey} has no validator permit: its stake of {member.stake} is too low")
    if member.weighed is not None and state.height - member.weighed < genesis.weights_rate_limit:
        again = member.weighed + genesis.weights_rate_limit
        raise ChainError(f"{member.hotkey} set weights in block {member.weighed}; it may again in block {again}")
    unknown = [uid for uid, _ in weights if uid >= len(state.members)]
    if unknown:
        raise ChainError(f"weights name uid {unknown[0]}, an unknown uid: {len(state.members)} are registered")
    return _replace_member(state, replace(member, weights=weights, weighed=state.height))


def _run_epochs(genesis: ChainGenesis, state: ChainState, due: int) -> ChainState:
    """Pay `due` epochs in one go: they see the same weights, so each pays the same."""
    validators = [state.members[uid] for uid in permitted(genesis, state)]
    rank = emission.ranks(
        {member.uid: member.stake for member in validators},
        # A weight on oneself does not count (the diagonal is masked on Bittensor too).
        {member.uid: {uid: weight for uid, weight in member.weights if uid != member.uid} for member in validators},
    )
    incentive, paid = emission.incentives(rank), emission.split(genesis.epoch_emission, rank)
    members = tuple(
        replace(
            member,
            incentive=incentive.get(member.uid, 0.0),
            emission=member.emission + due * paid.get(member.uid, 0),
        )
        for member in state.members
    )
    return replace(state, epochs=state.epochs + due, members=members)
