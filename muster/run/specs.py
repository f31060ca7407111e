"""Making and describing run specs, for `muster spec`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from muster.node.compute import Compute
from muster.node.data.build import build_corpus
from muster.node.wished import Wished
from muster.plan.memory import plan_of
from muster.plan.table import plan_object, table
from muster.protocol.chain.commitments import CHEAP_LOCATION, CommitSpace, blocks_a_write
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.errors import ConfigError, StorageError
from muster.protocol.identity import public_of
from muster.protocol.spec import ChainSpec, ClockSpec, RunSpec, Template, load_template
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.protocol.types import Origin, Role
from muster.run.backends import open_chain
from muster.run.fetch import is_url, open_run
from muster.run.file import RUN_FILE, RunFile
from muster.run.folder import RunDirectory
from muster.testnet.roster import fill_template

DENSE_BITS = 32


@dataclass(frozen=True, slots=True)
class Standing:
    """The chain a new run is for: which it is, its newest block, and what it takes of a leader's anchors."""

    origin: Origin
    block: int
    space: CommitSpace | None


async def find_standing(file: RunFile) -> Standing:
    """Ask the chain that a run file leads to.

    Raises:
        ChainError, ConfigError: it cannot be opened, or does not answer.
    """
    chain = open_chain(file, Path.cwd(), read_only=True)
    try:
        return Standing(await chain.origin(), (await chain.head()).number, await chain.commit_space())
    finally:
        await chain.close()


def check_pace(clock: ClockSpec, space: CommitSpace | None) -> None:
    """Refuse rounds that may follow each other faster than any leader could anchor their records.

    Raises:
        ConfigError: they may.
    """
    if space is None:
        return
    least = blocks_a_write(CHEAP_LOCATION, space)
    if clock.shortest < least:
        raise ConfigError(
            f"a round may last {clock.shortest} blocks, but this chain takes a leader's anchor every {least} blocks "
            f"({space.bytes} bytes in {space.blocks} blocks, locations of up to {CHEAP_LOCATION} bytes); set "
            f"clock.min_blocks to at least {least - 1} in a template of your own"
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
    check_pace(template.clock, standing.space)
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
    if is_url(what):
        return asyncio.run(open_run(what)).history.genesis
    if (Path(what) / RUN_FILE).exists() or (Path(what).is_dir() and not what.endswith(".toml")):
        return RunDirectory.open(what).history.genesis
    return load_template(what)


def describe(what: str) -> str:
    """A preset, template or run with what follows from it, as JSON.

    Raises:
        ConfigError: there is no such thing.
    """
    template = find_template(what)
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
    if isinstance(template, RunSpec):
        document["run_id"] = template.run_id().hex()
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
