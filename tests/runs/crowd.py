"""A crowd of registered peers that need no process: one honest miner writes what lies in their buckets as a side job.

A `Puppet` has a conduct: what its objects are (`Content`), and where and how its bucket stops answering (`Trouble`).
The buckets are real ones in memory that keep their readers waiting, so everything that meets them is the daemons' own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

from blake3 import blake3

from muster import kernels
from muster.kernels import Codec
from muster.lab.nano import counted_delta, counting_miner
from muster.node.ledger.participant import possession as possession_by
from muster.node.ledger.seals import FoundSeal
from muster.node.miner import MakeMiner, stages
from muster.node.miner.stages import OpenRound, Stages
from muster.node.miner.state import Made
from muster.protocol import paths, wire
from muster.protocol.chain.base import Chain
from muster.protocol.errors import ObjectMissing, StorageError
from muster.protocol.identity import Identity
from muster.protocol.ledger import Possession, Tip
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.spec.layout import AEAD_TAG_BYTES, Layout
from muster.protocol.storage import DEFAULT_DEADLINE, Buckets, Store
from muster.protocol.storage.locations import MemoryBuckets
from muster.protocol.storage.memory import MemoryStore
from muster.protocol.wire import Header

DRIP, SLOW = 607.0, 1.0
"""Seconds a dripping bucket and one on a slow line take for one answer."""

Content = Literal["good", "wrong_key", "payload_auth", "garbage", "no_key", "nothing"]
Step = Literal["head", "key", "payload"]
Manner = Literal["hang", "drip", "vanish", "slow"]

BAD: tuple[Content, ...] = ("wrong_key", "payload_auth", "garbage", "no_key")
"""Submissions with a good head and a payload that nobody can use."""

REASONS: Mapping[Content, str] = {
    "good": "",
    "wrong_key": "key_mismatch",
    "payload_auth": "payload_auth",
    "garbage": "frame_length",
    "no_key": "key_missing",
}
"""What a record says of each content, where the payload is looked at in time."""

STEPS: tuple[Step, ...] = ("head", "key", "payload")
MANNERS: tuple[Manner, ...] = ("hang", "drip", "vanish")


@dataclass(frozen=True, slots=True)
class Trouble:
    """The step at which a bucket does not answer as it should, and how (`drip` and `slow`: the truth, but late)."""

    step: Step
    manner: Manner


@dataclass(frozen=True, slots=True)
class Puppet:
    """One peer of the crowd."""

    name: str
    identity: Identity
    content: Content = "good"
    trouble: Trouble | None = None

    @property
    def public(self) -> bytes:
        """Its key."""
        return self.identity.public


def puppets(count: int, *conducts: tuple[Content, Trouble | None], prefix: str = "puppet") -> tuple[Puppet, ...]:
    """So many peers that behave in these ways, in turn."""
    names = [f"{prefix}-{i}" for i in range(count)]
    return tuple(Puppet(name, Identity.derive(0, name), *conducts[i % len(conducts)]) for i, name in enumerate(names))


class PuppetStore(MemoryStore):
    """A bucket that stops answering at one step."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self._trouble = trouble

    async def _gone(self, step: Step, deadline: float) -> bool:
        """Let the reader wait; whether it then finds nothing."""
        if self._trouble.step != step:
            return False
        if self._trouble.manner == "vanish":
            return True
        wait = {"drip": DRIP, "slow": SLOW}.get(self._trouble.manner, deadline)
        await asyncio.sleep(min(wait, deadline))
        if wait < deadline:
            return False
        raise StorageError("it was not answered in time")

    async def get_range(self, key: str, start: int, length: int, *, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """A head."""
        if await self._gone("head", deadline):
            raise ObjectMissing(key)
        return await super().get_range(key, start, length)

    async def download(self, key: str, target: Path, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """A large payload."""
        if await self._gone("payload", deadline):
            raise ObjectMissing(key)
        return await super().download(key, target, max_bytes=max_bytes)

    async def get(self, key: str, *, max_bytes: int, deadline: float = DEFAULT_DEADLINE) -> bytes:
        """A key or a payload."""
        if await self._gone("key" if key.endswith(".key") else "payload", deadline):
            raise ObjectMissing(key)
        return await super().get(key, max_bytes=max_bytes)


class CrowdBuckets(MemoryBuckets):
    """Everybody's buckets; those of puppets behave as they are told."""

    def __init__(self, crowd: Sequence[Puppet]) -> None:
        super().__init__()
        self._troubles = {puppet.name: puppet.trouble for puppet in crowd if puppet.trouble is not None}

    def _make(self, location: str) -> Store:
        trouble = self._troubles.get(location.partition(":")[2])
        return super()._make(location) if trouble is None else PuppetStore(trouble)


class Crowd:
    """Writes what puppets publish; nobody of them trains, and each one's Δ is a counter's."""

    def __init__(self, members: Sequence[Puppet]) -> None:
        self.members = tuple(members)
        self.uids: dict[str, int] = {}
        self._keys: dict[str, Callable[[bytes], bytes]] = {}

    async def register(self, chain: Chain) -> None:
        """Register everybody, once, and say where their buckets are."""
        for puppet in self.members if not self.uids else ():
            self.uids[puppet.name] = await chain.register(puppet.identity)
            await chain.commit(puppet.identity, f"mem:{puppet.name}")

    async def submit(self, tip: Tip, buckets: Buckets, possession: Possession) -> None:
        """Put the round's submissions."""
        self._keys.clear()
        for puppet in self.members:
            if puppet.content == "nothing":
                continue
            head, payload, key = forge(tip, puppet, self.uids[puppet.name], possession(puppet.public))
            if key is not None:
                self._keys[puppet.name] = key
            bucket = buckets.bucket(f"mem:{puppet.name}")
            await bucket.put(paths.payload(tip.run_id, tip.round), payload)
            await bucket.put(paths.head(tip.run_id, tip.round), head)

    async def show_keys(self, tip: Tip, buckets: Buckets, seal: bytes) -> None:
        """Put every key that is shown at all, for the seal with this digest."""
        for name, key in self._keys.items():
            await buckets.bucket(f"mem:{name}").put(paths.key(tip.run_id, tip.round), key(seal))


@lru_cache(64)
def counted_frames(layout: Layout, k: int, public: bytes, round_: int) -> bytes:
    """An encoded update; what is never applied may be anybody's."""
    return kernels.encode(kernels.compress(counted_delta(layout, 0, public, round_), Codec(layout.grid, k)))


Forged = tuple[bytes, bytes, Callable[[bytes], bytes] | None]
"""A head, a payload, and a key object by the seal it answers (None: there never is one)."""


def forge(tip: Tip, puppet: Puppet, uid: int, possession: bytes) -> Forged:
    """A puppet's objects in the open round."""
    me, content = puppet.identity, puppet.content
    key = blake3(me.public + tip.round.to_bytes(8, "little")).digest()
    own = content == "good" and puppet.trouble is None
    frames = counted_frames(tip.layout, tip.spec.sparse.k, me.public if own else bytes(32), tip.round if own else 0)
    if content == "garbage":
        frames = blake3(key).digest(length=len(frames))
    owner = bytes(32) if content == "payload_auth" else me.public
    ciphertext = wire.encrypt_frames(frames, key, tip.run_id, tip.round, owner)
    windows = assigned(tip.opening.assign.value, uid, tip.spec.data, tip.spec.inner.batch)
    header = Header(
        run_id=tip.run_id,
        public=me.public,
        round=tip.round,
        base_round=tip.opening.base_round,
        uid=uid,
        layout=tip.layout.digest,
        possession=possession,
        data_digest=data_digest(windows),
        windows=len(windows),
        tokens=len(windows) * tip.spec.data.window,
        payload_bytes=len(ciphertext) - AEAD_TAG_BYTES,
        ciphertext_digest=blake3(ciphertext).digest(),
        key_commitment=wire.key_commitment(key),
    )
    head = wire.encode_head(header, me)
    if content == "no_key":
        return head, ciphertext, None
    shown = bytes(wire.KEY_BYTES) if content == "wrong_key" else key
    return head, ciphertext, lambda seal: wire.encode_key(me, tip.run_id, tip.round, shown, seal)


def puppeteer(crowd: Crowd) -> MakeMiner:
    """An honest counting miner that also writes a crowd's objects: heads before its own, for nobody waits for them."""

    async def put(now: OpenRound, made: Made) -> None:
        """The crowd's submissions, then its own."""
        await crowd.register(now.context.chain)
        await crowd.submit(now.tip, now.context.buckets, possession_by(now.tip, now.replica))
        await stages.put(now, made)

    async def key(now: OpenRound, made: Made, found: FoundSeal) -> None:
        """The crowd's keys, then its own."""
        await crowd.show_keys(now.tip, now.context.buckets, found.digest)
        await stages.show_key(now, made, found)

    return partial(counting_miner, stages=Stages(put=put, key=key))
