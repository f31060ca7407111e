"""Writes docs/vectors.json and quotes it in docs/protocol.md, so that the page can never say what the code does not.

    .venv/bin/python docs/make_vectors.py

Everything is a function of the constants below, but for what the file pins: signatures, because sr25519 randomises
them, and compressed payloads, because versions of zstd differ. Those are kept as long as they are right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zstandard
from blake3 import blake3
from torch import Tensor

from kernels import SCALES, Grid, SparseUpdate, aggregate_, compress, decode, encode, max_encoded_bytes, norm, quantise
from node.checkpoint import make_checkpoint
from node.genesis import genesis_parameters
from protocol import wire
from protocol.admission import KEY_MISSING
from protocol.assignment import assigned, data_digest, permute, share, unassigned
from protocol.bundle import Opened
from protocol.chain.rules import ChainGenesis
from protocol.history import SpecHistory
from protocol.identity import Identity
from protocol.identity import verify as is_signature
from protocol.layout import Layout, layout_of, parameter_shapes
from protocol.ledger import Tip, genesis_tip, prepare, verify
from protocol.roots import GENESIS_RUN, possession, state_root
from protocol.sampling import sample
from protocol.scores import PeerScores, ScoresBody, decode_scores, encode_scores
from protocol.selection import select
from protocol.spec import GauntletSpec, RunSpec
from protocol.wire import Beacon, Header, ScoreRow, ScoresUsed, Seal
from protocol.wire.submission import associated_data
from validator.aggregator.compose import Decision, compose
from validator.aggregator.intake import Head, Payload

DOCS = Path(__file__).parent
VECTORS = DOCS / "vectors.json"
PAGE = DOCS / "protocol.md"

SEED = 7
BEACON = bytes(range(32))
KEY = bytes(range(32, 64))
SHOWN = 200
"""Characters of a value that the page quotes; a longer one stands in the file only."""

Vectors = dict[str, dict[str, Any]]


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


def spec_document(leader: Identity, owner: Identity, miners: list[Identity]) -> dict[str, Any]:
    """A small spec whose matrices have whole tiles, tiles clipped at each edge, and two bands."""
    model = {
        "family": "llama", "vocab": 80, "hidden": 72, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 36,
        "ffn": 24, "context": 8, "rope_theta": 1e4, "norm_eps": 1e-5, "tied": True, "init_std": 0.02,
    }  # fmt: skip
    inner = {
        "optimizer": "adamw", "steps": 2, "batch": 3, "lr": 4e-3, "final_lr": 1e-3, "warmup": 4, "total": 40,
        "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip": 1.0,
    }  # fmt: skip
    gauntlet = {
        "eval_windows": 4, "heldout_windows": 4, "step_scale": 0.2, "mu_decay": 0.05, "mu_floor": 0.1,
        "mu_warmup": 10, "rating_beta": 7.0, "rating_tau": 0.1, "seats": 2, "newcomer_share": 0.1, "power": 2.0,
        "lag": 1, "score_wait": 2, "loss_tolerance": 1e-3,
    }  # fmt: skip
    clock = {
        "min_blocks": 1, "deadline": 10, "reveal": 3, "anchor": 5, "min_submissions": 1, "checkpoint_every": 4,
        "amend_delay": 2,
    }  # fmt: skip
    return {
        "name": "vectors",
        "model": model,
        "inner": inner,
        "sparse": {"codec": 1, "k": 64, "error_decay": 0.95},
        "outer": {"rule": "sender_mean", "alpha": [[0, 1.0], [100, 0.65]], "scale_cap": 8.0, "norm_clip": True},
        "gauntlet": gauntlet,
        "clock": clock,
        "data": {
            "tokenizer": "bytes", "window": 8, "slots": 4, "windows": 50, "heldout": 5, "manifest": "ab" * 32,
        },
        "genesis": {
            "seed": SEED, "block": 0, "root": "00" * 32, "miners": [miner.hotkey for miner in miners],
            "leaders": [leader.hotkey], "owner": owner.hotkey,
        },
    }  # fmt: skip


def accumulator(shapes: tuple[tuple[int, ...], ...], salt: int) -> list[Tensor]:
    """Tensors of exact fp32 values: entry j of all, in layout order, is (x − 32768)·2^−20, x = (40503·j + salt) mod 2^16."""
    tensors, start = [], 0
    for shape in shapes:
        count = int(np.prod(shape))
        x = (40_503 * np.arange(start, start + count, dtype=np.int64) + salt) % 65_536
        tensors.append(torch.from_numpy(((x - 32_768) / 2**20).astype(np.float32)).reshape(shape))
        start += count
    return tensors


def f32(values: Tensor | np.ndarray[Any, Any]) -> str:
    """The little-endian bytes of fp32 values, hexadecimal."""
    return np.asarray(values, dtype="<f4").tobytes().hex()


def tensors_digest(tensors: list[Tensor]) -> str:
    """BLAKE3 of the little-endian fp32 bytes of all tensors, one after the other."""
    return blake3(b"".join(np.asarray(t, dtype="<f4").tobytes() for t in tensors)).hexdigest()


class Run:
    """The run all vectors are of: its spec, its people, θ_0 and its round 0."""

    def __init__(self, pins: Pins) -> None:
        self.pins = pins
        self.leader, self.owner = PinnedIdentity("leader", pins), PinnedIdentity("owner", pins)
        self.miners = [PinnedIdentity(name, pins) for name in ("alice", "bob", "carol")]
        document = spec_document(self.leader, self.owner, list(self.miners))
        draft = RunSpec.model_validate_json(json.dumps(document))
        self.layout: Layout = layout_of(draft.model)
        self.theta = genesis_parameters(draft.model, SEED)
        document["genesis"]["root"] = state_root(self.theta, self.layout, GENESIS_RUN, 0).hex()
        self.spec = RunSpec.model_validate_json(json.dumps(document))
        self.run_id = self.spec.run_id()
        self.chain = ChainGenesis(seed=SEED)
        self.tip: Tip = genesis_tip(
            SpecHistory.of(self.spec), self.beacon("assign", 0, 0), self.beacon("possess", 0, 0)
        )
        self.updates = [
            compress(accumulator(self.layout.shapes, salt), self.spec.sparse.k, self.layout.grid) for salt in range(3)
        ]

    def beacon(self, purpose: str, round_: int, block: int) -> Beacon:
        """A beacon of a local chain, with the block it is drawn at."""
        return Beacon(self.chain.block(block), self.chain.beacon(purpose, round_))

    def proof(self, public: bytes) -> bytes:
        """What a peer that holds θ_0 shows in round 0."""
        return possession(self.theta, self.layout, self.tip.opening.possess.value, public, 0)

    def payload(self, uid: int) -> bytes:
        """The pinned encoding of an update."""
        update = self.updates[uid]

        def serves(known: bytes) -> bool:
            return decode(known, update.grid, update.k).identical(update)

        return self.pins.take(f"payload {uid}", serves, lambda: encode(update))

    def key(self, uid: int) -> bytes:
        """The payload key of the miner in slot `uid`."""
        return blake3(KEY + bytes((uid,))).digest()

    def submission(self, uid: int) -> bytes:
        """The submission object of the miner in slot `uid`."""
        miner, key, windows = self.miners[uid], self.key(uid), 6
        ciphertext = wire.encrypt(self.payload(uid), key, self.run_id, 0, miner.public)
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
            payload_bytes=len(ciphertext) - 16,
            ciphertext_digest=blake3(ciphertext).digest(),
            key_commitment=wire.key_commitment(key),
        )
        return wire.encode(header, miner, ciphertext)


def make_vectors(known: dict[str, str]) -> Vectors:
    """All vectors, with the pinned bytes that are known."""
    run = Run(Pins(known))
    vectors: Vectors = {
        "identity": {"seed": SEED, "name": "alice", "public": run.miners[0].public.hex(), "ss58": run.miners[0].hotkey},
        "spec": {"canonical": run.spec.canonical().decode(), "run_id": run.run_id.hex()},
        "layout": {"tensors": parameter_shapes(run.spec.model), "digest": run.layout.digest.hex()},
        "grid": _grid(),
        "sampling": {
            "beacon": BEACON.hex(),
            "label": "assigned",
            "of_1000": sample(BEACON, b"assigned", 1000, 8),
            "of_2^64": sample(BEACON, b"assigned", 2**64, 2),
        },
        "local_chain": {
            "seed": SEED,
            "hash_of_block_5": run.chain.block(5).hash.hex(),
            "beacon_assign_0": run.chain.beacon("assign", 0).hex(),
            "beacon_evaluate_3": run.chain.beacon("evaluate", 3).hex(),
        },
        "assignment": _assignment(run),
        "genesis": {
            "first_4_of_embedding": f32(run.theta[0].reshape(-1)[:4]),
            "first_4_of_down_proj": f32(
                run.theta[run.layout.names.index("model.layers.0.mlp.down_proj.weight")].reshape(-1)[:4]
            ),
            "theta_digest": tensors_digest(run.theta),
            "genesis_root": run.spec.genesis.root,
        },
        "roots": {
            "state_root_of_theta_0": state_root(run.theta, run.layout, run.run_id, 0).hex(),
            "possession_of_alice_in_round_0": run.proof(run.miners[0].public).hex(),
        },
        "quantiser": _quantiser(),
        "codec": _codec(run),
        "outer": _outer(run),
        "selection": _selection(run),
    }
    vectors |= _objects(run)
    vectors["checkpoint"] = _checkpoint(run)
    vectors["pinned"] = dict(sorted(run.pins.used.items()))
    result: Vectors = json.loads(json.dumps(vectors))
    return result


def _grid() -> dict[str, Any]:
    grid = Grid([(200, 4000), (4100,), (3, 50, 2), (), (64, 64)])
    return {
        "shapes": grid.shapes,
        "tensor_tiles": grid.tensor_tiles,
        "kept_at_64_of_last_8_tiles": grid.kept(64)[-8:].tolist(),
        "frames": grid.frames,
        "max_encoded_bytes_at_64": max_encoded_bytes(grid, 64),
    }


def _assignment(run: Run) -> dict[str, Any]:
    windows = assigned(BEACON, 2, run.spec.data, 6)
    return {
        "beacon": BEACON.hex(),
        "permute_10": [permute(BEACON, i, 10) for i in range(10)],
        "permute_10^9": [permute(BEACON, i, 10**9) for i in range(3)],
        "share": share(run.spec.data),
        "slot_2_first_6": windows,
        "unassigned_first_3": unassigned(BEACON, run.spec.data, range(3)),
        "data_digest": data_digest(windows).hex(),
    }


def _quantiser() -> dict[str, Any]:
    values = torch.tensor([[0.5, -0.25, 0.125, -1.0, 0.0, 3e-5, -0.75, 0.3]])
    codes, scales = quantise(values)
    return {
        "scale_table_digest": tensors_digest([SCALES]),
        "scale_bytes_1_200_242_243_255": f32(SCALES[[1, 200, 242, 243, 255]]),
        "values": f32(values),
        "scale_byte": int(scales[0]),
        "codes": codes[0].tolist(),
    }


def _codec(run: Run) -> dict[str, Any]:
    """One frame holds the whole small model, so the payload is one length, the gaps, the codes and the scales."""
    update = run.updates[0]
    payload = run.payload(0)
    packed = int.from_bytes(payload[:4], "little")
    return {
        "accumulator_digest": tensors_digest(accumulator(run.layout.shapes, 0)),
        "kept": run.layout.kept(update.k),
        "first_8_indices": update.indices[:8].tolist(),
        "first_8_codes": update.codes[:8].tolist(),
        "indices_digest": blake3(update.indices.numpy().astype("<i2").tobytes()).hexdigest(),
        "gap_bytes": zstandard.ZstdDecompressor().decompress(payload[4 : 4 + packed]).hex(),
        "code_bytes": payload[4 + packed : -run.layout.grid.tiles].hex(),
        "scale_bytes": payload[-run.layout.grid.tiles :].hex(),
        "payload_to_decode": payload.hex(),
        "dense_digest": tensors_digest(update.dense()),
    }


def _outer(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = {}
    spike = replace(run.updates[2], scales=(run.updates[2].scales.int() + 40).clamp(max=255).to(torch.uint8))
    updates: list[SparseUpdate] = [run.updates[0], run.updates[1], spike]
    found["scale_bytes_of_the_third"] = spike.scales.numpy().tobytes().hex()
    found["norm_of_embedding_of_the_first"] = norm(updates[0], 0).hex()
    for rule in ("sender_mean", "mean"):
        outer = run.spec.outer.model_copy(update={"rule": rule})
        capped, weights = prepare(updates, run.spec.model_copy(update={"outer": outer}))
        theta = [tensor.clone() for tensor in run.theta]
        aggregate_(theta, capped, weights, 0.65, outer.rule)
        found[f"{rule}_caps"] = f32(np.array(capped[0].scale_limit))
        found[f"{rule}_weights_of_embedding"] = f32(weights[:, 0])
        found[f"{rule}_root_at_step_1"] = state_root(theta, run.layout, run.run_id, 1).hex()
    return found


def _selection(run: Run) -> dict[str, Any]:
    peers = [blake3(bytes((i,))).digest() for i in range(6)]
    rows = [ScoreRow(peer, float(i), i < 4) for i, peer in enumerate(peers)]
    scores = [
        ScoresUsed(BEACON, 3, 0, bytes(32), tuple(sorted(rows, key=lambda row: row.public))),
        ScoresUsed(KEY, 2, 0, bytes(32), tuple(sorted((replace(r, score=9.0) for r in rows), key=lambda r: r.public))),
    ]
    changes = {"seats": 3, "newcomer_share": 0.34}
    gauntlet = GauntletSpec.model_validate(run.spec.gauntlet.model_dump() | changes)
    chosen = select(peers, scores, BEACON, gauntlet)
    return {
        **changes,
        "peers": [peer.hex() for peer in peers],
        "scores_stake_3": [row.score for row in rows],
        "scores_stake_2": [9.0] * 6,
        "positive": [row.positive for row in rows],
        "beacon": BEACON.hex(),
        "chosen_with_scores": [peers.index(peer) for peer in chosen],
        "chosen_without": [peers.index(peer) for peer in select(peers, [], BEACON, gauntlet)],
    }


def _objects(run: Run) -> Vectors:
    """Round 0: alice and bob are accepted, carol never shows her key."""
    heads, payloads = _taken_in(run)
    failures = {run.miners[2].public: KEY_MISSING}
    listed = tuple((public, wire.digest_of(heads[public].data)) for public in sorted(heads))
    seal = Seal(run.run_id, run.leader.public, 0, run.tip.parent, 0, run.chain.block(5), listed, ())
    seal_data = wire.encode_seal(seal, run.leader)
    sealed = wire.decode_seal(seal_data, run.run_id)
    amendment = wire.encode_amendment(run.owner, run.run_id, 4, "outer.alpha", "[[0,1],[50,0.8]]")
    decision = Decision(
        seal=seal,
        seal_digest=sealed[1],
        root=state_root(run.theta, run.layout, run.run_id, 0),
        scores=(),
        evaluate=run.beacon("evaluate", 0, 7),
        assign=run.beacon("assign", 1, 0),
        possess=run.beacon("possess", 1, 7),
        amendments=(amendment,),
    )
    record, bundle = compose(run.tip, decision, heads, payloads, failures)
    record_data = wire.encode_record(record, run.leader)
    read, digest = wire.decode_record(record_data, run.run_id, len(run.layout.shapes))
    applied = verify(run.tip, read, digest, sealed, bundle, decision.root, run.proof)
    theta = [tensor.clone() for tensor in run.theta]
    aggregate_(theta, applied.updates, applied.weights, run.spec.outer.alpha_at(0), run.spec.outer.rule)
    submission = run.submission(0)
    return {
        "submission": _object(submission, heads[run.miners[0].public].data)
        | {
            "payload_key": run.key(0).hex(),
            "associated_data": associated_data(run.run_id, 0, run.miners[0].public).hex(),
        },
        "key": _object(wire.encode_key(run.miners[0], run.run_id, 0, run.key(0))),
        "seal": _object(seal_data),
        "amendment": _object(amendment),
        "record": _object(record_data)
        | {
            "bundle": bundle.hex(),
            "bundle_digest": record.bundle.hex(),
            "root_after": state_root(theta, run.layout, run.run_id, 1).hex(),
        },
        "scores": _scores(run, digest),
    }


def _taken_in(run: Run) -> tuple[dict[bytes, Head], dict[bytes, Payload]]:
    heads, payloads = {}, {}
    for uid in range(3):
        signed, ciphertext = wire.decode(run.submission(uid), run.run_id)
        public = signed.header.public
        heads[public] = Head(public, signed.head, "", signed)
        if uid < 2:
            payloads[public] = Payload(Opened(signed, run.key(uid), ciphertext), run.updates[uid])
    return heads, payloads


def _object(data: bytes, head: bytes | None = None) -> dict[str, Any]:
    return {"object": data.hex(), "digest": wire.digest_of(head or data).hex()}


def _scores(run: Run, record: bytes) -> dict[str, Any]:
    peer = PeerScores(
        hotkey=run.miners[0].hotkey,
        uid=0,
        assigned=(2.5, 2.25),
        unassigned=(2.5, 2.375),
        mu=0.05,
        rating=(25.0, 8.125),
        positive=True,
        peer_score=0.03125,
        incentive=1.0,
    )
    body = ScoresBody(round=0, record=record.hex(), heldout=4.5, peers=(peer,))
    data = encode_scores(body, run.leader, run.run_id)
    _, digest = decode_scores(data, run.run_id, run.leader.hotkey, 0)
    return {"file": data.decode(), "digest": digest.hex()}


def _checkpoint(run: Run) -> dict[str, Any]:
    made = make_checkpoint(run.theta, run.layout, run.run_id, 4, 0, state_root(run.theta, run.layout, run.run_id, 0))
    ((name, data),) = made.shards.items()
    header = int.from_bytes(data[:8], "little")
    return {
        "shard": name,
        "shard_header": data[8 : 8 + header].decode(),
        "shard_digest": blake3(data).hexdigest(),
        "manifest": made.manifest.decode(),
        "manifest_digest": made.digest.hex(),
    }


def pinned() -> dict[str, str]:
    """What the file pins, nothing where there is no file."""
    if not VECTORS.exists():
        return {}
    known: dict[str, str] = json.loads(VECTORS.read_text(encoding="utf-8"))["pinned"]
    return known


def to_text(vectors: Vectors) -> str:
    """The text of vectors.json: JSON with one value a line."""
    sections = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in section.items())
        + "\n }"
        for name, section in vectors.items()
    ]
    return "{\n" + ",\n".join(sections) + "\n}\n"


def quoted(page: str, vectors: Vectors) -> str:
    """The page with each block between `<!-- vectors: NAME -->` and `<!-- end -->` written from the vectors."""

    def block(match: re.Match[str]) -> str:
        lines = "\n".join(_lines(vectors[match["name"]]))
        return f"<!-- vectors: {match['name']} -->\n```\n{lines}\n```\n<!-- end -->"

    return re.sub(r"<!-- vectors: (?P<name>\w+) -->.*?<!-- end -->", block, page, flags=re.DOTALL)


def _lines(section: dict[str, Any]) -> Iterator[str]:
    for name, value in section.items():
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"{name} = {text if len(text) <= SHOWN else f'{text[:64]}… ({len(text)} characters)'}"


def main() -> None:
    """Write both files."""
    vectors = make_vectors(pinned())
    VECTORS.write_text(to_text(vectors), encoding="utf-8")
    PAGE.write_text(quoted(PAGE.read_text(encoding="utf-8"), vectors), encoding="utf-8")


if __name__ == "__main__":
    main()
