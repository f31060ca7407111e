"""The memory plan: what a role holds when, per GPU, in the host's memory and on disk, from spec and settings alone.

Every item is arithmetic over N, the parameters, or was measured; `why` says which. Peaks are over the phases, in which
items lie together. Several GPUs in one peer are planned here as they divide (FSDP: whatever is of the model's size, by
their number) and are not run by this version.

A step begins with freeing the last one's gradients. A GPU's memory is then there for activations; on a CPU the C
library keeps it in holes that these, of other sizes and begun at multiples of 2 MiB, do not fill: measured peaks are
those of gradients and activations together, not those of the larger one, and from the second round on of holes as large
as the error feedback that is not in memory then (29M: 1,366 MiB in a daemon's first round, 1,520 to 1,550 in those
after it, where this is 1,510).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import torch

from muster.kernels import fast
from muster.kernels.lanes import IN_FLIGHT, PIECE
from muster.node.compute import CPU, Compute
from muster.node.ledger.ahead import BYTES_AHEAD, ROUNDS_AHEAD, decoded_bytes
from muster.node.miner.bytewise import BLOCK
from muster.node.models import model_class
from muster.node.replica import EVAL_BATCH
from muster.node.replica.checkpoint import SHARD_BYTES
from muster.node.submission import SPOOL_BYTES
from muster.plan import activations
from muster.protocol.spec import Template
from muster.protocol.spec.layout import Layout, codec_of, layout_of, max_payload_bytes
from muster.protocol.types import Role

FLOAT = 4
MIB = 1 << 20

PROCESS = 290 * MIB
"""Python, torch's CPU build and what a daemon imports (measured: an aggregator of `tiny`, torch 2.13)."""
PRODUCTS = {Role.MINER: 60 * MIB, Role.VALIDATOR: 30 * MIB, Role.AGGREGATOR: 0}
"""Code and workspaces of matrix products, forward and for gradients, and the pages of the text that were read."""
LOOPS = 95 * MIB
"""numba with the compiled loops, which models from `FAST_ENTRIES` on use on a CPU (measured)."""
CONTEXT = 800 * MIB
"""CUDA's context, torch's kernels and cuBLAS' workspaces in a GPU's memory: usual for CUDA 12; not measured here."""
OPENING = 3.6
"""Payloads of memory while one is opened (`muster.node.submission`)."""
PIECES = 3
"""Copies of the own payload while it is made: encoded, encrypted, signed."""
MUON_WORK, FACTORED_WORK = 12, 8
"""Bytes an entry of the largest matrix that one step works in: Muon's update in fp32 and its iterates in bf16; the
factored root and the step. AdamW steps in place, in bytes a slab at a time."""
UNDONE = 2
"""Rounds whose undo logs are kept at a time: the newest, and the one that may still be taken back."""


class Place(Enum):
    """Where something lies."""

    GPU = "gpu"
    HOST = "host"
    DISK = "disk"


class Phase(Enum):
    """When things lie together; the phases of a role follow one another."""

    JOIN = "joining"
    FORWARD = "inner step, forward"
    BACKWARD = "inner step, backward"
    COMPRESS = "compress"
    APPLY = "apply"
    CHECKPOINT = "checkpoint"
    EVALUATE = "evaluate"
    SCREEN = "screen"


PHASES = {
    Role.MINER: (Phase.JOIN, Phase.FORWARD, Phase.BACKWARD, Phase.COMPRESS, Phase.APPLY),
    Role.VALIDATOR: (Phase.JOIN, Phase.APPLY, Phase.EVALUATE, Phase.SCREEN),
    Role.AGGREGATOR: (Phase.JOIN, Phase.APPLY, Phase.CHECKPOINT),
}
_LIVING = frozenset(Phase) - {Phase.JOIN}


@dataclass(frozen=True, slots=True)
class Item:
    """Something of `size` bytes that lies in a place during some phases, and why it has that size."""

    name: str
    place: Place
    size: int
    phases: frozenset[Phase]
    why: str


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a participant holds; sizes of the place GPU are of each of `gpus`.

    `screens` is whether there may be more peers than a validator measures exactly.
    """

    role: Role
    gpus: int
    items: tuple[Item, ...]
    screens: bool = False

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The role's phases in order."""
        return tuple(phase for phase in PHASES[self.role] if phase is not Phase.SCREEN or self.screens)

    def at(self, place: Place, phase: Phase) -> int:
        """Bytes in a place during a phase."""
        return sum(item.size for item in self.items if item.place is place and phase in item.phases)

    def peak(self, place: Place) -> tuple[int, Phase]:
        """The most bytes in a place, and when."""
        return max(((self.at(place, phase), phase) for phase in self.phases), key=lambda found: found[0])

    @property
    def host(self) -> int:
        """The most bytes of the host's memory."""
        return self.peak(Place.HOST)[0]

    @property
    def gpu(self) -> int:
        """The most bytes of each GPU's memory."""
        return self.peak(Place.GPU)[0]

    @property
    def disk(self) -> int:
        """The most bytes on disk."""
        return self.peak(Place.DISK)[0]


def plan_of(
    spec: Template,
    role: Role,
    compute: Compute = CPU,
    *,
    gpus: int = 0,
    peers: int | None = None,
    local_bucket: bool = False,
    text: int = 0,
) -> Plan:
    """What `role` holds in a run of `spec`.

    `compute` is how it trains; `gpus` is how many GPUs the peer has, 0: it computes on the host. `peers` is how many
    submissions a round applies (None: every seat is taken); `text` bytes of text still have to be fetched, and with
    `local_bucket` the own bucket is a folder of this disk.
    """
    return _Planner(spec, role, compute, gpus, peers, local_bucket, text).plan()


class _Planner:
    """The items of one plan, collected."""

    def __init__(
        self, spec: Template, role: Role, compute: Compute, gpus: int, peers: int | None, local: bool, text: int
    ) -> None:
        self.spec, self.role, self.compute, self.local, self.text = spec, role, compute, local, text
        self.gpus = 0 if role is Role.AGGREGATOR else gpus
        self.device = Place.GPU if self.gpus else Place.HOST
        self.layout: Layout = layout_of(spec.model)
        self.parameters = self.layout.parameters
        self.codec = codec_of(spec)
        self.payload = max_payload_bytes(self.codec)
        self.peers = spec.gauntlet.seats if peers is None else peers
        most = spec.data.slots if peers is None else peers
        self.screens = role is Role.VALIDATOR and most > spec.gauntlet.exact_peers
        self.items: list[Item] = []

    def add(self, name: str, place: Place, size: float, phases: Iterable[Phase], why: str) -> None:
        """An item, unless it is nothing."""
        if size:
            self.items.append(Item(name, place, int(size), frozenset(phases), why))

    def shared(self, name: str, size: float, phases: Iterable[Phase], why: str) -> None:
        """An item of the model's size on the device, of which each GPU has its part."""
        self.add(name, self.device, size / max(1, self.gpus), phases, why)

    def plan(self) -> Plan:
        """All items of the role."""
        theta = FLOAT * self.parameters
        process = PROCESS + PRODUCTS[self.role]
        self.add("process", Place.HOST, process, Phase, "Python, torch and what they load, by role (measured)")
        if self.device is Place.HOST and fast.suits(self.parameters):
            self.add("compiled loops", Place.HOST, LOOPS, _LIVING, "numba and the loops of large models (measured)")
        if self.gpus:
            self.add("CUDA", Place.GPU, CONTEXT, Phase, "context, kernels, workspaces (usual, not measured)")
        self.shared("θ", theta, Phase, "4 N")
        shard = min(theta, SHARD_BYTES + FLOAT * max(self.layout.grid.numel))
        joins = "a checkpoint's shard while it is read: 1 GiB and the largest tensor, θ at most"
        self.add("checkpoint shard", Place.HOST, shard, [Phase.JOIN], joins)
        self._round()
        if self.role is Role.MINER:
            self._training()
            self._sending()
        elif self.role is Role.VALIDATOR:
            self._measuring()
        else:
            where = Place.DISK if shard >= SPOOL_BYTES else Place.HOST
            self.add("checkpoint shard made", where, shard, [Phase.CHECKPOINT], "one at a time, until the store has it")
        self._kept(theta)
        return Plan(self.role, self.gpus, tuple(self.items), self.screens)

    def _round(self) -> None:
        """What a round's record takes: submissions, and what the step overwrote."""
        spooled = self.payload >= SPOOL_BYTES and self.role is not Role.MINER
        values = decoded_bytes(self.codec)
        where = Place.DISK if spooled else Place.HOST
        when = [Phase.APPLY, Phase.EVALUATE, Phase.SCREEN, Phase.CHECKPOINT]
        why = f"{self.peers} payloads as they came"
        if self.role is Role.MINER:
            self.add("bundle", Place.HOST, self.peers * self.payload, [Phase.APPLY], why + ", in one bundle")
        else:
            self.add("submissions", where, 2 * self.peers * self.payload, when, why + ", and the bundle of them")
        decoded = f"{self.peers} × (3 bytes a kept value, 2 a tile)"
        self.add("updates", where, self.peers * values, when, decoded)
        if self.spec.outer.max_age and self.role is Role.AGGREGATOR:
            late = self.peers * (self.payload + values)
            self.add("late submissions", where, late, when, "of free seats: as they came, and as updates")
        rounds = min(BYTES_AHEAD, ROUNDS_AHEAD * self.peers * (self.payload + values))
        ahead = rounds + int(OPENING * min(self.payload, BYTES_AHEAD))
        said = f"behind: {ROUNDS_AHEAD} rounds' bundles and updates, {BYTES_AHEAD // MIB} MiB at most, and an opening"
        self.add("read ahead", Place.HOST, ahead, [Phase.APPLY], said)
        self.add("opening", Place.HOST, OPENING * self.payload, [Phase.APPLY], "one payload at a time, 3.6 of its size")
        touched = min(self.peers * self.codec.count, self.parameters)
        undo = f"4 bytes for each value the updates list, N at most; of {UNDONE} rounds"
        self.shared("undo logs", UNDONE * FLOAT * touched, _LIVING, undo)

    def _training(self) -> None:
        """What the engine holds."""
        spec, compute, n = self.spec, self.compute, self.parameters
        bf16 = bool(compute.autocast)
        at_once = min(compute.micro_batch or spec.inner.batch, spec.inner.batch)
        tokens = at_once * spec.data.window
        step = [Phase.FORWARD, Phase.BACKWARD]
        self.shared("working weights", FLOAT * n, _LIVING, "4 N, kept from round to round")
        held = "4 N, read from the state's file to compress; while training a CPU's C library has as much in holes"
        self.add("error feedback", Place.HOST, FLOAT * n, _LIVING, held)
        self.shared("moments", self._moments(), _LIVING, self._moments_why())
        stays = self.device is Place.HOST or at_once < spec.inner.batch
        grown = step if stays else [Phase.BACKWARD]
        why = "4 N, from one part of a batch, or on a CPU from one step, to the next" if stays else "4 N, one step long"
        self.shared("gradients", FLOAT * n, grown, why)
        if spec.model.tied:
            twice = FLOAT * spec.model.vocab * spec.model.hidden
            self.shared("second gradient of the embedding", twice, [Phase.BACKWARD], "4 V h: it is the head, too")
        kept = activations.kept(spec.model, bf16=bf16, recompute=compute.recompute)
        how = "inputs of layers, and one layer" if compute.recompute else "all layers"
        said = f"what autograd keeps of {at_once} × {spec.data.window} tokens: {how}"
        self.add("activations", self.device, tokens * kept, [Phase.FORWARD], said)
        layer = activations.layer_kept(spec.model, bf16=bf16)
        self.add("activations of the last layer", self.device, tokens * layer, [Phase.BACKWARD], "the others are done")
        back = tokens * activations.returning(spec.model)
        self.add("gradients of activations", self.device, back, [Phase.FORWARD], "of the logits, an MLP or attention")
        if bf16:
            halved = activations.halved_weights(spec.model, n)
            self.shared(
                "weights in bf16", halved, [Phase.FORWARD], "2 bytes an entry of every matrix, until used twice"
            )
        self.shared("optimizer's work", self._work(), [Phase.BACKWARD], "the largest matrix, while it is stepped")
        if spec.clock.delay:
            self.shared("weights of its own", FLOAT * n, _LIVING, "4 N: where it trains on from while a round closes")
            self.shared("Δ made ahead", FLOAT * n, [*step, Phase.APPLY], "4 N, until the rest of its round is done")

    def _moments(self) -> int:
        """Bytes of moments, by mode and optimizer; gains keep both in full."""
        inside = self._inside()
        return sum(
            self._moments_of(shape, muon=name in inside) if len(shape) > 1 else 2 * FLOAT * shape[0]
            for name, shape in zip(self.layout.names, self.layout.shapes, strict=True)
        )

    def _inside(self) -> set[str]:
        """The matrices that Muon steps, by name."""
        if self.spec.inner.optimizer != "muon":
            return set()
        with torch.device("meta"):
            model = model_class(self.spec.model)(self.spec.model)
        matrices = {id(matrix) for matrix in model.block_matrices()}
        return {name for name, parameter in model.named_parameters() if id(parameter) in matrices}

    def _moments_of(self, shape: tuple[int, ...], *, muon: bool) -> int:
        entries, mode = math.prod(shape), self.compute.moments
        if mode == "full":
            return FLOAT * entries * (1 if muon else 2)
        coded = entries + FLOAT * -(-entries // BLOCK)
        if muon:
            return coded
        return 2 * coded if mode == "8bit" else FLOAT * (shape[0] + entries // shape[0])

    def _moments_why(self) -> str:
        mode = {"full": "fp32", "8bit": "a byte and 1/64 an entry", "factored": "rows and columns, no momentum"}
        each = "one of matrices inside, two of the rest" if self.spec.inner.optimizer == "muon" else "two"
        return f"{each}: {mode[self.compute.moments]}"

    def _work(self) -> int:
        """Bytes that stepping the largest matrix takes."""
        factored = FACTORED_WORK if self.compute.moments == "factored" else 0
        entry = MUON_WORK if self.spec.inner.optimizer == "muon" else factored
        return entry * max(self.layout.grid.numel)

    def _sending(self) -> None:
        """What compressing and keeping take."""
        size = FLOAT * self.parameters
        if self.gpus:
            self.shared("Δ", size, [Phase.COMPRESS], "4 N, where gradients were")
            self.add("new error feedback", Place.HOST, size, [Phase.COMPRESS], "4 N, beside the old one")
            piece = FLOAT * min(PIECE, self.parameters)
            pinned, passing = "of 64 MiB, two on their way in and two out", "of 64 MiB, two at a time"
            self.add("pieces, pinned", Place.HOST, 2 * IN_FLIGHT * piece, [Phase.COMPRESS], pinned)
            self.add("pieces of error feedback", Place.GPU, IN_FLIGHT * piece, [Phase.COMPRESS], passing)
        else:
            self.add("Δ, then the new error feedback", Place.HOST, size, [Phase.COMPRESS], "4 N, where gradients were")
        made = 3 * self.codec.count + 2 * self.layout.grid.tiles + PIECES * self.payload
        self.add(
            "own submission", Place.HOST, made, [Phase.COMPRESS, Phase.APPLY], "its values, encoded, encrypted, signed"
        )
        if self.spec.outer.max_age:
            when = [Phase.FORWARD, Phase.BACKWARD, Phase.COMPRESS]
            self.add("own late submission", Place.HOST, 2 * self.payload, when, "the last round's, not up yet")
        if self.gpus:
            copy = FLOAT * max(self.layout.grid.numel)
            self.add("a tensor on its way to disk", Place.HOST, copy, [Phase.COMPRESS], "saved one after another")

    def _measuring(self) -> None:
        """What evaluations take."""
        spec, window = self.spec, self.spec.data.window
        batch = min(EVAL_BATCH, max(spec.gauntlet.eval_windows, spec.gauntlet.heldout_windows))
        passing = batch * window * activations.evaluating(spec.model)
        self.add("evaluation", self.device, passing, [Phase.EVALUATE], f"a forward pass of {batch} windows of {window}")
        perturbed = "4 bytes for each value of what is tried, all updates at most"
        touched = min(self.peers * self.codec.count, self.parameters)
        self.shared("undo log of a trial", FLOAT * touched, [Phase.EVALUATE], perturbed)
        if not self.screens:
            return
        tokens = min(EVAL_BATCH, spec.gauntlet.eval_windows) * window
        kept = tokens * (activations.kept(spec.model, bf16=False, recompute=False) + activations.returning(spec.model))
        self.add("activations", self.device, kept, [Phase.SCREEN], "of one gradient that screens many peers")
        self.shared("gradients", 2 * FLOAT * self.parameters, [Phase.SCREEN], "4 N of a batch, 4 N of their sum")

    def _kept(self, theta: int) -> None:
        """What lies on disk."""
        rounds = 2 * self.spec.clock.checkpoint_every
        self.add("text", Place.DISK, self.text, Phase, "what of it still has to be fetched")
        if self.role is Role.MINER:
            state = 2 * (theta + self._moments() + self.payload)
            self.add(
                "state", Place.DISK, state, Phase, "error feedback, moments, submission; and the draft of the next"
            )
            bucket, of = self.payload * rounds, "submissions"
        else:
            bucket = self.peers * self.payload * rounds + 2 * theta if self.role is Role.AGGREGATOR else 0
            of = "bundles and two checkpoints"
        if self.local:
            self.add(
                "bucket", Place.DISK, bucket, Phase, f"{of} of {rounds} rounds: twice the time between checkpoints"
            )
