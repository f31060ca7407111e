"""Writes tests/vectors/ and quotes them in docs/protocol.md, so that the page can never say what the code does not.

    .venv/bin/python docs/make_vectors.py

Everything is a function of `example_run`, but for what is pinned: signatures, because sr25519 randomises them, and
compressed payloads, because versions of zstd differ. Those are kept as long as they are right.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import incentive_vectors
import numpy as np
import page_blocks
import refused
import torch
import vector_files
import zstandard
from amendment_vectors import cosigned, majority
from blake3 import blake3
from example_run import BEACON, KEY, SEED, Pins, Run, accumulator
from outer_vectors import f32, outer_vectors
from torch import Tensor
from vector_files import Document

from muster.kernels import SCALES, Codec, Grid, aggregate_, max_encoded_bytes, quantise
from muster.node.replica import Replica
from muster.protocol import wire
from muster.protocol.chain.commitments import CHEAP_LOCATION, Commitment, CommitSpace, blocks_a_write
from muster.protocol.chain.commitments import encode as encode_commitment
from muster.protocol.incentive.own_data import Control, Errors
from muster.protocol.incentive.score import Failed, Finding
from muster.protocol.incentive.sheet import judge_round, rows_of
from muster.protocol.ledger import open_bundle, prepare, tip_info, verify
from muster.protocol.ledger.bundle import Opened, write_bundle
from muster.protocol.ledger.roots import state_root
from muster.protocol.reasons import KEY_MISSING
from muster.protocol.rules.admission import admit
from muster.protocol.rules.assignment import assigned, data_digest, permute, share, unassigned
from muster.protocol.rules.attendance import Attendance
from muster.protocol.rules.sampling import sample
from muster.protocol.rules.selection import order, seat
from muster.protocol.spec import GauntletSpec
from muster.protocol.spec.layout import parameter_shapes
from muster.protocol.storage.pointer import committed_text
from muster.protocol.types import Anchor
from muster.protocol.wire import Hello, ScoreFile, ScoresUsed, Seal, UsedScore
from muster.protocol.wire.manifest import manifest_digest
from muster.protocol.wire.submission import associated_data
from muster.validator.aggregator.compose import Decision, Work, compose
from muster.validator.aggregator.intake import Head, Payload
from muster.validator.gauntlet.evaluation import LossPair, Measured

DOWN_PROJ = 9
"""Tensor id of `model.layers.0.mlp.down_proj.weight`, whose genesis depends on the depth."""
ACCEPTED_BEFORE, FAILED_BEFORE, COPIED = (0, 4), (3, 5), 4
"""What the record before says of the selection vector's peers: whose work was good, whose payload was not."""

Vectors = dict[str, dict[str, Any]]


def tensors_digest(tensors: list[Tensor]) -> str:
    """BLAKE3 of the little-endian fp32 bytes of all tensors, one after the other."""
    return blake3(b"".join(np.asarray(t, dtype="<f4").tobytes() for t in tensors)).hexdigest()


def make_all(known: dict[str, str]) -> tuple[Vectors, dict[str, Document], dict[str, str]]:
    """The sections that the page quotes, all files by name, and the pinned bytes they were made with."""
    run = Run(Pins(known))
    sections: Vectors = json.loads(json.dumps(make_vectors(run)))
    files = vector_files.documents(sections) | refused.documents(run)
    return sections, json.loads(json.dumps(files)), run.pins.used


def make_vectors(run: Run) -> Vectors:
    """What an implementation must come to, by section."""
    vectors: Vectors = {
        "identity": {"seed": SEED, "name": "alice", "public": run.miners[0].public.hex(), "ss58": run.miners[0].hotkey},
        "spec": {"canonical": run.spec.canonical().decode(), "run_id": run.run_id.hex()},
        "layout": {
            "model": run.spec.model.model_dump(mode="json"),
            "tensors": parameter_shapes(run.spec.model),
            "digest": run.layout.digest.hex(),
        },
        "grid": _grid(),
        "sampling": _sampling(1000, 8),
        "sampling_large": _sampling(2**64, 2),
        "local_chain": {
            "seed": SEED,
            "hash_of_block_5": run.chain.block(5).hash.hex(),
            "beacon_assign_0": run.chain.beacon("assign", 0).hex(),
            "beacon_evaluate_3": run.chain.beacon("evaluate", 3).hex(),
        },
        "commitment": _commitment(),
        "majority": majority(),
        "assignment": _assignment(run),
        "genesis": {
            "seed": SEED,
            "first_4_of_embedding": f32(run.theta[0].reshape(-1)[:4]),
            "first_4_of_down_proj": f32(run.theta[DOWN_PROJ].reshape(-1)[:4]),
            "theta_digest": tensors_digest(run.theta),
            "genesis_root": run.spec.genesis.root,
        },
        "roots": {
            "run_id": run.run_id.hex(),
            "outer_step": 0,
            "beacon": run.tip.opening.possess.value.hex(),
            "hotkey": run.miners[0].public.hex(),
            "round": 0,
            "state_root_of_theta_0": state_root(run.theta, run.layout, run.run_id, 0).hex(),
            "possession_of_alice_in_round_0": run.proof(run.miners[0].public).hex(),
        },
        "quantiser": _quantiser(),
        "codec": _codec(run),
        "outer": outer_vectors(run),
        "selection": _selection(run),
        "incentive": incentive_vectors.section(incentive_vectors.SHORT),
        "incentive_gauntlet": incentive_vectors.section(incentive_vectors.GAUNTLETS),
    }
    vectors |= _objects(run)
    vectors["checkpoint"] = _checkpoint(run)
    return vectors


def _sampling(population: int, count: int) -> dict[str, Any]:
    drawn = sample(BEACON, b"assigned", population, count)
    return {"beacon": BEACON.hex(), "label": "assigned", "population": population, "count": count, "sample": drawn}


def _commitment() -> dict[str, Any]:
    location, anchor = "https://alice.example/muster", Anchor(258, BEACON)
    plain, sealed = (encode_commitment(Commitment(location, each)) for each in (anchor, replace(anchor, seal=KEY)))
    long, bootstrap = f"s3://READ:{'S' * 64}@alice.example/muster?region=eu-west-1", "s3://alice.example/muster"
    return {
        "location": location,
        "long_location": long,
        "bootstrap": bootstrap,
        "pointer": committed_text(long, bootstrap),
        "round": anchor.round,
        "digest": BEACON.hex(),
        "seal": KEY.hex(),
        "fields": [field.hex() for field in plain],
        "fields_with_the_seal": [field.hex() for field in sealed],
        "blocks_a_write_of_59_bytes_at_3100_in_360": blocks_a_write(CHEAP_LOCATION, CommitSpace(3100, 360)),
    }


def _grid() -> dict[str, Any]:
    grid = Grid([(200, 4000), (4100,), (3, 50, 2), (), (64, 64)])
    return {
        "shapes": grid.shapes,
        "tensor_tiles": grid.tensor_tiles,
        "kept_at_64_of_last_8_tiles": grid.kept(64)[-8:].tolist(),
        "frames": grid.frames,
        "max_encoded_bytes_at_64": max_encoded_bytes(Codec(grid, 64)),
    }


def _assignment(run: Run) -> dict[str, Any]:
    windows = assigned(BEACON, 2, run.spec.data, 6)
    return {
        "beacon": BEACON.hex(),
        "windows": run.spec.data.windows,
        "slots": run.spec.data.slots,
        "slot": 2,
        "count": 6,
        "permute_10": [permute(BEACON, i, 10) for i in range(10)],
        "permute_10^9": [permute(BEACON, i, 10**9) for i in range(3)],
        "share": share(run.spec.data),
        "of_the_slot": windows,
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
        "scale_bytes_low_high": scales[0].tolist(),
        "codes": codes[0].tolist(),
    }


def _codec(run: Run) -> dict[str, Any]:
    """One frame holds the whole small model, so the payload is one length, one zstd frame and the codes."""
    update = run.updates[0]
    payload = run.payload(0)
    codes = 4 + int.from_bytes(payload[:4], "little")
    content = zstandard.ZstdDecompressor().decompress(payload[4:codes])
    scales = 2 * run.layout.grid.tiles
    return {
        "shapes": run.layout.shapes,
        "k": update.k,
        "accumulator_digest": tensors_digest(accumulator(run.layout.shapes, 0)),
        "kept": update.codec.count,
        "first_8_indices": update.indices[:8].tolist(),
        "first_8_codes": update.codes[:8].tolist(),
        "indices_digest": blake3(update.indices.numpy().astype("<i2").tobytes()).hexdigest(),
        "scale_bytes_low_high": update.scales.numpy().tobytes().hex(),
        "scales_as_written": content[:scales].hex(),
        "gap_bytes": content[scales:].hex(),
        "code_bytes": payload[codes:].hex(),
        "payload_to_decode": payload.hex(),
        "dense_digest": tensors_digest(update.dense()),
    }


def _selection(run: Run) -> dict[str, Any]:
    peers = [blake3(bytes((i,))).digest() for i in range(6)]
    rows = [UsedScore(peer, float(i), i < 4, i == COPIED) for i, peer in enumerate(peers)]
    scores = [
        ScoresUsed(BEACON, 3, 0, bytes(32), tuple(sorted(rows, key=lambda row: row.public))),
        ScoresUsed(KEY, 2, 0, bytes(32), tuple(sorted((replace(r, score=9.0) for r in rows), key=lambda r: r.public))),
    ]
    changes = {"seats": 3, "newcomer_share": 0.34}
    gauntlet = GauntletSpec.model_validate(run.spec.gauntlet.model_dump() | changes)
    accepted, failed = (frozenset(peers[i] for i in chosen) for chosen in (ACCEPTED_BEFORE, FAILED_BEFORE))
    past = (Attendance(accepted, frozenset(peers), failed),)
    ranked = order(peers, scores, past, BEACON, gauntlet)
    return {
        **changes,
        "peers": [peer.hex() for peer in peers],
        "scores_stake_3": [row.score for row in rows],
        "scores_stake_2": [9.0] * 6,
        "positive": [row.positive for row in rows],
        "copiers": [row.copier for row in rows],
        "accepted_before": ACCEPTED_BEFORE,
        "failed_before": FAILED_BEFORE,
        "beacon": BEACON.hex(),
        "order_with_scores": [peers.index(peer) for peer in ranked],
        "order_without": [peers.index(peer) for peer in order(peers, [], past, BEACON, gauntlet)],
        "seated_if_the_first_fails": [peers.index(peer) for peer in seat(ranked, ranked[:1], gauntlet.seats)],
    }


def _objects(run: Run) -> Vectors:
    """Round 0: alice and bob are accepted, carol never shows her key."""
    heads = _heads(run)
    failures = {run.miners[2].public: KEY_MISSING}
    listed = tuple((public, wire.head_digest(heads[public].data)) for public in sorted(heads))
    seal = Seal(run.run_id, run.leader.public, 0, run.tip.parent, 0, run.chain.block(5), listed)
    seal_data = wire.encode_seal(seal, run.leader)
    sealed = wire.decode_seal(seal_data, run.run_id)
    amendment = wire.encode_amendment(run.owner, run.run_id, 1, 4, "outer.alpha", "[[0,1],[50,0.8]]")
    decision = Decision(
        seal=seal,
        seal_digest=sealed[1],
        root=state_root(run.theta, run.layout, run.run_id, 0),
        scores=(),
        assign=run.beacon("assign", 1, 0),
        possess=run.beacon("possess", 1, 7),
        amendments=(amendment,),
    )
    payloads = _payloads(run, sealed[1])
    choice = run.tip.choose({peer: failures.get(peer, "") for peer in heads}, ())
    taken = [payloads[peer] for peer in choice.accepted]
    windows = [payload.opened.signed.header.windows for payload in taken]
    weighed = prepare([payload.update for payload in taken], windows, run.spec)
    bundle = write_bundle(payload.opened for payload in taken)
    work = Work(choice, weighed, blake3(bundle).digest(), len(bundle))
    record = compose(run.tip, decision, {peer: head.data for peer, head in heads.items()}, work)
    record_data = wire.encode_record(record, run.leader)
    read, digest = wire.decode_record(record_data, run.run_id, len(run.layout.shapes))
    judge = partial(admit, run.tip.facts(run.proof))
    applied = verify(run.tip, read, digest, sealed, decision.root, judge, open_bundle(run.tip, read, bundle), run.held)
    theta = [tensor.clone() for tensor in run.theta]
    aggregate_(theta, applied.updates, applied.weights, run.spec.outer.alpha_at(0), run.spec.outer.rule)
    alice = run.miners[0].public
    scores = _scores(run, digest)
    return {
        "head": _object(heads[alice].data),
        "payload": {
            "payload_key": run.key(0).hex(),
            "associated_data": associated_data(run.run_id, 0, alice).hex(),
            "object": bytes(payloads[alice].opened.ciphertext).hex(),
        },
        "key": _object(payloads[alice].opened.key),
        "seal": _object(seal_data),
        "amendment": _object(amendment),
        "cosigned": _object(cosigned(run)),
        "proof": _object(_proof(run, bytes.fromhex(scores["digest"]))),
        "equivocation": _object(_equivocation(run, seal)),
        "hello": _object(wire.encode_hello(_hello(run), run.miners[0])),
        "record": _object(record_data)
        | {
            "bundle": bundle.hex(),
            "bundle_digest": record.bundle.hex(),
            "root_after": state_root(theta, run.layout, run.run_id, 1).hex(),
        },
        "scores": scores,
    }


def _proof(run: Run, file: bytes) -> bytes:
    """Bob's dispute of the score file with this digest, for Alice."""
    alice, bob = run.miners[:2]
    return wire.encode_dispute(
        bob, run.run_id, 0, run.leader.public, file, alice.public, "0.5, and 0.25 measured again"
    )


def _equivocation(run: Run, seal: Seal) -> bytes:
    """Bob's proof that the leader has sealed this round a second time, a block later."""
    seals = (wire.encode_seal(replace(seal, block=run.chain.block(number)), run.leader) for number in (5, 6))
    return wire.encode_equivocation(run.miners[1], run.run_id, *seals)


def _hello(run: Run) -> Hello:
    """Alice's: she mines, and whoever has no S3 client can read her bucket by HTTP."""
    return Hello(
        run_id=run.run_id,
        public=run.miners[0].public,
        round=0,
        software="muster 1.0.0",
        formats=(2,),
        codecs=(1,),
        runs=(run.run_id,),
        prefixes=wire.PREFIXES,
        roles=("miner",),
        url="https://alice.example/muster",
    )


def _heads(run: Run) -> dict[bytes, Head]:
    """Everybody's head."""
    signed = [wire.decode_submission(run.submission(uid), run.run_id)[0] for uid in range(3)]
    return {one.header.public: Head(one.header.public, one.head, "", one) for one in signed}


def _payloads(run: Run, seal: bytes) -> dict[bytes, Payload]:
    """What alice and bob have shown once the seal with this digest is there."""
    found = {}
    for uid in range(2):
        miner = run.miners[uid]
        signed, ciphertext = wire.decode_submission(run.submission(uid), run.run_id)
        key = wire.encode_key(miner, run.run_id, 0, run.key(uid), seal)
        found[miner.public] = Payload(Opened(signed, key, ciphertext), run.updates[uid])
    return found


def _object(data: bytes) -> dict[str, Any]:
    return {"object": data.hex(), "digest": wire.digest_of(data).hex()}


def _scores(run: Run, record: bytes) -> dict[str, Any]:
    """Two rows: of one miner that was measured for the first time, and of one that failed before it ever was."""
    good, bad = run.miners[:2]
    measured = Measured(
        LossPair(2.5, 2.25), LossPair(2.5, 2.375), Control(0.125, 0.25), Errors(0.0625, 0.03125), Errors(0.0625, 0.0)
    )
    full = run.spec.inner.steps * run.spec.inner.batch
    findings = {
        good.hotkey: Finding(measured.outcome(), windows=full, accepted=True),
        bad.hotkey: Finding(Failed("key_missing")),
    }
    judged = judge_round({}, findings, run.spec)
    uids = {good.hotkey: 0, bad.hotkey: 1}
    rows = rows_of(judged, findings, {good.hotkey: {**measured.columns(), "drawn": True}}, uids, 1.0)
    return _object(wire.encode_scores(ScoreFile(run.run_id, run.leader.public, 0, record, 4.5, rows), run.leader))


def _checkpoint(run: Run) -> dict[str, Any]:
    replica = Replica(run.spec.model, run.run_id, run.theta, 0)
    (shard,) = replica.shards()
    data = replica.shard(shard)
    manifest = replica.manifest(4, tip_info(run.tip), [shard.info(data)])
    header = int.from_bytes(data[:8], "little")
    return {
        "shard": shard.name,
        "shard_header": data[8 : 8 + header].decode(),
        "shard_digest": blake3(data).hexdigest(),
        "manifest": manifest.decode(),
        "manifest_digest": manifest_digest(manifest).hex(),
    }


def main() -> None:
    """Write the files and the page."""
    sections, files, used = make_all(vector_files.read_pinned())
    vector_files.write(files, used)
    page_blocks.PAGE.write_text(
        page_blocks.quoted(page_blocks.PAGE.read_text(encoding="utf-8"), sections), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
