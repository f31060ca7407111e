"""What every chain can do: the interface the rest of Muster is written against.

A chain says what time it is (blocks), who is who (registered hotkeys with stake and permits), where each peer's
bucket is and which record is the newest (commitments), and it pays (weights, incentive, emission). It decides
nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from muster.protocol.chain.commitments import CommitSpace
from muster.protocol.identity import Identity
from muster.protocol.types import Anchor, Block, Origin


@dataclass(frozen=True, slots=True)
class AnchorSeen:
    """An anchor as the chain ordered it: first by block, then by extrinsic index."""

    hotkey: str
    anchor: Anchor
    block: int
    index: int


@dataclass(frozen=True, slots=True)
class Peer:
    """One registered hotkey, as of a snapshot.

    `stake` is in the chain's smallest unit. `permit` says whether it may validate. `incentive` sums to 1 over all
    peers (or is 0 everywhere before the first epoch). `emission` is in smallest units: on a local chain all that was
    paid so far, on Bittensor what the last epoch paid.
    `location` is where its bucket is, None until it has committed one.
    """

    uid: int
    hotkey: str
    stake: int
    permit: bool
    incentive: float
    emission: int
    location: str | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everybody registered at one block, in uid order."""

    block: Block
    peers: tuple[Peer, ...]

    def by_hotkey(self) -> dict[str, Peer]:
        """The peers keyed by ss58 address."""
        return {peer.hotkey: peer for peer in self.peers}


class Chain(ABC):
    """A client of one chain and one subnet on it.

    `remembers` says that `anchors` gives every anchor that was made; else it gives each hotkey's newest.
    """

    remembers: bool = True

    @abstractmethod
    async def origin(self) -> Origin:
        """Which chain and subnet this is.

        Raises:
            ChainError: it does not say, or has no such subnet.
        """

    @abstractmethod
    async def head(self) -> Block:
        """The newest block."""

    @abstractmethod
    async def next_block(self, after: int) -> Block:
        """Wait until the head is beyond height `after`; returns the head then. Nothing waits for anything else."""

    async def news(self, after: int) -> Block:
        """Wait as `next_block` does, but no longer than until something is announced; returns the head then.

        A look is worth while again. That is all it says: what counts, counts in blocks. Where nobody can be told, the
        next block is all the news there is.
        """
        return await self.next_block(after)

    async def announce(self) -> None:
        """Say to who waits for news that something was written, here or to a bucket."""
        return

    @abstractmethod
    async def block(self, number: int) -> Block:
        """The block at a height that has been reached.

        Raises:
            ChainError: the height lies in the future.
        """

    @abstractmethod
    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        """32 unpredictable bytes for (`purpose`, `round_`) that nobody could know before `block`.

        Local chains derive them from the run's seed, purpose and round alone, so that a run can be repeated.
        """

    @abstractmethod
    async def final(self) -> int:
        """The height of the newest block that is never taken back.

        Raises:
            ChainError: it does not say.
        """

    @abstractmethod
    async def snapshot(self) -> Snapshot:
        """Everybody registered now."""

    @abstractmethod
    async def register(self, identity: Identity) -> int:
        """Register a hotkey and return its uid; one already registered keeps its uid.

        With all slots taken the least rewarded peer outside its immunity period loses its slot. Where registering
        costs money (Bittensor) nothing is registered here; the error says how to do it.

        Raises:
            ChainError: refused (bad signature, every slot immune, it has to be paid for).
        """

    @abstractmethod
    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Publish where the hotkey's bucket is and, by an aggregator, its newest anchor.

        Both replace what they find; without an anchor the newest one stays.

        Raises:
            ChainError: not registered, the location is over `MAX_LOCATION` bytes, or too much was committed lately.
        """

    @abstractmethod
    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """The anchors for `round_` or a later round that the chain still shows, in chain order.

        A local chain shows its whole history. Bittensor shows each hotkey's newest anchor only; what lies between
        it and `round_` is proven by the records' parents (`muster.protocol.ledger.lineage`).
        """

    async def commit_space(self) -> CommitSpace | None:
        """How much one hotkey may commit, None where that is not limited (a local chain).

        Raises:
            ChainError: the chain does not say.
        """
        return None

    @abstractmethod
    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        """Publish a validator's weights, uid → 0…`WEIGHT_MAX`.

        Raises:
            ChainError: not registered, no permit, an unknown uid, a weight out of range, or too soon.
        """

    async def weights(self, hotkey: str) -> Mapping[int, int] | None:  # noqa: ARG002
        """The weights that a hotkey set last, as far as its uids are still the same peers', uid → weight.

        None where that cannot be seen: Bittensor may hold weights sealed, and shows them only some epochs later.
        """
        return None

    async def close(self) -> None:
        """Release connections and handles."""
        return
