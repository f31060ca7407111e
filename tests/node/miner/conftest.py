"""What tests of inner training begin with: one thread, θ, and each optimizer that a run may name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from inner_world import MODEL, inner_of

from muster.node.replica.genesis import genesis_parameters
from muster.protocol.spec import InnerSpec


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["adamw", "muon"])
def optimizer(request: pytest.FixtureRequest) -> str:
    """Every optimizer a run may name: what is true of one is true of all."""
    name: str = request.param
    return name


@pytest.fixture
def inner(optimizer: str) -> InnerSpec:
    return inner_of(optimizer=optimizer)


@pytest.fixture
def theta() -> list[torch.Tensor]:
    return genesis_parameters(MODEL, 0)
