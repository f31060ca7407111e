"""The bench's runs: a counted Δ is everywhere the same, and a run is the same however its time passes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from blake3 import blake3

from muster.kernels import fast
from muster.lab import clock
from muster.lab.faults import Fault, Script
from muster.lab.nano import compiled_loops, counted_delta, counting_miner, nano_template
from muster.lab.simulator import SimulatedRun, Simulator
from muster.node.data.build import build_corpus
from muster.node.data.dataset import TextReader
from muster.node.telemetry.events import Applied
from muster.protocol.spec import RunSpec
from muster.protocol.spec.layout import layout_of
from muster.testnet.roster import Roster

BLOCK_SECONDS = 12.0
ROUNDS = 3
ROSTER = Roster.of(0, 2, 1, {})


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunSpec, TextReader]:
    """A run of two miners over the same few words."""
    folder, template = tmp_path_factory.mktemp("nano"), nano_template()
    texts = []
    for i in range(8):
        texts.append(folder / f"{i}.txt")
        texts[-1].write_text(f"the {i}th text is like every other one and says nothing; " * 40)
    manifest = build_corpus(texts, folder / "data", template.data.window)
    return ROSTER.spec(template, manifest), TextReader.open(folder / "data", manifest.digest)


def play(
    laid_out: tuple[RunSpec, TextReader], faults: Sequence[Fault] = (), block_seconds: float | None = BLOCK_SECONDS
) -> tuple[SimulatedRun, Script]:
    spec, text = laid_out
    script = Script(faults)
    simulator = Simulator(
        ROSTER, spec, text, makers=lambda _: counting_miner, script=script, block_seconds=block_seconds
    )
    return clock.run(simulator.run(ROUNDS)), script


@pytest.fixture(scope="module")
def honest(laid_out: tuple[RunSpec, TextReader]) -> tuple[SimulatedRun, Script]:
    return play(laid_out)


def test_the_template_is_small() -> None:
    assert layout_of(nano_template().model).parameters == 6_064


def test_a_delta_is_counted_out() -> None:
    layout = layout_of(nano_template().model)
    made = counted_delta(layout, 3, bytes(32), 7)
    assert [tuple(tensor.shape) for tensor in made] == list(layout.shapes)
    flat = torch.cat([tensor.reshape(-1) for tensor in made])
    stream = blake3(b"muster/lab/delta/v1" + (3).to_bytes(8, "little") + bytes(32) + (7).to_bytes(8, "little"))
    words = stream.digest(length=2 * layout.parameters)
    for i in (0, 1, 6_063):
        assert flat[i] == (int.from_bytes(words[2 * i : 2 * i + 2], "little") - 2**15) / 2**25
    assert flat.abs().max() <= 2.0**-10
    for other in (counted_delta(layout, 4, bytes(32), 7), counted_delta(layout, 3, b"\1" * 32, 7)):
        assert not torch.equal(flat, torch.cat([tensor.reshape(-1) for tensor in other]))


def test_everybody_is_accepted_in_every_round(honest: tuple[SimulatedRun, Script]) -> None:
    run, _ = honest
    assert len(run.state_roots) == len(set(run.state_roots)) == ROUNDS
    for event in run.events("aggregator-0", Applied)[:ROUNDS]:
        assert (len(event.accepted), event.rejected) == (2, {})


def test_time_that_passes_by_the_clock_changes_nothing(
    laid_out: tuple[RunSpec, TextReader], honest: tuple[SimulatedRun, Script]
) -> None:
    """But for how many blocks the validator's scoring, which goes on beside the rounds, is behind them."""
    run, _ = honest
    waiting, _ = play(laid_out, block_seconds=None)
    assert waiting.state_roots == run.state_roots
    for name in run.participants:
        applied = [(event.round, event.accepted) for event in run.events(name, Applied)]
        assert [(event.round, event.accepted) for event in waiting.events(name, Applied)] == applied


def test_compiled_loops_make_the_same_bits(
    laid_out: tuple[RunSpec, TextReader], honest: tuple[SimulatedRun, Script]
) -> None:
    before = fast.FAST_ENTRIES
    with compiled_loops():
        compiled, _ = play(laid_out)
    assert compiled.state_roots == honest[0].state_roots
    assert before == fast.FAST_ENTRIES


def test_requests_are_known_by_who_asks_and_for_what(honest: tuple[SimulatedRun, Script]) -> None:
    run, script = honest
    for miner in ("miner-0", "miner-1"):
        assert script.asked(miner, "store.put", "submissions.key") == ROUNDS
    assert script.asked("aggregator-0", "chain.commit", "anchor") == ROUNDS + 1
    assert {asked.who for asked in script.requests} == set(run.participants)


def test_a_fault_reaches_whom_it_names(
    laid_out: tuple[RunSpec, TextReader], honest: tuple[SimulatedRun, Script]
) -> None:
    """One record is slow to read for one miner: it alone has it later, and the run is the same."""
    fault = Fault("slow", "store.get", "*/00000001-*.rec", who="miner-1", owner="operator-0", count=1, seconds=5.0)
    run, script = play(laid_out, [fault])
    assert script.fired[fault] == 1
    assert run.state_roots == honest[0].state_roots

    def applied(name: str) -> float:
        told = run.journals[name]
        return next(noted.time for noted in told if isinstance(noted.event, Applied) and noted.event.round == 1)

    assert applied("miner-1") == applied("miner-0") + 5.0
