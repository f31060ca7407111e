"""The judgements: facts in, a finding out, no I/O. Each says what is wrong with its number, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from muster.doctor.facts import (
    BucketFacts,
    ChainFacts,
    ClockFacts,
    GpuFacts,
    KeyFacts,
    LeaderFacts,
    MemberFacts,
    RunFacts,
    SoftwareFacts,
    SpaceFacts,
    SpeedFacts,
    TextFacts,
    TransferFacts,
)
from muster.doctor.finding import MACHINE_STATUS, Finding
from muster.doctor.fit import Fit
from muster.doctor.needs import Needs
from muster.node.wished import Device
from muster.plan.memory import Place, Plan
from muster.plan.table import size
from muster.protocol.chain.commitments import (
    CHEAP_LOCATION,
    SPARE_WRITES,
    CommitSpace,
    blocks_a_write,
    longest_location,
)
from muster.protocol.errors import ChainError, ConfigError, NotRegistered, StorageError
from muster.protocol.spec import ChainSpec, ClockSpec, RunSpec
from muster.protocol.storage.pointer import Pointer, committed_text
from muster.protocol.storage.s3_location import is_network_location, parse_location
from muster.protocol.types import Role

CLOCK_WARN_SECONDS = 30.0
CLOCK_FAIL_SECONDS = 900.0
"""An S3 service refuses requests signed more than 15 minutes away from its own time."""

OTHERS_MAY = 0o077
"""Permission bits of a secret's file that nobody but its owner should have."""

RAO = 1_000_000_000
"""Smallest units of stake in one token, on Bittensor and on the local chains."""


def judge_gpu(facts: GpuFacts, software: SoftwareFacts, wished: Device) -> Finding:
    """Whether there is a GPU that torch can compute with, and whether one is asked for."""
    name, card = "gpu", facts.machine.card
    if card is None and wished == "cuda":
        text = f"device is cuda, but this machine has no GPU that works: {facts.machine.problem}"
        fix = f"{facts.machine.cure}, or set device to cpu"
        return Finding.fail(name, text, fix, ConfigError.exit_status)
    if card is None and facts.driver and wished == "auto":
        text = f"there is an NVIDIA driver {facts.driver}, but its GPU cannot be used: {facts.machine.problem}"
        return Finding.warn(name, text, f"{facts.machine.cure}; until then this machine computes on its CPU")
    if card is None:
        return Finding.ok(name, "no GPU: this machine computes on its CPU")
    capability = ".".join(map(str, card.capability))
    text = (
        f"{facts.count} × {card.name}, {size(card.memory)}, compute capability {capability}, driver "
        f"{facts.driver or 'unknown'}, CUDA {facts.torch_cuda}"
    )
    if facts.count > 1:
        text += "; the first one is used"
    if software.triton_problem:
        return Finding.warn(name, f"{text}; Triton does not work: {software.triton_problem}", "pip install triton")
    return Finding.ok(name, text)


def judge_speed(facts: SpeedFacts, spec: RunSpec, block_seconds: float | None) -> Finding:
    """Whether a miner's round of inner steps ends before its submission is due."""
    name, inner = "speed", spec.inner
    seconds = facts.step_seconds * inner.steps
    about = f"{'estimated' if facts.estimated else 'measured'}, {'bf16' if facts.bf16 else 'fp32'} products"
    where = "the CPU" if facts.device == "CPU" else facts.device
    text = f"{_time(facts.step_seconds)} an inner step on {where} ({about}), {_time(seconds)} a round of {inner.steps}"
    if block_seconds is None:
        return Finding.ok(name, f"{text}; how long a round lasts is not known while the chain does not answer")
    deadline = spec.clock.deadline * block_seconds
    if seconds > deadline:
        text = f"{text}, but a round is sealed after {_time(deadline)} at the latest"
        if facts.estimated and facts.device != "CPU":  # how far a GPU gets with this model, one product does not say
            return Finding.warn(name, text, "try a round; if the miner's log says that it is late, take a faster GPU")
        return Finding.fail(name, text, "mine on a faster machine; this one would miss every round", MACHINE_STATUS)
    return Finding.ok(name, f"{text}, sealed after {_time(deadline)} at the latest")


def judge_memory(facts: SpaceFacts, fit: Fit, role: Role) -> Finding:
    """Whether the role fits this machine's memory and its GPU's, computing as set; else how it would."""
    name, plan = "memory", fit.plan
    text = f"a {role.value} of this run needs about {size(plan.host)} at its most ({plan.peak(Place.HOST)[1].value})"
    needed, short = text, facts.memory_bytes < plan.host
    text = f"{text}; this machine has {'only ' if short else ''}{size(facts.memory_bytes)}"
    if plan.gpus:
        card = "only " if fit.card < plan.gpu else ""
        phase = plan.peak(Place.GPU)[1].value
        text = f"{text}; of the GPU's memory {size(plan.gpu)} ({phase}), it has {card}{size(fit.card)}"
        short = short or fit.card < plan.gpu
    if short and fit.by_itself:
        return Finding.ok(name, f"{text}; the miner will make do by itself: {fit.by_itself}")
    if short and fit.way:
        return Finding.fail(name, text, f"set {fit.way}; that fits", MACHINE_STATUS)
    if short:
        least = fit.least or plan
        what = f"at least {size(least.host)}" + (f", and a GPU with {size(least.gpu)}" if plan.gpus else "")
        sparing = " and the most sparing settings" if fit.least else ""
        return Finding.fail(name, text, f"use a machine (or a container limit) with {what}{sparing}", MACHINE_STATUS)
    text = f"{text}, {size(facts.memory_available)} of it free" if not plan.gpus else text
    if facts.memory_available < plan.host:
        text = text if not plan.gpus else f"{needed}; {size(facts.memory_available)} of this machine's memory are free"
        return Finding.warn(name, text, "end what else uses memory, unless it is this very participant")
    return Finding.ok(name, text)


def judge_disk(facts: SpaceFacts, plan: Plan, role: Role) -> Finding:
    """Whether what the role keeps fits the disk of its state folder."""
    text = (
        f"a {role.value} of this run needs about {size(plan.disk)} in {facts.disk_folder}, "
        f"{size(facts.disk_available)} are free"
    )
    if facts.disk_available < plan.disk:
        fix = "free some space, or name a folder on a larger disk with the setting state"
        return Finding.fail("disk", text, fix, MACHINE_STATUS)
    if facts.disk_available < 2 * plan.disk:
        return Finding.warn("disk", text, "free some space before the run has filled it")
    return Finding.ok("disk", text)


def judge_clock(facts: ClockFacts) -> Finding:
    """Whether this machine's time is near another's."""
    apart = abs(facts.ahead_seconds)
    side = "ahead of" if facts.ahead_seconds > 0 else "behind"
    text = f"this machine's clock is {_time(apart)} {side} that of {facts.source}"
    fix = "set the clock and keep it set, with systemd-timesyncd, chrony or ntpd"
    if apart >= CLOCK_FAIL_SECONDS:
        limit = _time(CLOCK_FAIL_SECONDS)
        return Finding.fail("clock", f"{text}; S3 services refuse requests from {limit} on", fix, MACHINE_STATUS)
    if apart >= CLOCK_WARN_SECONDS:
        return Finding.warn("clock", text, fix)
    return Finding.ok("clock", text)


def judge_bucket(facts: BucketFacts) -> Finding:
    """Whether the owner can write, everybody can read, and only the owner can write."""
    name, shown, failed = "bucket", shown_location(facts.location), StorageError.exit_status
    if facts.write:
        fix = "set MUSTER_S3_ACCESS_KEY and MUSTER_S3_SECRET_KEY to keys that may write the bucket of the location"
        if facts.shared_folder:
            fix = "let this user write the run's folder of buckets, or correct the setting location"
        return Finding.fail(name, f"{shown} cannot be written: {facts.write}", fix, failed)
    if facts.read:
        fix = "set the location that muster bucket create printed, whole; muster bucket check says what others may do"
        text = f"what was written to {shown} cannot be read as others would: {facts.read}"
        return Finding.fail(name, text, fix, failed)
    if facts.shared_folder:
        return Finding.ok(name, f"{shown} is a folder of this machine that this user may write")
    if not facts.public_write_refused:
        text = f"whoever reads the location of {shown} on chain can write the bucket"
        fix = "take the right to write from the location's credential (or from the public): muster bucket rotate"
        return Finding.fail(name, text, fix, failed)
    if facts.delete:
        text = f"{shown} was written and read, but the probe cannot be deleted: {facts.delete}"
        return Finding.warn(name, text, "let the writing credential delete objects, or the bucket only ever grows")
    return Finding.ok(name, f"{shown} was written, read with the location's own part, cleaned; that part cannot write")


def judge_bandwidth(
    facts: TransferFacts, needed: Needs, spec: RunSpec, block_seconds: float | None, training: float | None = None
) -> Finding:
    """Whether a round's transfers fit a round: what is between its shortest and its longest, at most all of it.

    `training` is a miner's seconds of inner steps a round, to tell what a round takes in all.
    """
    name = "bandwidth"
    up = facts.up_seconds * max(1.0, needed.up / facts.size)
    down = facts.down_seconds * max(1.0, needed.down / facts.size)
    text = (
        f"a round takes {_time(up)} to send {size(needed.up)} and at most {_time(down)} to fetch {size(needed.down)} "
        f"(measured {_rate(facts.size, facts.up_seconds)} up, {_rate(facts.size, facts.down_seconds)} down)"
    )
    if training is not None:
        text = f"{text}; with {_time(training)} of training a round takes this machine {_time(training + up + down)}"
    fix = "use a faster line, or a bucket nearer to this machine"
    if block_seconds is None:
        return Finding.ok(name, f"{text}; how long a round lasts is not known while the chain does not answer")
    longest = spec.clock.deadline * block_seconds
    between = longest - spec.clock.min_blocks * block_seconds
    if up + down > longest:
        return Finding.fail(name, f"{text}; the whole round lasts {_time(longest)}", fix, MACHINE_STATUS)
    if up + down > between:
        return Finding.warn(name, f"{text}; a round leaves {_time(between)} for it", fix)
    return Finding.ok(name, f"{text}; a round leaves {_time(between)} for it")


def judge_chain(facts: ChainFacts, run: ChainSpec) -> Finding:
    """Whether the chain is the run's; a client does not answer at all where its endpoint is stale or has no blocks."""
    try:
        run.check(facts.origin)
    except ConfigError as error:
        fix = "name an endpoint (or the file) of the run's own chain with the setting chain"
        return Finding.fail("chain", f"{facts.chain} is another chain than the run's: {error}", fix, error.exit_status)
    return Finding.ok(
        "chain", f"{facts.chain} is at block {facts.height}, the newest; a block lasts {_time(facts.block_seconds)}"
    )


def judge_registration(facts: MemberFacts, role: Role, leaders: tuple[str, ...], netuid: int | None) -> Finding:
    """Whether the chain knows the hotkey, and lets it do what its role does."""
    name = "registration"
    if facts.uid is None and facts.registers_itself:
        text = f"{facts.hotkey} is not registered yet; on this local chain starting registers it, free of charge"
        return Finding.ok(name, text) if role is Role.MINER else Finding.warn(name, text, "start it once")
    if facts.uid is None:
        fix = f"register it with the wallet's coldkey: btcli subnets register --netuid {netuid}"
        return Finding.fail(
            name, f"{facts.hotkey} is not registered on subnet {netuid}", fix, NotRegistered.exit_status
        )
    text = f"{facts.hotkey} is uid {facts.uid} with a stake of {facts.stake / RAO:g}"
    if role is Role.MINER:
        return Finding.ok(name, text)
    if not facts.permit:
        text = f"{text}, which gives no validator permit"
        fix = f"stake more on the hotkey: btcli stake add --netuid {netuid}"
        if facts.registers_itself:
            fix = "use the hotkey of one of the run's operators, which have stake on the local chain"
        return Finding.fail(name, text, fix, ChainError.exit_status)
    if role is Role.AGGREGATOR and facts.hotkey not in leaders:
        text = f"{text}, but it is not among the {len(leaders)} aggregators that the run began with"
        fix = "see with muster spec show if an amendment lists it; if none does, ask the run's owner for one"
        return Finding.warn(name, text, fix)
    return Finding.ok(name, f"{text} and a validator permit")


def judge_location(facts: MemberFacts, location: str, readable: str, bootstrap: str = "") -> Finding:
    """Whether others look where this participant writes; `readable` is why the committed place is not ("": it is)."""
    name, committed = "location", facts.location
    configured = committed_text(location, bootstrap)
    if committed is None:
        return Finding.ok(name, f"nothing is committed yet; starting commits {shown_location(configured)}")
    if committed != configured:
        mine, theirs = shown_location(configured), shown_location(committed)
        others = f"{theirs}" if mine != theirs else f"{theirs} with another read credential"
        text = f"the chain sends others to {others}, the setting is {mine}"
        fix = "correct the setting location; or, if it is the one you mean, start the participant, which commits it"
        return Finding.fail(name, text, fix, ConfigError.exit_status)
    if readable:
        text = f"the committed location {shown_location(committed)} cannot be read by others: {readable}"
        fix = "make it readable again; muster bucket check, given the whole location, says what is missing"
        return Finding.fail(name, text, fix, StorageError.exit_status)
    return Finding.ok(name, f"the chain sends others to {shown_location(committed)}, as it is set, and it can be read")


def judge_anchors(committed: str, space: CommitSpace, clock: ClockSpec) -> Finding:
    """Whether the chain takes an aggregator's anchors as fast as the shortest rounds follow each other.

    `committed` is what it commits of its location: that, or the pointer to it.
    """
    name, size = "anchors", len(committed.encode())
    shorter = "a shorter host, bucket or prefix, a public bucket, or a bootstrap (the setting) that is short"
    try:
        blocks = blocks_a_write(size, space)
    except ChainError as error:
        return Finding.fail(name, str(error), f"use a shorter location: {shorter}", error.exit_status)
    text = (
        f"with a location of {size} bytes this chain takes an anchor every {_blocks(blocks)} ({space.bytes} bytes in "
        f"{_blocks(space.blocks)}, {SPARE_WRITES} write to spare); the shortest round lasts {_blocks(clock.shortest)}"
    )
    if blocks > clock.shortest:
        longest = longest_location(space, clock.shortest)
        fix = f"use a location of at most {longest} bytes: {shorter}"
        if longest is None:
            least = blocks_a_write(CHEAP_LOCATION, space)
            fix = f"have the run's owner raise clock.min_blocks to at least {least - 1}: no location is short enough"
        return Finding.fail(name, text, fix, ChainError.exit_status)
    return Finding.ok(name, text)


def judge_run(facts: RunFacts) -> Finding:
    """What is at RUN; that it is a run, whole and understood, is known once there are facts."""
    text = f"{facts.run} is run {facts.run_id[:16]}…, {facts.preset} with {facts.parameters:,} parameters"
    return Finding.ok("run", f"{text}; its id is the digest of its spec")


def judge_text(facts: TextFacts) -> Finding:
    """The text a participant reads."""
    return Finding.ok("text", f"{size(facts.size)} in {facts.folder}, by the manifest that the run pins")


def judge_key(facts: KeyFacts) -> Finding:
    """Whether the hotkey file is for its owner's eyes only, and whether a process has its role already."""
    text = f"{facts.path} is the hotkey {facts.hotkey}, mode {facts.mode:04o}"
    if facts.mode & OTHERS_MAY:
        return Finding.warn("key", f"{text}: other users of this machine can get at it", f"chmod 600 {facts.path}")
    if facts.holder:
        text = f"{text}; its role is taken by {facts.holder}"
        return Finding.warn(
            "key", text, "a second one would end at once: let that one run, or stop it before you start"
        )
    return Finding.ok("key", text)


def judge_leaders(found: Sequence[LeaderFacts]) -> Finding:
    """Whether the run's aggregators are there: it goes on, if later, while one of them is."""
    name = "leader"
    told = "; ".join(_leader(one, alone=len(found) == 1) for one in found)
    if len(found) > 1:
        told = f"{len(found)} aggregators close the rounds in turn: {told}"
    if all(one.unreadable for one in found):
        fix = "ask the run's operators whether their buckets can be read"
        return Finding.fail(name, told, fix, StorageError.exit_status)
    if any(one.conflict for one in found):
        return Finding.warn(name, told, "run the release that the run's operators recommend")
    if all(one.software is None and not one.unreadable for one in found):
        return Finding.warn(name, told, "wait for the run to begin; you can start, your node waits for it")
    if any(one.software is None for one in found):
        return Finding.warn(name, told, "you can start: the others go on without; its operator should know")
    return Finding.ok(name, told)


def _leader(facts: LeaderFacts, alone: bool) -> str:
    who = f"{facts.hotkey}, who closes the rounds," if alone else facts.hotkey
    if facts.unreadable:
        return f"{who} has a bucket that cannot be read: {facts.unreadable}"
    if facts.software is None:
        return f"{who} has not written its hello yet"
    if facts.conflict:
        return f"{who} runs {facts.software}: {facts.conflict}"
    return f"{who} runs {facts.software}, and its bucket can be read"


def shown_location(location: str) -> str:
    """A location without the credential in it, or a pointer as it is."""
    if Pointer.parse(location) is not None:
        return location
    if not is_network_location(location):
        return location
    try:
        return parse_location(location).shown
    except StorageError:
        return "a location that is not valid"


def _blocks(count: int) -> str:
    return "block" if count == 1 else f"{count} blocks"


def _time(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 180:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3 * 3600 else f"{seconds / 3600:.3g} h"


def _rate(count: int, seconds: float) -> str:
    return f"{size(int(count / max(seconds, 1e-9)))}/s"
