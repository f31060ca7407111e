"""What does a round cost beside its inner steps: each thing a miner does outside of them, on a model of its size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu.bits import through_host
from benchmarks.gpu.section import Found, Setting
from benchmarks.gpu.training import random_theta, random_windows
from muster.kernels import SparseUpdate, decode, encode
from muster.lab.nano import nano_template
from muster.node.compute import Compute
from muster.node.miner.engine import Delta, Job
from muster.node.miner.inner import LocalEngine
from muster.node.miner.state import MinerState, save_state
from muster.node.replica import Replica
from muster.protocol import wire
from muster.protocol.rules.weighing import weigh
from muster.protocol.spec import Template, load_template
from muster.protocol.spec.layout import codec_of, layout_of

PRESET = "150m"
STEPS = 4
"""Inner steps that are really taken, of so many windows; what the preset's take follows by proportion."""
WINDOWS = 16
_NOTHING = bytes(32)
"""Stands for a run id, a hotkey, a beacon and a key: what they are changes no duration."""


def work(setting: Setting) -> Found:
    """A row a part, in seconds, and what all come to beside the preset's inner steps."""
    template = nano_template() if setting.dry else load_template(PRESET)
    theta = random_theta(template.model, setting.device)
    parts: dict[str, float] = {}
    inner_steps, update = _own_work(template, theta, setting, parts)
    _everybodys_work(template, theta, setting, update, parts)
    beside = sum(parts.values())
    rows = [(name, f"{seconds:.3f}") for name, seconds in parts.items()]
    rows += [("all of these", f"{beside:.3f}"), (f"{template.inner.steps} inner steps", f"{inner_steps:.1f}")]
    share = beside / (beside + inner_steps)
    note = f"Beside the network's time, {share:.1%} of a round of {template.name} is not inner steps."
    return Found(f"A round of {template.name}, beside its inner steps", ("part", "s"), tuple(rows), (note,))


def _own_work(
    template: Template, theta: Replica, setting: Setting, parts: dict[str, float]
) -> tuple[float, SparseUpdate]:
    """What only this miner does; the seconds of a round's inner steps, and what it would send."""
    layout, codec = layout_of(template.model), codec_of(template)
    inner = template.inner.model_copy(update={"batch": 2 if setting.dry else WINDOWS, "steps": STEPS})
    engine = LocalEngine(template.model, inner, Compute(setting.device, True, micro_batch=inner.batch))
    windows, deltas = random_windows(template, inner.batch * STEPS), list[Delta]()
    engine.run(theta, Job(0, 0, inner, windows))  # makes the moments, and warms up
    whole = setting.seconds(lambda: deltas.append(engine.run(theta, Job(1, STEPS, inner, windows))))
    (delta,) = deltas
    parts["working copy and Δ"] = whole - delta.seconds
    error, left = ([torch.zeros(shape) for shape in layout.shapes] for _ in range(2))
    made: list[SparseUpdate] = []
    if not setting.dry:  # compiles
        through_host(setting, [tensor.clone() for tensor in delta.tensors], error, codec, left)

    def timed(name: str, call: Callable[[], object]) -> None:
        parts[name] = setting.seconds(call)

    timed(
        "compress, e in host memory",
        lambda: made.append(through_host(setting, list(delta.tensors), error, codec, left)),
    )
    timed("encode and encrypt", lambda: wire.encrypt_payload(made[0], _NOTHING, _NOTHING, 1, _NOTHING))
    timed("proof of θ", lambda: theta.possession(_NOTHING, _NOTHING, 1))
    with tempfile.TemporaryDirectory() as folder:
        file, state = Path(folder) / "memory.safetensors", MinerState(tuple(left))
        timed("remember e and moments, on disk", lambda: save_state(file, layout, state, engine.state))
    return delta.seconds / delta.steps * template.inner.steps * template.inner.batch / inner.batch, made[0]


def _everybodys_work(
    template: Template, theta: Replica, setting: Setting, update: SparseUpdate, parts: dict[str, float]
) -> None:
    """What everybody does with a round's record, if all seats are taken."""
    codec, outer, data = codec_of(template), template.outer, encode(update)
    senders = 2 if setting.dry else template.gauntlet.seats
    updates: list[SparseUpdate] = []

    def timed(name: str, call: Callable[[], object]) -> None:
        parts[name] = setting.seconds(call)

    timed(f"decode {senders} payloads", lambda: updates.extend(decode(data, codec) for _ in range(senders)))
    timed("caps and clips", lambda: weigh(updates, [1] * senders, outer))
    taken, weights, _ = weigh(updates, [1] * senders, outer)

    def there_and_back() -> None:
        with theta.moved(taken, weights, 1.0):
            pass

    if not setting.dry:  # compiles
        there_and_back()
    timed("the outer step, and back", there_and_back)
    timed("state root", theta.root)
