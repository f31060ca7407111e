"""What passes through a device in pieces comes out as if there had been one piece after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from any_order import Device
from hypothesis import example, given, settings
from hypothesis import strategies as st
from kernel_inputs import same_bits, tensor
from torch import Tensor

from muster.kernels.lanes import IN_FLIGHT, Piece, pass_through

SIZES = st.lists(st.integers(1, 5), max_size=9)
EAGERNESS = st.sampled_from([0.0, 0.5, 0.9, 1.0])
KINDS = ["in", "out", "both", "neither"]


def passed(device: Device, sizes: list[int], kind: str) -> tuple[list[Tensor], list[Tensor]]:
    """What is on the device, and in the host's memory, once pieces of these sizes have passed through."""
    there = [tensor((size,), 3 * n) for n, size in enumerate(sizes)]
    sources = [tensor((size,), 3 * n + 1) for n, size in enumerate(sizes)]
    targets = [torch.zeros(size) for size in sizes]

    def work(part: Tensor) -> Callable[[Tensor | None], object]:
        return lambda came: part.mul_(0.5).add_(1.0 if came is None else came)

    pieces = [
        Piece(
            there[n],
            sources[n] if kind in ("in", "both") else None,
            targets[n] if kind in ("out", "both") else None,
            work(there[n]),
        )
        for n in range(len(sizes))
    ]
    pass_through(iter(pieces), device.make(), max(sizes, default=0))
    return there, targets


def expected(sizes: list[int], kind: str) -> tuple[list[Tensor], list[Tensor]]:
    there = [
        tensor((size,), 3 * n) * 0.5 + (tensor((size,), 3 * n + 1) if kind in ("in", "both") else 1.0)
        for n, size in enumerate(sizes)
    ]
    return there, there if kind in ("out", "both") else [torch.zeros(size) for size in sizes]


def right(device: Device, sizes: list[int], kind: str) -> bool:
    return all(
        same_bits(a, b)
        for made, wanted in zip(passed(device, sizes, kind), expected(sizes, kind), strict=True)
        for a, b in zip(made, wanted, strict=True)
    )


@given(SIZES, st.sampled_from(KINDS), st.integers(0, 1000), EAGERNESS)
@example([5, 1, 4, 2, 3], "both", 0, 0.0)
@example([5, 1, 4, 2, 3], "in", 0, 0.0)
@example([], "both", 0, 0.0)
def test_whatever_the_device_does_first_the_bits_are_those_of_one_after_the_other(
    sizes: list[int], kind: str, seed: int, eagerness: float
) -> None:
    device = Device(seed, eagerness)
    assert right(device, sizes, kind)
    assert not any(lane.asked for lane in device.lanes), "something is still to be done"


@settings(max_examples=20)
@given(SIZES, st.integers(0, 1000), EAGERNESS)
def test_memory_is_for_two_pieces_however_many_there_are(sizes: list[int], seed: int, eagerness: float) -> None:
    device, most = Device(seed, eagerness), max(sizes, default=0)
    passed(device, sizes, "both")
    flight = min(len(sizes), IN_FLIGHT)
    assert device.host == [most] * 2 * flight
    assert device.room == [most] * flight


def test_a_copy_is_under_way_while_the_piece_before_it_is_worked_with() -> None:
    """Even on a device that does nothing until it is waited for: piece n + 1 was asked for before n is computed."""
    asked, seen = 0, []

    def note(_came: Tensor | None) -> None:
        seen.append(asked)

    def pieces() -> Iterator[Piece]:
        nonlocal asked
        for n in range(4):
            asked += 1
            yield Piece(torch.zeros(2), tensor((2,), n), torch.zeros(2), note)

    pass_through(pieces(), Device(0, 0.0).make(), 2)
    assert len(seen) == 4
    assert all(asked_by_then >= n + 2 for n, asked_by_then in enumerate(seen[:-1]))


WAITS = ["host after inward", "host after outward", "inward after compute", "compute after inward",
         "outward after compute"]  # fmt: skip


@pytest.mark.parametrize("wait", WAITS)
def test_every_kind_of_wait_is_needed(wait: str) -> None:
    """Without one of them there is an order of things that makes other bits."""
    sizes, wrong = [3] * 5, 0
    for kind in ("in", "both"):
        whole = Device(0, 0.0)
        passed(whole, sizes, kind)
        for number in (n for n, each in enumerate(whole.waits) if each == wait):
            wrong += any(
                not right(Device(seed, eagerness, number), sizes, kind)
                for seed in range(20)
                for eagerness in (0.0, 0.5, 0.9)
            )
    assert wrong > 0


def test_a_device_that_fails_is_left_with_nothing_to_do() -> None:
    """Buffers are given up when the copies from and to them have ended, whatever was raised meanwhile."""
    device = Device(0, 0.0)
    lanes = device.make()

    def pieces() -> Iterator[Piece]:
        for n in range(3):
            yield Piece(torch.zeros(2), tensor((2,), n), torch.zeros(2), lambda _came: None)
        raise MemoryError

    with pytest.raises(MemoryError):
        pass_through(pieces(), lanes, 2)
    assert not any(lane.asked for lane in device.lanes)
