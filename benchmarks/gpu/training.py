"""How fast does the product's engine train a preset: seconds a step, tokens a second, share of the card's peak."""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from itertools import pairwise

import torch

from benchmarks.gpu.card import peak_of
from benchmarks.gpu.section import Found, Setting
from benchmarks.gpu.toy import only_traced
from muster.lab.nano import nano_template
from muster.node.compute import Compute
from muster.node.miner.engine import Job
from muster.node.miner.inner import LocalEngine
from muster.node.replica import Replica
from muster.protocol.spec import ModelSpec, Template, load_template
from muster.protocol.spec.layout import layout_of

PASS_WINDOWS = {"150m": 16, "1b": 4}
"""Windows of a forward pass; the engine takes fewer where the card's memory does not hold them."""
WARM = 3
"""Steps that are not counted: the first ones compile and fill caches."""
COUNTED = 5


def work(setting: Setting, preset: str, compiled: bool, allowance: float) -> Found:
    """A row: so many seconds are for the steps that count, so a batch may be smaller than the preset's."""
    template = nano_template() if setting.dry else load_template(preset)
    compute = Compute(setting.device, True, compiled, micro_batch=2 if setting.dry else PASS_WINDOWS[preset])
    theta = random_theta(template.model, setting.device)
    with only_traced() if setting.dry else nullcontext():
        engine = LocalEngine(template.model, template.inner, compute)
        assert compute.micro_batch is not None
        first = _steps(engine, theta, template, compute.micro_batch, WARM + 1)
        passes = int(allowance / (WARM + COUNTED) / first[-1]) if first[-1] > 0 else 1
        batch = compute.micro_batch * max(1, min(passes, template.inner.batch // compute.micro_batch))
        seconds = statistics.median(_steps(engine, theta, template, batch, WARM + COUNTED)[WARM:])
    tokens = batch * template.data.window / seconds
    rate = tokens * operations(template.model, template.data.window)
    row = (
        f"{template.name}{', compiled' if compiled else ''}",
        f"{batch} × {template.data.window}",
        f"{1e3 * seconds:.0f}",
        f"{tokens:,.0f}",
        f"{rate / 1e12:.1f}",
        _share(rate, setting),
        setting.peak(),
    )
    header = ("preset", "windows a step", "ms a step", "tokens/s", "TFLOP/s", "MFU", "memory")
    whole = template.inner.batch
    notes = () if batch == whole else (f"The preset's batch is {whole} windows; the time for this did not allow them.",)
    return Found("Training", header, (row,), notes)


def random_theta(model: ModelSpec, device: torch.device) -> Replica:
    """A θ that was drawn at once on the device: a run's own is counted out by the CPU, a billion numbers long."""
    generator = torch.Generator(device).manual_seed(0)
    layout = layout_of(model)
    theta = [torch.empty(shape, device=device).normal_(0, 0.02, generator=generator) for shape in layout.shapes]
    return Replica(model, bytes(32), [tensor + 1 if tensor.dim() < 2 else tensor for tensor in theta], 0)


def random_windows(template: Template, count: int) -> torch.Tensor:
    """Training sequences of random tokens, int64 (count, window + 1)."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(template.model.vocab, (count, template.data.window + 1), generator=generator)


def operations(model: ModelSpec, window: int) -> int:
    """Floating point operations a trained token counts for: 6 N + 12 · layers · heads · head_dim · window.

    N leaves an embedding out that is only looked up. Attention counts in full, though half of it is masked, and what is
    computed again does not: the field's convention (PaLM, arXiv 2204.02311, appendix B).
    """
    looked_up = 0 if model.tied else model.vocab * model.hidden
    attention = 12 * model.layers * model.heads * model.head_dim * window
    return 6 * (layout_of(model).parameters - looked_up) + attention


def _steps(engine: LocalEngine, theta: Replica, template: Template, batch: int, steps: int) -> list[float]:
    """Seconds of each inner step of a round."""
    inner = template.inner.model_copy(update={"batch": batch, "steps": steps})
    ends = [time.perf_counter()]
    engine.run(
        theta,
        Job(0, 0, inner, random_windows(template, batch * steps)),
        on_step=lambda _step, _loss: ends.append(time.perf_counter()),
    )
    return [end - begin for begin, end in pairwise(ends)]


def _share(rate: float, setting: Setting) -> str:
    peak = None if setting.dry else peak_of(torch.cuda.get_device_name(setting.device))
    return "peak unknown" if peak is None else f"{rate / peak:.0%}"
