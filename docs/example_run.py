"""The run that the test vectors are of: a small model, three miners and round 0, as constants and functions of them.

A second implementation can make it again from docs/protocol.md, except for what is pinned: signatures, because
sr25519 randomises them, and compressed payloads, because versions of zstd differ.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from blake3 import blake3
from torch import Tensor

from muster.kernels import FrameError, compress, decode, encode
from muster.node.replica.genesis import genesis_parameters
from muster.protocol import wire
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.identity import Identity
from muster.protocol.identity import verify as is_signature
from muster.protocol.ledger import Tip, genesis_tip
from muster.protocol.ledger.roots import GENESIS_RUN, held_digest, possession, state_root
from muster.protocol.rules.assignment import assigned, data_digest
from muster.protocol.spec import ChainSpec, RunSpec
from muster.protocol.spec.history import SpecHistory
from muster.protocol.spec.layout import AEAD_TAG_BYTES, Layout, codec_of, layout_of
from muster.protocol.types import Beacon
from muster.protocol.wire import Header

SEED = 7
BEACON = bytes(range(32))
KEY = bytes(range(32, 64))


class Pins:
    """Bytes that cannot be made again: taken from the file where they still serve, made anew where they do not."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known
        self.used: dict[str, str] = {}

    def take(self, name: str, serves: Callable[[bytes], bool], make: Callable[[], bytes]) -> bytes:
        """The pinned bytes of this name."""
        data = bytes.fromhex(self._known.get(name, ""))
        if name in self.used:
            data = bytes.fromhex(self.used[name])
        elif not data or not serves(data):
            data = make()
        self.used[name] = data.hex()
        return data


class PinnedIdentity(Identity):
    """A hotkey that signs the same message with the same signature each time."""

    __slots__ = ("_pins",)

    def __init__(self, name: str, pins: Pins) -> None:
        super().__init__(blake3(b"muster/identity/v1" + SEED.to_bytes(8, "little") + name.encode()).digest())
        self._pins = pins

    def sign(self, message: bytes) -> bytes:
        """The pinned signature over `message`."""
        name = f"signature {blake3(self.public + message).hexdigest()}"
        fresh = super().sign
        return self._pins.take(name, lambda known: is_signature(self.public, message, known), lambda: fresh(message))


SPEC = """{"name": "vectors",
"model": {"family": "llama", "vocab": 80, "hidden": 72, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 36,
          "ffn": 24, "context": 8, "rope_theta": 1e4, "norm_eps": 1e-5, "tied": true, "init_std": 0.02},
"inner": {"optimizer": "adamw", "steps": 2, "batch": 3, "lr": 4e-3, "final_lr": 1e-3, "warmup": 4, "total": 40,
          "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0},
"sparse": {"codec": 1, "k": 64, "error_decay": 0.95},
"outer": {"rule": "sender_mean", "alpha": [[0, 1.0], [100, 0.65]], "scale_cap": 8.0, "norm_clip": true,
          "min_owners": 2},
"gauntlet": {"eval_windows": 4, "heldout_windows": 4, "step_scale": 0.2, "exact_peers": 20, "loss_tolerance": 0.1,
             "mu_rule": "t", "mu_decay": 0.05, "mu_fast": 0.2, "mu_floor": 0.1, "mu_full": 0.25,
             "mu_part": 0.6, "mu_settled": 20, "mu_warmup": 2,
             "rating": "mean", "work_decay": 0.05, "work_cold": 6, "rating_beta": 7.0, "rating_tau": 0.1,
             "tokens": true, "power": 1.0, "idle": "nothing", "clone_ratio": 3.0, "copy_ratio": 4.0, "mixer_ratio": 3.2,
             "seats": 2, "newcomer_share": 0.1, "lag": 1, "score_wait": 2},
"clock": {"min_blocks": 1, "deadline": 10, "reveal": 3, "grace": 2, "seal_age": 4, "evaluate": 5, "anchor": 5,
          "term": 4, "turn": 5, "touch": 60, "finality": 2, "silent": 60, "min_submissions": 1, "checkpoint_every": 4,
          "amend_delay": 2},
"data": {"tokenizer": "bytes", "window": 8, "slots": 4, "windows": 50, "heldout": 5}}"""
"""Matrices of this model have whole tiles, tiles clipped at each edge, and two bands."""


def run_spec(root: bytes, leader: Identity, owner: Identity, miners: Sequence[Identity]) -> RunSpec:
    """The spec of the run all vectors are of."""
    document = json.loads(SPEC)
    document["data"]["manifest"] = "ab" * 32
    document["genesis"] = {
        "seed": SEED,
        "chain": ChainSpec.of(ChainGenesis(seed=SEED).origin).model_dump(mode="json"),
        "block": 0,
        "root": root.hex(),
        "miners": [miner.hotkey for miner in miners],
        "leaders": [leader.hotkey],
        "owner": owner.hotkey,
    }
    return RunSpec.model_validate_json(json.dumps(document))


def accumulator(shapes: tuple[tuple[int, ...], ...], salt: int) -> list[Tensor]:
    """Exact fp32 values: (x − 32768)·2^−20, x = (40503·j + salt) mod 2^16, j counted through all tensors in order."""
    tensors, start = [], 0
    for shape in shapes:
        count = int(np.prod(shape))
        x = (40_503 * np.arange(start, start + count, dtype=np.int64) + salt) % 65_536
        tensors.append(torch.from_numpy(((x - 32_768) / 2**20).astype(np.float32)).reshape(shape))
        start += count
    return tensors


class Run:
    """The run all vectors are of: its spec, its people, θ_0 and its round 0."""

    def __init__(self, pins: Pins) -> None:
        self.pins = pins
        self.leader, self.owner = PinnedIdentity("leader", pins), PinnedIdentity("owner", pins)
        self.miners = [PinnedIdentity(name, pins) for name in ("alice", "bob", "carol")]
        model = run_spec(bytes(32), self.leader, self.owner, self.miners).model
        self.layout: Layout = layout_of(model)
        self.theta = genesis_parameters(model, SEED)
        root = state_root(self.theta, self.layout, GENESIS_RUN, 0)
        self.spec = run_spec(root, self.leader, self.owner, self.miners)
        self.run_id = self.spec.run_id()
        self.chain = ChainGenesis(seed=SEED)
        self.tip: Tip = genesis_tip(
            SpecHistory.of(self.spec), self.beacon("assign", 0, 0), self.beacon("possess", 0, 0)
        )
        self.updates = [compress(accumulator(self.layout.shapes, salt), codec_of(self.spec)) for salt in range(3)]

    def beacon(self, purpose: str, round_: int, block: int) -> Beacon:
        """A beacon of a local chain, with the block it is drawn at."""
        return Beacon(self.chain.block(block), self.chain.beacon(purpose, round_))

    def proof(self, public: bytes) -> bytes:
        """What a peer that holds θ_0 shows in round 0."""
        return possession(self.theta, self.layout, self.tip.opening.possess.value, public, 0)

    def held(self, beacon: bytes) -> bytes:
        """What such proofs are made of, by a beacon."""
        return held_digest(self.theta, self.layout, beacon)

    def payload(self, uid: int) -> bytes:
        """The pinned encoding of an update."""
        update = self.updates[uid]

        def serves(known: bytes) -> bool:
            try:
                return decode(known, update.codec).identical(update)
            except FrameError:
                return False

        return self.pins.take(f"payload {uid}", serves, lambda: encode(update))

    def key(self, uid: int) -> bytes:
        """The payload key of the miner in slot `uid`."""
        return blake3(KEY + bytes((uid,))).digest()

    def submission(self, uid: int) -> bytes:
        """Head and ciphertext of the miner in slot `uid`."""
        miner, key, windows = self.miners[uid], self.key(uid), 6
        ciphertext = wire.encrypt_frames(self.payload(uid), key, self.run_id, 0, miner.public)
        header = Header(
            run_id=self.run_id,
            public=miner.public,
            round=0,
            base_round=0,
            uid=uid,
            layout=self.layout.digest,
            possession=self.proof(miner.public),
            data_digest=data_digest(assigned(self.tip.opening.assign.value, uid, self.spec.data, windows)),
            windows=windows,
            tokens=windows * self.spec.data.window,
            payload_bytes=len(ciphertext) - AEAD_TAG_BYTES,
            ciphertext_digest=blake3(ciphertext).digest(),
            key_commitment=wire.key_commitment(key),
        )
        return wire.encode_submission(header, miner, ciphertext)
