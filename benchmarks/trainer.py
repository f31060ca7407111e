"""Does the engine train as fast as a bare loop, and what do the ways of keeping moments cost and lose?

    python benchmarks/trainer.py [--pairs 11] [--steps 8] [--rounds 24] [--seeds 2] [--only speed|memory|quality]

One process, one thread, processor time, as a shared machine's clock says nothing. *Speed*: rounds of the product's
engine against the same steps of a plain PyTorch loop over the same model, over Hugging Face's Llama and torchtitan's of
the same shape (where they are installed), and by its other settings: medians of alternating pairs, with the interval of
ranks that holds the true median in 95 % of cases or more. *Memory*: a process for each way, its resident peak over what
it has before. *Quality*: held-out nat/byte of the preset `tiny`, one worker that sends nothing, after rounds of 20
steps.
Exits with 1 if the engine takes more than 3 % longer than the bare loop.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from muster.node.compute import CPU, Compute
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.node.miner.engine import Job
from muster.node.miner.inner import LocalEngine
from muster.node.miner.schedule import learning_rate
from muster.node.models import model_class
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.node.wished import Moments
from muster.protocol.chain.rules import ChainGenesis
from muster.protocol.rules.assignment import assigned
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import InnerSpec, ModelSpec, load_template
from muster.testnet.roster import Roster
from muster.validator.gauntlet.validator import HELDOUT_BEACON

MODEL = ModelSpec(
    vocab=8192,
    hidden=512,
    layers=8,
    heads=8,
    kv_heads=8,
    head_dim=64,
    ffn=1408,
    context=128,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    tied=True,
    init_std=0.02,
)
"""30M parameters."""
BATCH = 4
STUDY_STEPS = 20
WITHIN = 1.03
DECIDED = ("engine", "Hugging Face's Llama", "torchtitan's Llama")
"""What is timed by as many pairs as are asked for; of the rest the order of magnitude is enough."""
FEW = 3
WAYS: tuple[Moments, ...] = get_args(Moments)


def inner_of(steps: int) -> InnerSpec:
    """The constants of the preset `tiny` with other sizes of round and batch."""
    return load_template("tiny").inner.model_copy(update={"steps": steps, "batch": BATCH})


def windows_of(count: int) -> Tensor:
    """Windows of no language, the same ones every time."""
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, MODEL.vocab, (count, MODEL.context + 1), generator=draw)


# ---- speed


def engine_round(steps: int, compute: Compute = CPU) -> Callable[[], None]:
    """A round of the product's engine: θ into the working copy, the steps, Δ out."""
    inner = inner_of(steps)
    engine = LocalEngine(MODEL, inner, compute)
    replica = Replica(MODEL, bytes(32), genesis_parameters(MODEL, 0), 0)
    job = Job(0, 0, inner, windows_of(steps * BATCH))

    def train() -> None:
        engine.run(replica, job)

    return train


def plain_round(model: nn.Module, loss: Callable[[Tensor], Tensor], steps: int) -> Callable[[], None]:
    """The same steps in the loop that everybody writes."""
    inner, windows = inner_of(steps), windows_of(steps * BATCH)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": inner.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(inner.beta1, inner.beta2), eps=inner.eps, fused=True)

    def train() -> None:
        for h in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(inner, h)
            optimizer.zero_grad()
            value = loss(windows[h * BATCH : (h + 1) * BATCH])
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), inner.clip)
            optimizer.step()
            value.item()

    return train


def bare_round(steps: int) -> Callable[[], None]:
    """A plain loop over the product's own model."""
    model = model_class(MODEL).over(MODEL, genesis_parameters(MODEL, 0)).requires_grad_(True)
    return plain_round(model, model.loss, steps)


def huggingface_round(steps: int) -> Callable[[], None] | None:
    """A plain loop over Hugging Face's model of the same shape; None where it is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    config = LlamaConfig(
        vocab_size=MODEL.vocab,
        hidden_size=MODEL.hidden,
        intermediate_size=MODEL.ffn,
        num_hidden_layers=MODEL.layers,
        num_attention_heads=MODEL.heads,
        num_key_value_heads=MODEL.kv_heads,
        max_position_embeddings=MODEL.context,
        tie_word_embeddings=MODEL.tied,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)

    def loss(windows: Tensor) -> Tensor:
        logits = model(input_ids=windows[:, :-1]).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    return plain_round(model, loss, steps)


def torchtitan_round(steps: int) -> Callable[[], None] | None:
    """A plain loop over torchtitan's model of the same shape; None where it is not installed.

    Written for 0.3.0. Its own selection of attention leaves language models FlexAttention, which has to be compiled,
    and a GPU's variable length kernels; its module for SDPA is given by hand, for it is what the others run.
    """
    try:
        from torchtitan.models import llama3 as parts
        from torchtitan.models.common.attention import ScaledDotProductAttention
    except ImportError:
        return None
    start = {"weight": lambda weight: nn.init.normal_(weight, std=MODEL.init_std)}
    gain = {"weight": nn.init.ones_}
    width, head = MODEL.hidden, MODEL.head_dim
    rope = parts.ComplexRoPE.Config(dim=head, max_seq_len=MODEL.context, theta=MODEL.rope_theta, scaling="none")
    blocks = [
        parts.Llama3TransformerBlock.Config(
            attention_norm=parts.RMSNorm.Config(normalized_shape=width, param_init=gain),
            ffn_norm=parts.RMSNorm.Config(normalized_shape=width, param_init=gain),
            attention=parts.make_gqa_config(
                dim=width,
                n_heads=MODEL.heads,
                n_kv_heads=MODEL.kv_heads,
                wqkv_param_init=start,
                wo_param_init=start,
                inner_attention=ScaledDotProductAttention.Config(),
                fuse_qkv=True,
                rope=rope,
            ),
            feed_forward=parts.make_ffn_config(
                dim=width, hidden_dim=MODEL.ffn, w1_param_init=start, w2w3_param_init=start
            ),
        )
        for _ in range(MODEL.layers)
    ]
    config = parts.Llama3Model.Config(
        dim=width,
        vocab_size=MODEL.vocab,
        enable_weight_tying=MODEL.tied,
        tok_embeddings=parts.Embedding.Config(num_embeddings=MODEL.vocab, embedding_dim=width, param_init=start),
        norm=parts.RMSNorm.Config(normalized_shape=width, param_init=gain),
        lm_head=parts.Linear.Config(in_features=width, out_features=MODEL.vocab, param_init=start),
        layers=blocks,
    )
    model = config.build()
    model.init_states()
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in genesis_parameters(MODEL, 0))

    def loss(windows: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())

    return plain_round(model, loss, steps)


def seconds_of(work: Callable[[], None]) -> float:
    """Processor time of some work."""
    gc.collect()
    began = time.process_time()
    work()
    return time.process_time() - began


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the narrowest ranks around it that hold the true one in at least 95 % of cases (binomial)."""
    ordered, n = sorted(values), len(values)
    below = [total / 2**n for total in accumulate(math.comb(n, i) for i in range(n))]
    rank = max((i for i in range(n // 2) if 2 * below[i] <= 0.05), default=0)
    return statistics.median(ordered), ordered[rank], ordered[n - 1 - rank]


def speed(pairs: int, steps: int) -> bool:
    """Print the ratios; whether the engine is within its bound of the bare loop."""
    bare = bare_round(steps)
    rivals: dict[str, Callable[[], None] | None] = {
        "engine": engine_round(steps),
        "Hugging Face's Llama": huggingface_round(steps),
        "torchtitan's Llama": torchtitan_round(steps),
        "engine, bf16 products": engine_round(steps, replace(CPU, autocast=True)),
        "engine, activations made again": engine_round(steps, replace(CPU, recompute=True)),
        "engine, a window at a time": engine_round(steps, replace(CPU, micro_batch=1)),
    }
    print(f"speed: 30M parameters, {steps} steps of {BATCH} × {MODEL.context}, processor time over the bare loop's")
    fine = True
    for name, work in rivals.items():
        if work is None:
            print(f"  {name}: not installed")
            continue
        bare(), work()  # the first of each warms up
        ratios = []
        for pair in range(pairs if name in DECIDED else min(pairs, FEW)):
            first, second = (work, bare) if pair % 2 else (bare, work)
            taken = {first: seconds_of(first), second: seconds_of(second)}
            ratios.append(taken[work] / taken[bare])
        median, low, high = interval(ratios)
        print(f"  {name:<32} {median:.3f} [{low:.3f}, {high:.3f}]", flush=True)
        fine &= name != "engine" or median <= WITHIN
    return fine


# ---- memory


def resident(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


def one_way(moments: Moments, steps: int) -> None:
    """In a process of its own: train a few steps this way and print what they took."""
    torch.set_num_threads(1)
    before = resident("VmRSS")
    train = engine_round(steps, replace(CPU, moments=moments, micro_batch=1, recompute=True))
    train()
    seconds = seconds_of(train) / steps
    print(json.dumps({"seconds": seconds, "peak": resident("VmHWM") - before}))


def memory(steps: int) -> None:
    """Print what each way takes, in units of θ's bytes; windows one at a time, so that activations hide little."""
    theta = 4 * sum(t.numel() for t in genesis_parameters(MODEL, 0))
    print(
        "memory: resident peak of engine and replica over an empty process, a window at a time, activations made again"
    )
    for way in WAYS:
        argv = [sys.executable, __file__, "--way", way, "--steps", str(steps)]
        told = json.loads(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout)
        print(f"  {way:<9} {told['peak'] / theta:5.2f} θ  {told['seconds']:.2f} CPU-s a step", flush=True)


# ---- quality


def quality(rounds: int, seeds: int) -> None:
    """Print held-out losses."""
    print(f"quality: tiny, {rounds} rounds of {STUDY_STEPS} steps, one worker, held-out nat/byte by seed")
    template = load_template("tiny")
    inner = template.inner.model_copy(update={"steps": STUDY_STEPS, "total": rounds * STUDY_STEPS})
    template = template.model_copy(update={"inner": inner})
    with tempfile.TemporaryDirectory() as folder:
        manifest = build_corpus(None, Path(folder), template.data.window)
        text = TextReader.open(Path(folder), manifest.digest)
        for way in WAYS:
            losses = []
            for seed in range(seeds):
                spec = Roster.of(seed, 1, 1, {}).spec(template, manifest)
                chain, theta = ChainGenesis(seed=seed), genesis_parameters(spec.model, seed)
                engine = LocalEngine(spec.model, inner, Compute(moments=way))
                for round_ in range(rounds):
                    ids = assigned(chain.beacon("assign", round_), 1, spec.data, inner.steps * inner.batch)
                    job = Job(round_, round_ * inner.steps, inner, text.windows(ids))
                    delta = engine.run(Replica(spec.model, spec.run_id(), theta, round_), job).tensors
                    theta = [before - moved for before, moved in zip(theta, delta, strict=True)]
                heldout = sample(HELDOUT_BEACON, b"heldout", spec.data.heldout, spec.gauntlet.heldout_windows)
                losses.append(Replica(spec.model, spec.run_id(), theta, rounds).loss(text.heldout(heldout)))
            print(f"  {way:<9} {'  '.join(f'{loss:.4f}' for loss in losses)}", flush=True)


def main() -> int:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", choices=("speed", "memory", "quality"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        one_way(options.way, options.steps)
        return 0
    torch.set_num_threads(1)
    fine = True
    if options.only in (None, "memory"):
        memory(options.steps)
    if options.only in (None, "quality"):
        quality(options.rounds, options.seeds)
    if options.only in (None, "speed"):
        fine = speed(options.pairs, options.steps)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
