"""The back end follows from device and size alone, and is asked for in one place."""

from __future__ import annotations

import ast
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from muster.kernels import backend, cuda, fast, reference, small
from muster.kernels.cuda import operations as programs
from muster.kernels.fast import entry_loops
from muster.kernels.fast import operations as compiled

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_a_cpu_takes_all_tensors_at_once_up_to_a_size_and_has_the_compiled_loops_from_there_on() -> None:
    assert backend.choose(CPU, fast.FAST_ENTRIES - 1) is small
    assert backend.choose(CPU, fast.FAST_ENTRIES) is compiled
    assert backend.entry_loops(fast.FAST_ENTRIES - 1) is None
    assert backend.entry_loops(fast.FAST_ENTRIES) is entry_loops
    with patch.object(fast, "suits", lambda _entries: False):
        assert backend.choose(CPU, fast.FAST_ENTRIES) is reference


def test_a_gpu_has_its_programs_whatever_the_size_where_they_can_be_compiled() -> None:
    assert backend.choose(GPU, 1) is backend.choose(GPU, fast.FAST_ENTRIES) is programs
    with patch.object(cuda, "suits", lambda: False):
        assert backend.choose(GPU, fast.FAST_ENTRIES) is reference


def test_other_devices_have_the_reference() -> None:
    assert backend.choose(torch.device("meta"), fast.FAST_ENTRIES) is reference


def test_all_tensors_count_and_tensors_of_several_devices_are_the_references() -> None:
    with patch.object(fast, "FAST_ENTRIES", 6):
        assert backend.backend_of([torch.zeros(3), torch.zeros(3)]) is compiled
        assert backend.backend_of([torch.zeros(3), torch.zeros(2)]) is small
        assert backend.backend_of([torch.zeros(6), torch.zeros(6, device="meta")]) is reference
    assert backend.backend_of([]) is reference


@pytest.mark.parametrize("module", ["compress", "step", "clip", "slice", "frames", "reference", "small"])
def test_no_operation_asks_for_a_back_end_by_name(module: str) -> None:
    tree = ast.parse(Path(backend.__file__).with_name(f"{module}.py").read_text())
    imported = {
        f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert not [name for name in imported if name.startswith(("muster.kernels.fast", "muster.kernels.cuda"))]
