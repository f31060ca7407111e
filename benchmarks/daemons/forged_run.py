"""A run of many rounds that nobody trained: the ledger as its leader writes it, with updates of random places.

Heads, keys, payloads, seals, records and bundles are whole and valid, so who follows the run does all of its work.
Only what an update says means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from blake3 import blake3

from muster.kernels import Codec, SparseUpdate, encode
from muster.node.ledger.reader import ASSIGN, POSSESS, draw, genesis_tip
from muster.node.replica import Replica, genesis_root
from muster.protocol import paths, wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.chain.virtual import VirtualChain
from muster.protocol.identity import Identity
from muster.protocol.ledger import Applied, Tip, advance, prepare
from muster.protocol.ledger.bundle import Opened, write_bundle
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.spec import ChainSpec, RunSpec, load_template
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import CODEC_BYTES, codec_of
from muster.protocol.storage import Store
from muster.protocol.types import Anchor
from muster.protocol.wire import Header, Seal
from muster.validator.aggregator.compose import Decision, Work, compose

SEED = 7
LEADER = Identity.derive(SEED, "leader")
KINDS = 8
"""Different updates that the peers send by turns: making one takes longer than everything else of its round."""
SCALES = (150, 170)
"""Scale bytes, least and one above the most: values of 2⁻¹¹ˑ⁵ to 2⁻⁹, about those of real updates."""
LAYER = 3_211_264 + 1_024
"""Parameters of a layer of `template_of`'s large models; the embedding has 131,072, the last gain 512."""
SMALL = 3.0
"""Millions of parameters up to which the run is one of the preset `tiny`."""


@dataclass(frozen=True)
class Written:
    """A round's objects by name, and the digest of its record."""

    digest: bytes
    objects: dict[str, bytes]


@dataclass
class ForgedRun:
    """A closed run: its chain, its spec's history, every round's objects, and the root that it ends with."""

    chain: VirtualChain
    history: SpecHistory
    rounds: list[Written]
    root: bytes

    @property
    def run_id(self) -> bytes:
        """The run."""
        return self.history.run_id

    async def put(self, store: Store, location: str) -> None:
        """Everything into the leader's bucket, which lies at `location` from now on."""
        for written in self.rounds:
            for key, data in written.objects.items():
                await store.put(key, data)
        await self.stands_at(location)

    async def stands_at(self, location: str) -> None:
        """The leader's bucket is this one."""
        await self.chain.commit(LEADER, location)


def spec_of(millions: float, peers: Sequence[Identity]) -> RunSpec:
    """A spec of about so many million parameters (`tiny` up to `SMALL`), these peers expected in round 0."""
    document = load_template("tiny").model_dump()
    if millions > SMALL:
        layers = max(1, round((millions * 1e6 - 131_584) / LAYER))
        document["model"] |= {
            "hidden": 512, "layers": layers, "heads": 8, "kv_heads": 8, "head_dim": 64, "ffn": 1408
        }  # fmt: skip
    document["data"] |= {"windows": 20_000, "heldout": 64, "manifest": "ab" * 32}
    document["genesis"] = {
        "seed": SEED,
        "chain": ChainSpec.of(ChainGenesis(seed=SEED).origin).model_dump(),
        "root": "00" * 32,
        "miners": tuple(peer.hotkey for peer in peers),
        "leaders": (LEADER.hotkey,),
        "owner": LEADER.hotkey,
    }
    unrooted = RunSpec.model_validate(document)
    document["genesis"]["root"] = genesis_root(unrooted.model, SEED).hex()
    return RunSpec.model_validate(document)


def random_update(codec: Codec, seed: int) -> SparseUpdate:
    """An update whose kept places are uniform, as are codes and scale bytes."""
    rng, grid = np.random.default_rng(seed), codec.grid
    tiles = [
        np.sort(rng.choice(size, kept, replace=False, shuffle=False))
        for size, kept in zip(grid.tile_sizes.tolist(), grid.kept(codec.k).tolist(), strict=True)
    ]
    return SparseUpdate(
        codec,
        torch.from_numpy(np.concatenate(tiles).astype(np.int16)),
        torch.from_numpy(rng.integers(0, 4, codec.count, dtype=np.uint8)),
        torch.from_numpy(np.sort(rng.integers(*SCALES, (grid.tiles, 2), dtype=np.uint8), axis=1)),
    )


class _Forge:
    """Writes one round after another."""

    def __init__(self, chain: VirtualChain, tip: Tip, peers: Sequence[Identity]) -> None:
        self.chain, self.tip, self.peers = chain, tip, peers
        self.replica = Replica.genesis(tip.spec, tip.run_id)
        codec = codec_of(tip.spec)
        self.updates = [random_update(codec, seed) for seed in range(KINDS)]
        self.frames = [encode(update) for update in self.updates]

    def _submission(self, uid: int) -> tuple[bytes, bytes, bytes, SparseUpdate]:
        """A peer's head, key, ciphertext and update of the open round."""
        tip, peer, spec = self.tip, self.peers[uid], self.tip.spec
        kind = (tip.round * len(self.peers) + uid) % KINDS
        key = blake3(b"key" + tip.round.to_bytes(8, "little") + peer.public).digest()
        ciphertext = wire.encrypt_frames(self.frames[kind], key, tip.run_id, tip.round, peer.public)
        windows = assigned(tip.opening.assign.value, uid, spec.data, spec.inner.batch)
        header = Header(
            run_id=tip.run_id,
            public=peer.public,
            round=tip.round,
            base_round=tip.round,
            uid=uid,
            layout=tip.layout.digest,
            possession=self.replica.possession(tip.opening.possess.value, peer.public, tip.round),
            data_digest=data_digest(windows),
            windows=len(windows),
            tokens=len(windows) * spec.data.window,
            payload_bytes=len(self.frames[kind]) + CODEC_BYTES,
            ciphertext_digest=blake3(ciphertext).digest(),
            key_commitment=wire.key_commitment(key),
        )
        return wire.encode_head(header, peer), key, ciphertext, self.updates[kind]

    async def write(self, *, closing: bool = False) -> Written:
        """The open round, with work of every peer or, `closing`, of nobody; anchored, and gone on from."""
        tip, chain = self.tip, self.chain
        await self._reach(tip.opening.min_block)
        sent = {} if closing else {peer.public: self._submission(uid) for uid, peer in enumerate(self.peers)}
        listed = tuple((public, wire.head_digest(sent[public][0])) for public in sorted(sent))
        seal = Seal(tip.run_id, LEADER.public, tip.round, tip.parent, 0, await chain.head(), listed)
        seal_data = wire.encode_seal(seal, LEADER)
        sealed = wire.digest_of(seal_data)
        await self._reach(seal.block.number + 1)
        choice = tip.choose(dict.fromkeys(sent, ""), ())
        opened, names = [], {peer.public: peer for peer in self.peers}
        for public in choice.accepted:
            head, key, ciphertext, _ = sent[public]
            shown = wire.encode_key(names[public], tip.run_id, tip.round, key, sealed)
            opened.append(Opened(wire.decode_head(head, tip.run_id), shown, ciphertext))
        bundle = write_bundle(opened)
        windows = [one.signed.header.windows for one in opened]
        weighed = prepare([sent[public][3] for public in choice.accepted], windows, tip.spec)
        decision = Decision(
            seal=seal,
            seal_digest=sealed,
            root=self.replica.root(),
            scores=(),
            assign=await draw(chain, ASSIGN, tip.round + 1, tip.opening.open.number),
            possess=await draw(chain, POSSESS, tip.round + 1, chain.height),
            closing=closing,
        )
        heads = {public: parts[0] for public, parts in sent.items()}
        record = compose(tip, decision, heads, Work(choice, weighed, blake3(bundle).digest(), len(bundle)))
        data = wire.encode_record(record, LEADER)
        digest = wire.digest_of(data)
        await chain.commit(LEADER, "dir:leader", Anchor(tip.round, digest))
        self.tip = advance(tip, record, digest)
        applied = Applied(record, digest, seal.block, tuple(weighed.updates), weighed.weights, self.tip)
        self.replica.step(applied, tip.spec)
        objects = {
            paths.seal(tip.run_id, tip.round, sealed): seal_data,
            paths.record(tip.run_id, tip.round, digest): data,
        }
        return Written(digest, objects | ({paths.bundle(tip.run_id, tip.round, digest): bundle} if bundle else {}))

    async def _reach(self, height: int) -> None:
        if height > self.chain.height:
            self.chain.advance(height - self.chain.height)


async def forge(millions: float, peers: int, rounds: int) -> ForgedRun:
    """A run of about so many million parameters, with work of all peers in each of its rounds, and closed."""
    names = [Identity.derive(SEED, f"peer-{uid}") for uid in range(peers)]
    spec = spec_of(millions, names)
    chain = VirtualChain(ChainGenesis(seed=SEED, slots=spec.data.slots))
    for identity in (*names, LEADER):
        await chain.register(identity)
    history = SpecHistory.of(spec)
    forging = _Forge(chain, await genesis_tip(history, chain), names)
    written = [await forging.write() for _ in range(rounds)]
    written.append(await forging.write(closing=True))
    return ForgedRun(chain, history, written, forging.replica.root())
