"""How much memory, disk and line a role needs: functions of the spec alone, so they can be told before anything runs.

With N parameters and fp32 everywhere, on a CPU, a miner holds:

    bytes of N      4 θ + 4 working copy + 4 gradients (then Δ, then the new error feedback) + 8 moments
                    + 4 error feedback; saving copies nothing. Up to 12 more are freed and kept by the allocator
    activations     4 · batch · window · (layers · (16 · hidden + 6 · ffn) + 4 · vocab)
    the process     300 MiB: Python, torch and what they load

Activations come out of what the allocator has kept, so the peak is the larger of the two. Validator and aggregator hold
θ, the undo log of a step, one shard of a checkpoint, the submissions of a round as they came and decoded, and an
evaluation's activations, of one layer at a time. The factors were measured with models of 3 to 30 million parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster.node.replica import EVAL_BATCH
from muster.node.replica.checkpoint import SHARD_BYTES
from muster.protocol.spec import Template
from muster.protocol.spec.layout import codec_of, layout_of, max_payload_bytes
from muster.protocol.types import Role

FLOAT_BYTES = 4
PROCESS_BYTES = 300 << 20
_TRAINING_BYTES = 4 + 4 + 4 + 8 + 4
"""θ, working copy, gradients, moments, error feedback: what lies there during an inner step."""
_MINER_PEAK_BYTES = _TRAINING_BYTES + 12
_MEMORY_FILE_BYTES = 12
"""Of a miner's memory.safetensors: error feedback and moments."""
_DECODED_BYTES = 16
"""Of one kept value in memory: index, code, scale and what aggregation makes of them."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a role needs of a machine: `memory` and `disk` in bytes, and what crosses the line each round.

    `up` is one submission at its largest, `down` a bundle of them with every seat taken. `disk` is what is kept for
    this participant between two checkpoints twice over, its own bucket only where that is a folder here.
    """

    memory: int
    disk: int
    up: int
    down: int


def needs(spec: Template, role: Role, *, local_bucket: bool, text_bytes: int) -> Needs:
    """What `role` needs in a run; `text_bytes` of text still have to be fetched."""
    layout = layout_of(spec.model)
    payload = max_payload_bytes(codec_of(spec))
    bundle = payload * spec.gauntlet.seats
    kept_rounds = 2 * spec.clock.checkpoint_every
    checkpoint = FLOAT_BYTES * layout.parameters
    if role is Role.MINER:
        memory = miner_memory(spec)
        state, written = 2 * _MEMORY_FILE_BYTES * layout.parameters, payload * kept_rounds
    else:
        values = codec_of(spec).count * spec.gauntlet.seats
        undo = FLOAT_BYTES * min(values, layout.parameters)
        shard = min(checkpoint, SHARD_BYTES + FLOAT_BYTES * max(layout.grid.numel))
        tokens = EVAL_BATCH * spec.data.window
        forward = FLOAT_BYTES * tokens * (_layer_floats(spec) + 4 * spec.model.vocab)
        memory = PROCESS_BYTES + checkpoint + undo + shard + bundle + _DECODED_BYTES * values
        memory += forward if role is Role.VALIDATOR else 0
        state, written = 0, bundle * kept_rounds + 2 * checkpoint if role is Role.AGGREGATOR else 0
    return Needs(memory, text_bytes + state + (written if local_bucket else 0), payload, bundle)


def miner_memory(spec: Template) -> int:
    """The larger of training's peak and what the allocator makes of it over the rounds, in bytes."""
    parameters = layout_of(spec.model).parameters
    tokens = spec.inner.batch * spec.data.window
    activations = FLOAT_BYTES * tokens * (spec.model.layers * _layer_floats(spec) + 4 * spec.model.vocab)
    return PROCESS_BYTES + max(_TRAINING_BYTES * parameters + activations, _MINER_PEAK_BYTES * parameters)


def step_operations(spec: Template) -> int:
    """Floating point operations of one inner step: six a parameter and token (Kaplan et al., arXiv 2001.08361)."""
    return 6 * layout_of(spec.model).parameters * spec.inner.batch * spec.data.window


def _layer_floats(spec: Template) -> int:
    """Numbers a layer keeps for a token on the way back."""
    return 16 * spec.model.hidden + 6 * spec.model.ffn
