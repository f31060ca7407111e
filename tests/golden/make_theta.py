"""Writes theta.json: digests of θ after every round of runs whose bits must outlive every refactoring.

    python tests/golden/make_theta.py [nano | churn | adversaries | processes] ...

A digest is BLAKE3 over θ as little-endian float32, in layout order: not the state root, which holds the run id. What
is trained depends on the processor's arithmetic, so the file also holds a `probe` of it; `nano` trains nothing and
holds everywhere. The default run's text is Python's own sources, so `text` says which.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "runs")]

import torch
from blake3 import blake3
from run_builders import Stage, genesis_without, lay_out, write_text
from torch.nn import functional

from muster.audit import audit_run
from muster.history.view import make_view
from muster.kernels import Undo
from muster.lab.adversary import ADVERSARIES
from muster.lab.nano import counting_miner, nano_template
from muster.lab.simulator import Simulator
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.node.replica import Replica
from muster.protocol.spec import load_template
from muster.run.folder import create
from muster.testnet.roster import Roster
from muster.testnet.testnet import Testnet, TestnetOptions

FILE = Path(__file__).with_name("theta.json")
SEEDS = (0, 1, 2)
ROUNDS = 12
SIMULATED_ROUNDS = 4


def probe() -> str:
    """A digest of this machine's float arithmetic as training uses it: products, exponentials, roots, gradients."""
    torch.set_num_threads(1)
    ticks = (torch.arange(96 * 256, dtype=torch.int64) * 2654435761 % 2**32).double() / 2**32 - 0.5
    weight = ticks.float().view(96, 256).requires_grad_()
    inputs = ticks.float().view(256, 96).flip(0) * 3
    hidden = functional.silu(inputs @ weight) * (inputs @ weight).pow(2).mean(-1, keepdim=True).add(1e-5).rsqrt()
    heads = hidden.view(1, 4, 256, 64)
    mixed = functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
    loss = functional.cross_entropy(mixed.reshape(256, 256), torch.arange(256))
    torch.autograd.backward(loss)
    assert weight.grad is not None
    return blake3(loss.detach().numpy().tobytes() + weight.grad.numpy().tobytes()).hexdigest()


def theta_digest(replica: Replica) -> str:
    """BLAKE3 of θ's own bytes."""
    copies = [torch.empty(shape) for shape in replica.layout.shapes]
    replica.copy_into(copies)
    digest = blake3()
    for tensor in copies:
        digest.update(tensor.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


class Watched:
    """θ digests after every record, of the one replica that is watched (the first that applies)."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self._replica: Replica | None = None

    def __enter__(self) -> Watched:
        self._step = step = Replica.step

        def watching(replica: Replica, applied: Any, spec: Any) -> Undo | None:
            undo = step(replica, applied, spec)
            self._replica = self._replica or replica
            if replica is self._replica and not applied.tip.closed:
                self.digests.append(theta_digest(replica))
            return undo

        Replica.step = watching  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Replica.step = self._step  # type: ignore[method-assign]


def tiny_stage(
    folder: Path, seed: int, miners: int, adversaries: Mapping[str, int], rounds_apart: bool = False
) -> Stage:
    """`tiny` over the word-list text, which is the same on every machine and Python."""
    made = load_template("tiny")
    clock = made.clock.model_copy(update={"deadline": 24, "reveal": 12, "grace": 6})
    made = made.model_copy(update={"clock": clock})
    return lay_out(folder / "run", write_text(folder / "text"), made, Roster.of(seed, miners, 1, adversaries))


def simulate(stage: Stage, rounds: int, **how: Any) -> list[str]:
    """The digests of a simulated run."""
    spec = how.pop("spec", stage.spec)
    with Watched() as watched:
        asyncio.run(Simulator(stage.roster, spec, stage.text, **how).run(rounds))
    return watched.digests


def churn(name: str, round_: int) -> bool:
    """Who sits out when: miner-1 twice, miner-2 from round 3 on."""
    return (name == "miner-1" and round_ in (1, 3)) or (name == "miner-2" and round_ >= 3)


def play_nano() -> dict[str, list[str]]:
    """Honest, and with churn; no training."""
    found = {}
    for name, how in (("honest", {}), ("churn", {"absent": churn, "arrivals": {"miner-3": 2}})):
        with tempfile.TemporaryDirectory() as folder:
            roster = Roster.of(0, 4, 1, {})
            stage = lay_out(Path(folder) / "run", write_text(Path(folder) / "text"), nano_template(), roster)
            spec = genesis_without(stage.spec, stage.member("miner-3").hotkey) if how else stage.spec
            found[name] = simulate(stage, ROUNDS, spec=spec, makers=lambda _: counting_miner, **how)
    return found


def play_churn() -> dict[str, list[str]]:
    """`tiny` with absences and a newcomer."""
    with tempfile.TemporaryDirectory() as folder:
        stage = tiny_stage(Path(folder), 0, 4, {})
        spec = genesis_without(stage.spec, stage.member("miner-3").hotkey)
        return {"churn": simulate(stage, 6, spec=spec, absent=churn, arrivals={"miner-3": 2})}


def play_adversaries(names: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """`tiny` with two honest miners and one adversary, for each of them."""
    found = {}
    for name in names or sorted(ADVERSARIES):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = simulate(tiny_stage(Path(folder), 0, 2, {name: 1}), SIMULATED_ROUNDS)
    return found


def default_stage(folder: Path, seed: int) -> Stage:
    """What the default run's processes find: the same roster, spec and text (Python's own sources, of this version)."""
    roster = Roster.of(seed, 4, 1, {})
    run = create(folder / "run", load_template("tiny"), roster, None, block_seconds=0.25)
    return Stage(run, roster, TextReader.open(run.data, run.history.genesis.data.manifest))


def text_digest() -> str:
    """The manifest of the default run's text."""
    with tempfile.TemporaryDirectory() as folder:
        return build_corpus(None, Path(folder) / "data", load_template("tiny").data.window).digest


def play_processes() -> dict[str, list[str]]:
    """The default run by real processes, read back by the audit."""
    return {str(seed): _play_process(seed) for seed in SEEDS}


def _play_process(seed: int) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        options = TestnetOptions("tiny", 4, 1, ROUNDS, seed, path, {}, 0.0)
        from rich.console import Console

        with make_view(Console(stderr=True), True) as view:
            asyncio.run(Testnet(options, view).run())
        with Watched() as watched:
            asyncio.run(audit_run(str(path), None, lambda _: None)).raise_fault()
        return watched.digests


PARTS: dict[str, Callable[[], dict[str, list[str]]]] = {
    "nano": play_nano,
    "churn": play_churn,
    "adversaries": play_adversaries,
    "processes": play_processes,
}


def main(parts: list[str]) -> None:
    """Play and write."""
    document = json.loads(FILE.read_text()) if FILE.exists() else {}
    document |= {"probe": probe(), "text": text_digest()}
    for part in parts or PARTS:
        document[part] = PARTS[part]()
        FILE.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
