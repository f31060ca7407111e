"""A whole run on Bittensor's own runtime: anchors, weights and pay are on the chain, and the audit finds them there."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from local_chain import LocalChain, Subnet
from runs.run_builders import PATIENT, template, write_template

from muster.node.telemetry.events import Weights
from muster.node.telemetry.journal import read_journal
from muster.protocol import paths, wire
from muster.protocol.chain.base import Snapshot
from muster.protocol.chain.bittensor import BittensorChain
from muster.protocol.chain.bittensor.reading import read_commitments
from muster.protocol.chain.bittensor.runtime import Runtime
from muster.protocol.spec.layout import layout_of
from muster.protocol.types import Anchor
from muster.run.folder import RunDirectory
from muster.testnet.roster import Roster

RUN_SECONDS = 1_500
"""A block takes half a second of processor time; on a machine with a lot to do, ten times that."""

pytestmark = [pytest.mark.chain, pytest.mark.timeout(RUN_SECONDS + 600)]

ROUNDS = 4
SEED = 3
ROSTER = Roster.of(SEED, 2, 1, {})
OPERATOR = ROSTER.operators[0]
BLOCK_MS = 3_000
"""Between two blocks: enough for a few answers to everybody, and the run's own transactions make blocks too."""
PAY_TEMPO = 3
PAY_BLOCKS = 12
"""After the run the epochs are made shorter; in so many blocks several end."""


async def muster(*arguments: str) -> Mapping[str, Any]:
    """Run the command with `--json`, and return the object it prints last."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "muster", *arguments, "--json", stdout=PIPE, stderr=PIPE, env=plain
    )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            printed, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode == 0, complaints.decode()
    found: Mapping[str, Any] = json.loads(printed.splitlines()[-1])
    return found


@dataclass(frozen=True, slots=True)
class Seen:
    """What the chain shows of a run that has ended. `anchors` maps the block to the anchor that came with it."""

    anchors: Mapping[int, Anchor]
    weights: Mapping[int, int]
    paid: Snapshot


async def look(chain: LocalChain, run: RunDirectory) -> Seen:
    """Read the chain block by block, as somebody would who knows nothing but the subnet."""
    netuid = run.file.netuid
    assert netuid is not None
    client = BittensorChain(run.file.endpoints, netuid)
    runtime = Runtime(chain.url)
    await runtime.connect()
    try:
        anchors: dict[int, Anchor] = {}
        for number in range(run.history.genesis.genesis.block, await runtime.block_number() + 1):
            at = await runtime.block_hash(number)
            found = await runtime.query("Commitments", "CommitmentOf", [netuid, OPERATOR.hotkey], block_hash=at)
            committed, blocks = read_commitments([(OPERATOR.hotkey, found)])
            anchor = committed[OPERATOR.hotkey].anchor if committed else None
            if anchor is not None and blocks[OPERATOR.hotkey] == number:
                anchors[number] = anchor
        weights = await runtime.query("SubtensorModule", "Weights", [netuid, 0])
        await chain.sudo("AdminUtils", "sudo_set_tempo", netuid=netuid, tempo=PAY_TEMPO)
        await chain.mine(client, PAY_BLOCKS)
        return Seen(anchors, {int(uid): int(weight) for uid, weight in weights}, await client.snapshot())
    finally:
        await runtime.close()
        await client.close()


async def digests(run: RunDirectory) -> list[Anchor]:
    """What has to be anchored: every record in the leader's bucket."""
    genesis, buckets = run.history.genesis, run.buckets()
    try:
        store = buckets.bucket(f"dir:{OPERATOR.name}")
        run_id, tensors = run.history.run_id, len(layout_of(genesis.model).shapes)
        keys = [(await store.list(paths.records(run_id, round_)))[0].key for round_ in range(ROUNDS + 1)]
        found = [await store.get(key, max_bytes=wire.MAX_BODY_BYTES) for key in keys]
        records = [wire.decode_record(data, run_id, tensors) for data in found]
        return [Anchor(record.round, digest) for record, digest in records]
    finally:
        await buckets.close()


def published(run: RunDirectory) -> list[dict[int, int]]:
    """The weights that the validator says it has set, in order."""
    told = read_journal(run.journal(f"validator-{OPERATOR.name}")).noted
    return [dict(noted.event.weights) for noted in told if isinstance(noted.event, Weights)]


def transcript(summary: Mapping[str, Any], run: RunDirectory, seen: Seen) -> str:
    """What happened, for people."""
    names = {member.hotkey: member.name for member in ROSTER.members}
    head = f"subnet {run.file.netuid}, run {run.history.run_id.hex()[:16]}, {summary['wall_s']:.0f} s"
    anchors = [
        f"block {block:4d}: anchor of record {anchor.round}: {anchor.digest.hex()}"
        for block, anchor in seen.anchors.items()
    ]
    roots = [f"state root after round {round_}: {root}" for round_, root in enumerate(summary["state_roots"])]
    paid = [
        f"uid {peer.uid} {names[peer.hotkey]:10s} {peer.hotkey} permit={peer.permit} "
        f"weight={seen.weights.get(peer.uid, 0)} incentive={peer.incentive:.4f} emission={peer.emission}"
        for peer in seen.paid.peers
    ]
    return "\n".join(["", head, *anchors, *roots, *paid, ""])


async def test_a_testnet_runs_to_its_end_and_the_chain_has_all_of_it(subnet: Subnet, tmp_path: Path) -> None:
    made = template(
        # Steps large enough that the text one has trained on shows, and somebody's score is positive.
        inner={"steps": 24, "batch": 1, "total": 96, "warmup": 1, "lr": 2e-2, "final_lr": 2e-2},
        gauntlet={"eval_windows": 24, "step_scale": 1.0, "score_wait": 30},
        clock={"deadline": 60, "reveal": 30, "grace": 30, "anchor": 60, **PATIENT},
    )
    preset = write_template(made, tmp_path / "miniature.toml")
    folder = tmp_path / "run"
    async with subnet.chain.making_blocks(BLOCK_MS):
        summary = await muster(
            "testnet", "--chain", subnet.chain.url, "--preset", str(preset), "--miners", "2", "--rounds", str(ROUNDS),
            "--seed", str(SEED), "--dir", str(folder),
        )  # fmt: skip
        audited = await muster("audit", str(folder))
    run = await asyncio.to_thread(RunDirectory.open, str(folder))
    seen = await look(subnet.chain, run)
    sys.stdout.write(transcript(summary, run, seen))

    assert summary["roots_agree"]
    assert summary["rounds"] == ROUNDS
    assert {peer["accepted"] for peer in summary["peers"] if peer["submitted"]} == {ROUNDS}
    assert audited["state_roots"] == summary["state_roots"]
    assert list(seen.anchors.values()) == await digests(run)
    assert [peer.hotkey for peer in seen.paid.peers] == [member.hotkey for member in ROSTER.members]
    assert seen.weights
    assert seen.weights == published(run)[-1]
    total = sum(seen.weights.values())
    shares = [seen.weights.get(peer.uid, 0) / total for peer in seen.paid.peers]
    assert [peer.incentive for peer in seen.paid.peers] == pytest.approx(shares, abs=1e-3)
