"""Making and describing run specs, for `muster spec`."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from muster.history.walk import newest
from muster.node.compute import Compute
from muster.node.data.build import build_corpus
from muster.node.directory import Directory
from muster.node.wished import Wished
from muster.plan.memory import plan_of
from muster.plan.table import plan_object, table
from muster.protocol.chain.commitments import (
    CHEAP_LOCATION,
    SPARE_WRITES,
    CommitSpace,
    blocks_a_write,
    longest_location,
)
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import ChainError, ConfigError, LedgerError, StorageError
from muster.protocol.identity import hotkey_of, public_of
from muster.protocol.spec import ChainSpec, ClockSpec, RunSpec, Template, load_template
from muster.protocol.spec.history import Adopted
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.protocol.types import Origin, Role
from muster.run.backends import open_chain
from muster.run.fetch import is_url, open_run
from muster.run.file import RUN_FILE, RunFile
from muster.run.folder import RunDirectory
from muster.testnet.roster import fill_template

log = logging.getLogger(__name__)

DENSE_BITS = 32


@dataclass(frozen=True, slots=True)
class Standing:
    """The chain a new run is for: which it is, its newest block, what it takes of a hotkey's commitments, and where the
    buckets of those are who have committed one, by hotkey."""

    origin: Origin
    block: int
    space: CommitSpace | None
    locations: Mapping[str, str] = field(default_factory=dict)


async def find_standing(file: RunFile) -> Standing:
    """Ask the chain that a run file leads to.

    Raises:
        ChainError, ConfigError: it cannot be opened, or does not answer.
    """
    chain = open_chain(file, Path.cwd(), read_only=True)
    try:
        space, shown = await chain.commit_space(), await chain.snapshot()
        locations = {peer.hotkey: peer.location for peer in shown.peers if peer.location is not None}
        return Standing(await chain.origin(), shown.block.number, space, locations)
    finally:
        await chain.close()


def check_pace(
    clock: ClockSpec, space: CommitSpace | None, leaders: Sequence[str] = (), locations: Mapping[str, str] | None = None
) -> None:
    """Refuse rounds that may follow each other faster than the aggregators could anchor their records.

    Each of `leaders` (hotkeys) anchors once a round, its record or its vote; of whoever has committed a location in
    `locations`, with that; of anybody else it is what the shortest one allows.

    Raises:
        ConfigError: they may.
    """
    if space is None:
        return
    sizes = {leader: len(locations[leader].encode()) for leader in leaders if locations and leader in locations}
    limit = f"{space.bytes} bytes in {space.blocks} blocks, of which {SPARE_WRITES} write is kept to spare"
    for who, size in ((None, CHEAP_LOCATION), *sorted(sizes.items())):
        least = blocks_a_write(size, space)
        if clock.shortest >= least:
            continue
        whose, cure = f"each aggregator's anchor every {least} blocks", ""
        if who is not None:
            whose = f"an anchor of {who} every {least} blocks only"
            longest = longest_location(space, clock.shortest)
            cure = f"have it commit a location of at most {longest} bytes (docs/protocol.md, 9.1), or "
        raise ConfigError(
            f"a round may last {clock.shortest} blocks, but this chain takes {whose} ({limit}, with a location of "
            f"{size} bytes); {cure}set clock.min_blocks to at least {least - 1} in a template of your own"
        )


def new_spec(
    preset: str,
    out: Path,
    owner: str,
    leaders: tuple[str, ...],
    miners: tuple[str, ...],
    text: Sequence[Path] | None,
    seed: int,
    block: int | None = None,
    standing: Standing | None = None,
) -> str:
    """Write OUT/spec.json and OUT/data; returns a sentence with the run id.

    The run is for the chain `standing` (None: the local one of this seed, which publishing makes), and its round 0
    opens at `block` of it (None: at the newest).

    Raises:
        ConfigError, DataError, IdentityError, StorageError: something does not fit or cannot be written.
    """
    for hotkey in (owner, *leaders, *miners):
        public_of(hotkey)
    template = load_template(preset)
    standing = standing or Standing(ChainGenesis(seed=seed).origin, 0, None)
    check_pace(template.clock, standing.space, leaders, standing.locations)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise StorageError(f"{out} is not empty; name another directory or remove it")
        manifest = build_corpus(text, out / "data", template.data.window)
        spec = fill_template(
            template,
            manifest,
            seed=seed,
            chain=ChainSpec.of(standing.origin),
            block=standing.block if block is None else block,
            miners=miners,
            leaders=leaders,
            owner=owner,
        )
        (out / "spec.json").write_bytes(spec.canonical())
    except OSError as error:
        raise StorageError(f"cannot write {out}: {error.strerror}") from error
    return f"run {spec.run_id().hex()}\n{out / 'spec.json'}"


def find_template(what: str) -> Template:
    """A preset by name, a template by file, or the spec of a run by folder or URL.

    Raises:
        ConfigError: there is no such thing.
    """
    run = find_run(what)
    return load_template(what) if run is None else run.history.genesis


def find_run(what: str) -> RunDirectory | None:
    """A run by folder or URL; None where it is a template that is named.

    Raises:
        ConfigError: there is no such run.
    """
    if is_url(what) or (Path(what) / RUN_FILE).exists() or (Path(what).is_dir() and not what.endswith(".toml")):
        return asyncio.run(open_run(what))
    return None


@dataclass(frozen=True, slots=True)
class InForce:
    """The spec of a run's open round, and how it came to be; with no round it is what the run began with."""

    spec: RunSpec
    round: int | None = None
    adopted: Sequence[Adopted] = ()

    def to_json_object(self) -> dict[str, object]:
        """What `muster spec show` adds of a run."""
        return {
            "round": self.round,
            "amendments": None if self.round is None else [_told(each) for each in self.adopted],
        }


def _told(adopted: Adopted) -> dict[str, object]:
    """An amendment that stands in a record, for people."""
    one = adopted.amendment
    return {
        "number": one.number,
        "path": one.path,
        "value": json.loads(one.value),
        "round": one.round,
        "recorded_in": adopted.recorded_in,
        "signers": [hotkey_of(public) for public in sorted(one.signers)],
    }


async def find_in_force(run: RunDirectory, chain: str | None, allow: str) -> InForce:
    """Ask a run's ledger; where it is not to be had, that is said on stderr, and there is no round.

    Raises:
        ConfigError: a setting is not valid.
    """
    try:
        client, buckets = run.chain(chain, read_only=True), run.buckets(allow=allow)
        try:
            tip, _ = await newest(run.history, client, Directory(client, buckets, run.history.run_id))
        finally:
            await client.close()
            await buckets.close()
    except (ChainError, StorageError, LedgerError) as error:
        log.warning("this is the spec that the run began with: its ledger cannot be read: %s", error)
        return InForce(run.history.genesis)
    return InForce(tip.spec, tip.round, tip.history.adopted)


def describe(what: str, chain: str | None = None, allow: str = "", *, genesis: bool = False) -> str:
    """A preset, template or run with what follows from it, as JSON; of a run the spec in force, and what amended it.

    With `genesis` a run's ledger is not asked. `chain` and `allow` are the settings.

    Raises:
        ConfigError: there is no such thing.
    """
    run = find_run(what)
    in_force = None
    if run is not None:
        in_force = InForce(run.history.genesis) if genesis else asyncio.run(find_in_force(run, chain, allow))
    template = load_template(what) if in_force is None else in_force.spec
    layout = layout_of(template.model)
    codec = codec_of(template)
    derived = {
        "parameters": layout.parameters,
        "tensors": len(layout.names),
        "tiles": layout.grid.tiles,
        "kept_values": codec.count,
        "max_payload_bytes": max_payload_bytes(codec),
        "dense_bytes": layout.parameters * DENSE_BITS // 8,
        "layout_digest": layout.digest.hex(),
    }
    document: dict[str, Any] = {"spec": template.model_dump(mode="json"), "derived": derived}
    if run is not None and in_force is not None:
        document |= {"run_id": run.file.run_id, **in_force.to_json_object()}
    return json.dumps(document, indent=2)


def describe_memory(what: str, role: Role, gpus: int, wished: Wished, *, as_json: bool) -> str:
    """What a role holds in a run of a preset, template or run, when and where: a table, or a JSON object.

    `gpus` is how many GPUs the peer has (0: none); with one its products are of bf16 unless `wished` says otherwise.

    Raises:
        ConfigError: there is no such thing.
    """
    template = find_template(what)
    device = torch.device("cuda" if gpus else "cpu")
    bf16 = wished.precision == "bf16" or (gpus > 0 and wished.precision == "auto")
    compute = Compute(device, bf16, wished.compiled, wished.moments, wished.micro_batch, wished.recompute)
    plan = plan_of(template, role, compute, gpus=gpus)
    if as_json:
        return json.dumps(plan_object(plan))
    where = "on its CPU" if not plan.gpus else f"with {plan.gpus} GPU{'s' if plan.gpus > 1 else ''}"
    how = f"; {compute.said()}" if role is Role.MINER else ""
    parameters = f"{layout_of(template.model).parameters:,}"
    return table(plan, f"{template.name}: N = {parameters} parameters, a {role.value} {where}{how}")
