"""A subnet of Bittensor as the run's chain.

Only final blocks are shown, so nothing read here is ever taken back: head, snapshot, anchors and beacons are of the
newest final block or an earlier one (some blocks behind the newest one).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import bittensor as bt
from blake3 import blake3

from muster.protocol.chain import commitments
from muster.protocol.chain.base import AnchorSeen, Chain, Snapshot
from muster.protocol.chain.bittensor import reading
from muster.protocol.chain.bittensor.endpoints import SUBMIT_SECONDS, Endpoints, block_time_of
from muster.protocol.chain.bittensor.reading import Metagraph
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.chain.bittensor.signing import HotkeySigner, submit
from muster.protocol.chain.bittensor.weights import WeightFacts, due
from muster.protocol.chain.commitments import Commitment, CommitSpace, Room
from muster.protocol.errors import ChainError, NotPermitted, NotRegistered, RateLimited
from muster.protocol.identity import Identity
from muster.protocol.types import WEIGHT_MAX, Anchor, Block, Origin

BITTENSOR = "bittensor"
"""The kind of chain."""

MAX_ROUND = 2**64 - 1
HASH_BYTES = 32

KNOWN_BLOCKS = 4096
"""Block hashes kept: the blocks that records of the last days name, at 32 bytes each."""

POLLS_PER_BLOCK = 4
MIN_POLL, MAX_POLL = 0.05, 3.0
"""How often a new block is looked for, in seconds between: four times a block, within these."""


@dataclass(frozen=True, slots=True)
class _View:
    """Everything read at one final block."""

    snapshot: Snapshot
    anchors: tuple[AnchorSeen, ...]


class BittensorChain(Chain):
    """A client of one subnet. Nothing is connected before the first call."""

    remembers = False

    def __init__(
        self,
        endpoints: Sequence[str],
        netuid: int,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Use the subnet `netuid` through the first of `endpoints` (ws:// or wss://) that works.

        `clock` gives unix seconds, `sleep` waits for some.

        Raises:
            ChainError: an endpoint is not one.
        """
        self.netuid = netuid
        self._endpoints = Endpoints(endpoints, clock, sleep)
        self._sleep = sleep
        self._head: tuple[str, Block] | None = None
        self._view: _View | None = None
        self._reading = asyncio.Lock()
        self._hashes: OrderedDict[int, bytes] = OrderedDict()

    async def origin(self) -> Origin:
        """The chain by the hash of its block 0, the subnet by its number and the block it was registered in."""

        async def read(runtime: Runtime) -> Origin:
            at = await runtime.final_hash()
            if not await runtime.query("SubtensorModule", "NetworksAdded", [self.netuid], block_hash=at):
                raise ChainError(f"this chain has no subnet {self.netuid}; check netuid and endpoints")
            registered = await runtime.query("SubtensorModule", "NetworkRegisteredAt", [self.netuid], block_hash=at)
            return Origin(BITTENSOR, _bytes32(await runtime.block_hash(0)), self.netuid, int(registered or 0))

        return await self._endpoints.ask(read)

    async def head(self) -> Block:
        """The newest final block."""
        return await self._endpoints.ask(self._read_head)

    async def final(self) -> int:
        """The head's height: nothing is shown that is not final."""
        return (await self.head()).number

    async def next_block(self, after: int) -> Block:
        """Look for a new final block, a few times a block, until there is one beyond `after`."""
        while (head := await self.head()).number <= after:
            await self._sleep(min(max(self._endpoints.block_seconds / POLLS_PER_BLOCK, MIN_POLL), MAX_POLL))
        return head

    async def block(self, number: int) -> Block:
        """The block at a height that is final; `ChainError` for any other."""
        if number not in self._hashes:
            reached = self._head[1].number if self._head else -1
            if number > reached:
                reached = (await self.head()).number
            if not 0 <= number <= reached:
                raise ChainError(f"there is no final block {number} yet: the chain is at {reached}; wait for it")
            found = await self._endpoints.ask(lambda runtime: runtime.block_hash(number))
            self._remember(Block(number, _bytes32(found)))
        return Block(number, self._hashes[number])

    async def beacon(self, purpose: str, round_: int, block: int) -> bytes:
        """BLAKE3("muster/block-beacon/v1" ‖ purpose ‖ round (8 bytes, LE) ‖ hash of the block), 32 bytes."""
        if not 0 <= round_ <= MAX_ROUND:
            raise ChainError(f"there is no beacon for round {round_}")
        found = await self.block(block)
        return blake3(b"muster/block-beacon/v1" + purpose.encode() + round_.to_bytes(8, "little") + found.hash).digest()

    async def snapshot(self) -> Snapshot:
        """Everybody registered at the newest final block."""
        return (await self._current()).snapshot

    async def register(self, identity: Identity) -> int:
        """The hotkey's uid; nothing is bought here.

        Raises:
            NotRegistered: it has none; the text says how to get one.
        """
        peer = (await self.snapshot()).by_hotkey().get(identity.hotkey)
        if peer is None:
            raise NotRegistered(
                f"{identity.hotkey} is not registered on subnet {self.netuid}; register it with "
                f"`btcli subnets register --netuid {self.netuid}` and the wallet that holds it (this costs TAO)"
            )
        return peer.uid

    async def commit(self, identity: Identity, location: str, anchor: Anchor | None = None) -> None:
        """Write location and newest anchor together; the anchor that stands is kept where none is given.

        Raises:
            RateLimited: a hotkey may commit so many bytes an epoch, and these would be more; or a location would leave
                none for the next anchor.
        """
        wanted = Commitment(location, anchor)
        commitments.encode(wanted)

        async def write(runtime: Runtime) -> None:
            at = await runtime.block_hash(None)
            number = await runtime.height(at)
            found = await runtime.query("Commitments", "CommitmentOf", [self.netuid, identity.hotkey], block_hash=at)
            committed, blocks = reading.read_commitments([(identity.hotkey, found)])
            stands = committed.get(identity.hotkey, Commitment())
            complete = Commitment(location, anchor or stands.anchor)
            if complete == stands:
                return
            fields = commitments.encode(complete)
            room = await self._room(runtime, at, number, identity.hotkey, blocks.get(identity.hotkey, 0))
            room.check(commitments.space(fields), before_anchor=anchor is None and stands.anchor is not None)
            call = await runtime.compose(
                bt.calls.Commitments.set_commitment(netuid=self.netuid, info=commitments.to_info(fields))
            )
            what = f"the commitment of {identity.hotkey}"
            await submit(runtime, call, HotkeySigner(identity), what, sleep=self._sleep)

        await self._endpoints.ask(write, SUBMIT_SECONDS)

    async def _room(self, runtime: Runtime, at: str, number: int, hotkey: str, last: int) -> Room:
        """What a hotkey, whose last commitment is of block `last`, has left of the epoch that block `number` is in."""
        limit, tempo = await self._space(runtime, at)
        since = await runtime.query("SubtensorModule", "BlocksSinceLastStep", [self.netuid], block_hash=at)
        used = await runtime.query("Commitments", "UsedSpaceOf", [self.netuid, hotkey], block_hash=at)
        began = number - int(since or 0)
        # The chain counts from 0 with the first commitment of an epoch, and shows the last one's count until then.
        return Room(CommitSpace(limit, tempo), reading.used_space(used) if last >= began else 0, began + tempo)

    async def _space(self, runtime: Runtime, at: str) -> tuple[int, int]:
        """Bytes that a hotkey may commit in an epoch (0: any number), and the blocks of one."""
        limit = await runtime.query("Commitments", "MaxSpace", [], block_hash=at)
        tempo = await runtime.query("SubtensorModule", "Tempo", [self.netuid], block_hash=at)
        return int(limit or 0), int(tempo or 0)

    async def commit_space(self) -> CommitSpace | None:
        """What the subnet takes of a hotkey in an epoch."""

        async def read(runtime: Runtime) -> tuple[int, int]:
            return await self._space(runtime, await runtime.final_hash())

        limit, tempo = await self._endpoints.ask(read)
        return CommitSpace(limit, tempo) if limit and tempo else None

    async def anchors(self, round_: int) -> tuple[AnchorSeen, ...]:
        """Everybody's newest anchor that is for `round_` or later, in chain order."""
        return tuple(seen for seen in (await self._current()).anchors if seen.anchor.round >= round_)

    async def set_weights(self, identity: Identity, weights: Mapping[int, int]) -> None:
        """Publish weights, in the open or sealed as the subnet wants them; once an epoch.

        Raises:
            RateLimited: they are not due, the text says when; whoever sets them every round goes on.
        """
        for uid, weight in weights.items():
            if not 0 <= weight <= WEIGHT_MAX:
                raise ChainError(f"the weight {weight} of uid {uid} is not from 0 to {WEIGHT_MAX}")

        async def write(runtime: Runtime) -> None:
            graph = await self._metagraph(runtime, await runtime.block_hash(None))
            self._check_weights(graph, identity.hotkey, weights)
            intent = bt.SetWeights(netuid=self.netuid, weights=dict(weights), version_key=graph.weights_version)
            signer = HotkeySigner(identity)
            built = await intent.build(runtime, signer)
            what = f"the weights of {identity.hotkey}"
            await submit(runtime, getattr(built, "call", built), signer, what, sleep=self._sleep)

        await self._endpoints.ask(write, SUBMIT_SECONDS)

    def _check_weights(self, graph: Metagraph, hotkey: str, weights: Mapping[int, int]) -> None:
        """Refuse what the chain would refuse, or take badly."""
        if hotkey not in graph.hotkeys:
            raise NotRegistered(f"{hotkey} is not registered on subnet {self.netuid}; register it first")
        uid = graph.hotkeys.index(hotkey)
        if not graph.permits[uid]:
            raise NotPermitted(f"{hotkey} has no validator permit on subnet {self.netuid}; it needs more stake")
        unknown = [each for each in weights if not 0 <= each < len(graph.hotkeys)]
        if unknown:
            raise ChainError(f"weights name uid {unknown[0]}, an unknown uid: {len(graph.hotkeys)} are registered")
        facts = WeightFacts(
            block=graph.block,
            updated=graph.updated[uid] or None,
            epoch=graph.block - graph.since_epoch,
            tempo=graph.tempo,
            rate_limit=graph.weights_rate_limit,
        )
        when = due(facts)
        if when > graph.block:
            raise RateLimited(f"the weights of {hotkey} are due again in block {when}; the chain is at {graph.block}")

    async def close(self) -> None:
        """Disconnect; the next call would connect again."""
        await self._endpoints.close()

    async def _read_head(self, runtime: Runtime) -> Block:
        found = await runtime.final_hash()
        if self._head is None or self._head[0] != found:
            block = Block(await runtime.height(found), _bytes32(found))
            self._endpoints.newest = await block_time_of(runtime, found)
            # Another node may be behind the one asked before: what was final is not un-final by that.
            if self._head is None or block.number > self._head[1].number:
                self._head = found, block
                self._remember(block)
        self._endpoints.check_age(self._endpoints.newest)
        return self._head[1]

    def _remember(self, block: Block) -> None:
        self._hashes[block.number] = block.hash
        while len(self._hashes) > KNOWN_BLOCKS:
            self._hashes.popitem(last=False)

    async def _current(self) -> _View:
        """The view at the head, read once per block however many ask."""
        async with self._reading:
            head = await self.head()
            if self._view is None or self._view.snapshot.block != head:
                self._view = await self._endpoints.ask(lambda runtime: self._read_view(runtime, head))
            return self._view

    async def _metagraph(self, runtime: Runtime, block_hash: str) -> Metagraph:
        answer = await runtime.runtime_call("SubnetInfoRuntimeApi", "get_metagraph", [self.netuid], block_hash)
        return reading.read_metagraph(answer)

    async def _read_view(self, runtime: Runtime, block: Block) -> _View:
        at = "0x" + block.hash.hex()
        graph = await self._metagraph(runtime, at)
        entries = await runtime.query_map("Commitments", "CommitmentOf", [self.netuid], block_hash=at)
        committed, blocks = reading.read_commitments(entries)
        snapshot = reading.read_snapshot(graph, block, committed)
        registered = snapshot.by_hotkey()
        anchored = {
            hotkey: found.anchor
            for hotkey, found in committed.items()
            if found.anchor is not None and hotkey in registered
        }
        order = await self._order(runtime, [blocks[hotkey] for hotkey in anchored])
        seen = [
            AnchorSeen(hotkey, anchor, blocks[hotkey], order.get((blocks[hotkey], hotkey), 0))
            for hotkey, anchor in anchored.items()
        ]
        return _View(snapshot, reading.in_chain_order(seen))

    async def _order(self, runtime: Runtime, blocks: Sequence[int]) -> dict[tuple[int, str], int]:
        """Where in their block anchors stand, for blocks that hold several: the rest has an order without it."""
        order: dict[tuple[int, str], int] = {}
        for number in {number for number in blocks if blocks.count(number) > 1}:
            found = await runtime.get_block(block_number=number)
            indices = reading.commit_order((found or {}).get("extrinsics") or [], self.netuid)
            order |= {(number, hotkey): index for hotkey, index in indices.items()}
        return order


def _bytes32(found: str) -> bytes:
    data = bytes.fromhex(found.removeprefix("0x"))
    if len(data) != HASH_BYTES:
        raise ChainError("the endpoint answered with a block hash that is not one; use another endpoint")
    return data
