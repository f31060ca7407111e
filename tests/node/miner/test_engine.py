"""What a miner relies on, true of every engine: θ in, Δ out, and what it keeps survives a process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builders import MODEL, SEED, identity, run_spec
from torch import Tensor

from muster.lab.nano import CountingEngine
from muster.node.miner.engine import Engine, Job
from muster.node.miner.inner import LocalEngine
from muster.node.miner.state import Entry, MinerState, load_state, save_state
from muster.node.replica import Replica
from muster.protocol.errors import MusterError

SPEC = run_spec()
BATCH, STEPS, WINDOW = SPEC.inner.batch, SPEC.inner.steps, SPEC.data.window

MakeEngine = Callable[[], Engine]
MAKERS: dict[str, MakeEngine] = {
    "local": lambda: LocalEngine(SPEC.model, SPEC.inner),
    "counting": lambda: CountingEngine(SEED, identity("alice").public),
}


@pytest.fixture(params=sorted(MAKERS))
def make(request: pytest.FixtureRequest) -> MakeEngine:
    """Makes engines of one kind, each as a process does that begins."""
    return MAKERS[request.param]


@pytest.fixture
def replica() -> Replica:
    """θ_0."""
    return Replica.genesis(SPEC, SPEC.run_id())


def job(round_: int = 0, windows: int = STEPS * BATCH) -> Job:
    """A round's work, on text of its own."""
    generator = torch.Generator().manual_seed(round_)
    text = torch.randint(0, MODEL.vocab, (windows, WINDOW + 1), generator=generator)
    return Job(round_, round_ * STEPS, SPEC.inner, text)


def bits(tensors: tuple[Tensor, ...]) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in tensors]


class TestEngine:
    """The same for all of them."""

    def test_a_delta_fits_the_layout_and_is_the_receivers(self, make: MakeEngine, replica: Replica) -> None:
        engine = make()
        first = engine.run(replica, job(0))
        assert [tuple(tensor.shape) for tensor in first.tensors] == list(replica.layout.shapes)
        assert all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in first.tensors)
        assert any(tensor.any() for tensor in first.tensors)
        before = bits(first.tensors)
        engine.run(replica, job(1))
        assert bits(first.tensors) == before, "the next round leaves it alone"

    def test_theta_stays_as_it_is(self, make: MakeEngine, replica: Replica) -> None:
        delta = make().run(replica, job())
        for tensor in delta.tensors:
            tensor.zero_()
        assert replica.root() == Replica.genesis(SPEC, SPEC.run_id()).root()

    def test_as_many_steps_as_there_are_batches_and_no_more_than_h(self, make: MakeEngine, replica: Replica) -> None:
        assert make().run(replica, job(windows=STEPS * BATCH + 5 * BATCH)).steps == STEPS
        assert make().run(replica, job(windows=BATCH)).steps == 1
        with pytest.raises(ValueError, match=f"takes {BATCH} windows, only {BATCH - 1}"):
            make().run(replica, job(windows=BATCH - 1))

    def test_a_second_life_goes_on_where_the_first_ended(
        self, make: MakeEngine, replica: Replica, tmp_path: Path
    ) -> None:
        path, layout, lasting = tmp_path / "memory.safetensors", replica.layout, make()
        lasting.run(replica, job(0))
        save_state(path, layout, MinerState.blank(layout), lasting.state)
        expected = bits(lasting.run(replica, job(1)).tensors)
        restarted = make()
        load_state(path, layout, restarted.load_state)
        assert bits(restarted.run(replica, job(1)).tensors) == expected

    def test_nothing_to_load_makes_it_cold(self, make: MakeEngine, replica: Replica) -> None:
        engine = make()
        expected = bits(engine.run(replica, job()).tensors)
        engine.load_state(())
        assert list(engine.state()) == []
        assert bits(engine.run(replica, job()).tensors) == expected

    def test_what_is_not_its_own_is_refused_and_changes_nothing(self, make: MakeEngine, replica: Replica) -> None:
        engine, foreign = make(), [("model.norm.weight", {"momentum": torch.zeros(3)})]
        engine.run(replica, job(0))
        before: list[Entry] = list(engine.state())
        with pytest.raises(MusterError):
            engine.load_state(foreign)
        assert [name for name, _ in engine.state()] == [name for name, _ in before]


def test_entries_are_named_as_the_layout_names_its_tensors(replica: Replica) -> None:
    """A state file has one entry a tensor, whoever writes which part of it."""
    engine = MAKERS["local"]()
    engine.run(replica, job())
    assert tuple(name for name, _ in engine.state()) == replica.layout.names
