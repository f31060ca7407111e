"""From what the chain's runtime answers to what the rest of Muster knows: a pure translation, every field checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from muster.protocol.chain.base import AnchorSeen, Peer, Snapshot
from muster.protocol.chain.commitments import Commitment, decode, from_info
from muster.protocol.errors import ChainError
from muster.protocol.types import Block


@dataclass(frozen=True, slots=True)
class Metagraph:
    """A subnet at one block; lists are by uid, times in blocks. `updated` is when a hotkey last set weights, or 0."""

    hotkeys: tuple[str, ...]
    stakes: tuple[int, ...]
    permits: tuple[bool, ...]
    incentives: tuple[int, ...]
    emissions: tuple[int, ...]
    updated: tuple[int, ...]
    block: int
    since_epoch: int
    tempo: int
    weights_rate_limit: int
    weights_version: int


def read_metagraph(answer: object) -> Metagraph:
    """What the runtime answers to `get_metagraph`.

    Raises:
        ChainError: the subnet does not exist, or this is not how we know a metagraph.
    """
    if answer is None:
        raise ChainError("the subnet does not exist on this chain; check netuid and endpoints")
    try:
        graph = cast(Mapping[str, Any], answer)
        found = Metagraph(
            hotkeys=tuple(map(str, graph["hotkeys"])),
            stakes=tuple(map(int, graph["total_stake"])),
            permits=tuple(map(bool, graph["validator_permit"])),
            incentives=tuple(map(int, graph["incentives"])),
            emissions=tuple(map(int, graph["emission"])),
            updated=tuple(map(int, graph["last_update"])),
            block=int(graph["block"]),
            since_epoch=int(graph["blocks_since_last_step"]),
            tempo=int(graph["tempo"]),
            weights_rate_limit=int(graph["weights_rate_limit"]),
            weights_version=int(graph["weights_version"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ChainError("the chain's metagraph is not in the form this release reads; update Muster") from error
    lists = (found.stakes, found.permits, found.incentives, found.emissions, found.updated)
    if any(len(each) != len(found.hotkeys) for each in lists):
        raise ChainError("the chain's metagraph has lists of different lengths; use another endpoint")
    return found


def read_snapshot(graph: Metagraph, block: Block, committed: Mapping[str, Commitment]) -> Snapshot:
    """Everybody registered, from the metagraph and the commitments of the same block."""
    total = sum(graph.incentives)
    return Snapshot(
        block,
        tuple(
            Peer(
                uid=uid,
                hotkey=hotkey,
                stake=graph.stakes[uid],
                permit=graph.permits[uid],
                incentive=graph.incentives[uid] / total if total else 0.0,
                emission=graph.emissions[uid],
                location=committed[hotkey].location if hotkey in committed else None,
            )
            for uid, hotkey in enumerate(graph.hotkeys)
        ),
    )


def read_commitments(entries: Sequence[tuple[Any, Any]]) -> tuple[dict[str, Commitment], dict[str, int]]:
    """What hotkeys have committed, and in which block each did."""
    committed: dict[str, Commitment] = {}
    blocks: dict[str, int] = {}
    for hotkey, registration in entries:
        if isinstance(registration, Mapping):
            committed[str(hotkey)] = decode(from_info(registration.get("info")))
            blocks[str(hotkey)] = int(registration["block"])
    return committed, blocks


def used_space(usage: object) -> int:
    """The bytes that the chain has counted of a hotkey in the epoch of its last commitment; 0 where it does not say."""
    return int(usage["used_space"]) if isinstance(usage, Mapping) and "used_space" in usage else 0


def commit_order(extrinsics: Sequence[Any], netuid: int) -> dict[str, int]:
    """Hotkey → index of its last commitment to the subnet among a block's extrinsics."""
    order: dict[str, int] = {}
    for index, extrinsic in enumerate(extrinsics):
        value = getattr(extrinsic, "value", extrinsic)
        if not isinstance(value, Mapping) or not isinstance(call := value.get("call"), Mapping):
            continue
        if (call.get("call_module"), call.get("call_function")) != ("Commitments", "set_commitment"):
            continue
        arguments = {argument["name"]: argument["value"] for argument in call.get("call_args") or []}
        if arguments.get("netuid") == netuid:
            order[str(value.get("address"))] = index
    return order


def in_chain_order(seen: Sequence[AnchorSeen]) -> tuple[AnchorSeen, ...]:
    """Anchors by block, then by extrinsic; the hotkey only makes the order total."""
    return tuple(sorted(seen, key=lambda anchor: (anchor.block, anchor.index, anchor.hotkey)))
