"""What is the outer step worth where half of the seats do half of the work? Clip and count by norms or by windows.

    python -m benchmarks.clip [--rounds 48] [--seeds 0 1 2] [--alpha 1.0] [--cases norms …]

Four peers do all of a round's work, four half of it and say so. `norms` weighs them as if all declared the same,
`windows` is the product's clip, norm per declared window; `root` takes norm per root of the declared windows, `none`
does not clip. `…, count` also counts a peer by its share of the largest declared work, in R and in the number of
senders of each coordinate, instead of as one. `alone` is the four full ones by themselves, `all full` eight of them.
Held-out loss, nat/byte, mean over the last quarter of the rounds, for each seed, and the mean and standard error over
the seeds of its difference to `norms`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.convergence.engine import Peer
from benchmarks.convergence.setting import open_text, roster_of, spec_of, windows_of
from benchmarks.convergence.variant import Variant
from muster.kernels import SparseUpdate, aggregate_
from muster.node.data.dataset import TextReader
from muster.node.miner.engine import Job
from muster.node.replica import Replica
from muster.node.replica.genesis import genesis_parameters
from muster.protocol.ledger import prepare
from muster.protocol.rules.sampling import sample
from muster.protocol.spec import Template, load_template
from muster.validator.gauntlet.validator import HELDOUT_BEACON

TEXT = Path(__file__).parent / ".cache" / "clip-text"
SEATS = 8
WINDOW = 32
ROUNDS = 48
HALF = SEATS // 2
STEPS, BATCH = 8, 4
ALIKE, ROOT, PRODUCT = 0.0, 0.5, 1.0
FINE = 1 << 20
"""Roots of windows are told in such parts, as whole numbers."""
CASES = {
    "all full": (SEATS, 0, PRODUCT, False),
    "alone": (HALF, 0, PRODUCT, False),
    "norms": (HALF, HALF, ALIKE, False),
    "none": (HALF, HALF, None, False),
    "root": (HALF, HALF, ROOT, False),
    "root, count": (HALF, HALF, ROOT, True),
    "windows": (HALF, HALF, PRODUCT, False),
    "windows, count": (HALF, HALF, PRODUCT, True),
}
"""Full peers, half-workers, the power of a peer's windows that the product's rule is told, whether they count so."""


def study_template() -> Template:
    """`tiny` at 27 thousand parameters, so that a run of eight peers takes a quarter of a minute on one core."""
    tiny = load_template("tiny")
    model = {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 64, "context": WINDOW}
    return tiny.model_copy(
        update={
            "model": tiny.model.model_copy(update=model),
            "data": tiny.data.model_copy(update={"window": WINDOW}),
        }
    )


class Worker(Peer):
    """A peer that does `share` of a round's steps."""

    share = 1.0

    @property
    def inner_steps(self) -> int:
        """How many of the round's inner steps it does."""
        return int(self._variant.steps * self.share)


def counted_(
    theta: Sequence[Tensor], updates: Sequence[SparseUpdate], weights: np.ndarray, work: Sequence[int], alpha: float
) -> None:
    """The outer step of `damped_mean` where a sender counts by its share of the largest work; in fp64, for a look."""
    shares = [each / max(work) for each in work]
    for i, tensor in enumerate(theta):
        total = torch.zeros(tensor.numel(), dtype=torch.float64)
        senders = torch.zeros(tensor.numel(), dtype=torch.float64)
        for update, weight, share in zip(updates, weights, shares, strict=True):
            positions = update.positions(i)
            total[positions] += float(weight[i]) * update.values(i).double()
            senders[positions] += share
        step = torch.where(senders > 0, total / (senders * sum(shares)).clamp(min=1e-9).sqrt(), 0.0)
        tensor.sub_((alpha * step).view(tensor.shape).to(tensor.dtype))


def play(case: str, seed: int, rounds: int, alpha: float, text: TextReader) -> list[float]:
    """The held-out loss after each round."""
    full, half, power, counts = CASES[case]
    template = study_template()
    variant = Variant(
        peers=full + half,
        steps=STEPS,
        rounds=rounds,
        batch=BATCH,
        lr=template.inner.lr,
        rule="damped_mean",
        alpha=alpha,
        seed=seed,
    )
    spec = spec_of(variant, text.manifest, template)
    spec = spec.model_copy(update={"outer": spec.outer.model_copy(update={"norm_clip": power is not None})})
    theta = genesis_parameters(spec.model, seed)
    replica = Replica(spec.model, spec.run_id(), theta, 0)
    peers = [Worker(i, 1 + i, m.identity.public, spec, variant) for i, m in enumerate(roster_of(variant).miners)]
    for peer in peers[full:]:
        peer.share = 0.5
    heldout = text.heldout(sample(HELDOUT_BEACON, b"heldout", spec.data.heldout, spec.gauntlet.heldout_windows))
    losses = []
    for round_ in range(rounds):
        sent = []
        for peer in sorted(peers, key=lambda peer: peer.public):
            most = peer.inner_steps * spec.inner.batch
            windows = text.windows(windows_of(seed, round_, peer.uid, spec.data, most))
            job = Job(round_, round_ * spec.inner.steps, spec.inner, windows)
            sent.append((peer.send(peer.engine.run(replica, job).tensors, round_, accepted=True), most))
        updates, work = zip(*sent, strict=True)
        capped, weights, _ = prepare(updates, [round(FINE * each ** (power or 0)) for each in work], spec)
        if counts:
            counted_(theta, capped, weights, work, alpha)
        else:
            aggregate_(theta, capped, weights, alpha, spec.outer.rule)
        losses.append(replica.loss(heldout))
    return losses


def main() -> None:
    """Play every case with every seed and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    text = open_text(TEXT, WINDOW)
    last = max(1, chosen.rounds // 4)
    found: dict[str, list[float]] = {}
    for case in chosen.cases:
        runs = [play(case, seed, chosen.rounds, chosen.alpha, text) for seed in chosen.seeds]
        found[case] = [statistics.mean(run[-last:]) for run in runs]
        final = " ".join(f"{run[-1]:.3f}" for run in runs)
        whole = " ".join(f"{value:.3f}" for value in found[case])
        print(f"{case:16} mean {statistics.mean(found[case]):.3f} ({whole}), last {final}", flush=True)
    for case in chosen.cases if "norms" in found else ():
        gains = [a - b for a, b in zip(found[case], found["norms"], strict=True)]
        error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
        print(f"{case:16} {statistics.mean(gains):+.3f} ± {error:.3f} against norms")


if __name__ == "__main__":
    main()
