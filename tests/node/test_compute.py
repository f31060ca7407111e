"""What is chosen to compute with: a GPU where one works, the CPU otherwise, and a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from muster.node.compute import CPU, Card, Machine, choose
from muster.node.wished import Wished, device_named
from muster.protocol.errors import ConfigError, UsageError

H100 = Card("NVIDIA H100", 80 << 30, (9, 0))
V100 = Card("Tesla V100", 16 << 30, (7, 0))
BARE = Machine(None, "torch 2.13.0+cpu is built for CPUs only", "install torch's build for your CUDA version", False)


def test_a_gpu_that_works_is_taken_with_the_products_that_it_has_units_for() -> None:
    compute, why = choose(Machine(H100, "", "", bf16=True))
    assert (compute.device, compute.autocast) == (torch.device("cuda", 0), True)
    assert why == "bf16 products on NVIDIA H100 with 80 GiB"
    compute, why = choose(Machine(V100, "", "", bf16=True))
    assert (compute.device.type, compute.autocast) == ("cuda", False)
    assert why == "fp32 products on Tesla V100 with 16 GiB"


def test_without_one_it_is_the_cpu_and_the_sentence_says_what_is_missing() -> None:
    compute, why = choose(BARE)
    assert compute == CPU
    assert why == "fp32 products on the CPU: torch 2.13.0+cpu is built for CPUs only"


def test_on_a_cpu_with_instructions_for_bf16_it_is_measured_what_is_faster() -> None:
    able = Machine(None, "no driver", "install one", bf16=True)
    assert choose(able)[0].autocast is None
    assert choose(able, Wished(precision="fp32"))[0].autocast is False
    assert choose(able, Wished(precision="bf16"))[0].autocast is True


def test_a_gpu_is_left_alone_where_the_cpu_is_wished() -> None:
    compute, why = choose(Machine(H100, "", "", bf16=False), Wished("cpu"))
    assert compute == CPU
    assert why == "fp32 products on the CPU, as set"


def test_cuda_where_there_is_none_is_refused_with_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"built for CPUs only: install torch's build .* or set device to cpu"):
        choose(BARE, Wished("cuda"))


def test_bf16_of_a_card_without_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="Tesla V100 has no units for; set precision"):
        choose(Machine(V100, "", "", bf16=True), Wished(precision="bf16"))


def test_what_is_wished_beyond_that_is_told() -> None:
    wished = Wished(compiled=True, moments="8bit", micro_batch=4, recompute=True)
    compute, why = choose(BARE, wished)
    assert (compute.compiled, compute.moments, compute.micro_batch, compute.recompute) == (True, "8bit", 4, True)
    assert why.startswith("fp32 products, compiled, 8bit moments, 4 windows at a time, activations recomputed on")


def test_a_device_is_named_as_the_settings_name_it() -> None:
    assert device_named("cuda") == "cuda"
    with pytest.raises(UsageError, match="auto, cpu, cuda, not gpu"):
        device_named("gpu")


# ---- what torch says of itself, planted


def cannot() -> torch.Tensor:
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")


@pytest.mark.parametrize(
    ("cuda", "available", "ones", "problem", "cure"),
    [
        (None, False, torch.ones, "built for CPUs only", "install torch's build"),
        ("13.0", False, torch.ones, "no GPU with a driver (the driver is too old)", "nvidia-smi"),
        (
            "13.0",
            True,
            lambda *_a, **_k: cannot(),
            "no kernel image is available for execution on the device)",
            "build",
        ),
    ],
)
def test_why_a_gpu_cannot_be_used_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
    cuda: str | None,
    available: bool,
    ones: Callable[..., torch.Tensor],
    problem: str,
    cure: str,
) -> None:
    def is_available() -> bool:
        if not available:
            import warnings

            warnings.warn("the driver is too old", stacklevel=1)
        return available

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _i: SimpleNamespace(name="a card"))
    monkeypatch.setattr(torch, "ones", ones)
    machine = Machine.look()
    assert machine.card is None
    assert problem in machine.problem
    assert cure in machine.cure


def test_a_card_that_adds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    adds = torch.ones(1)
    found = SimpleNamespace(name=H100.name, total_memory=H100.memory, major=9, minor=0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _i: found)
    monkeypatch.setattr(torch, "ones", lambda *_a, **_k: adds)
    assert Machine.look().card == H100
    assert adds.item() == 2
