"""What the measured card is, and what its vendor says it can do: without both a figure means nothing."""

from __future__ import annotations

import os
import re
from importlib.metadata import PackageNotFoundError, version

import torch

from benchmarks.gpu.section import Found, Setting
from muster.doctor.machine import find_gpu
from muster.kernels import cuda
from muster.node.compute import Machine
from muster.protocol.errors import ConfigError

PEAKS = (
    ("B200", 2250e12),  # Blackwell datasheet, HGX B200 per GPU
    ("H200 NVL", 835e12),  # H200 datasheet
    ("H200", 989e12),
    ("H100 NVL", 835e12),  # H100 datasheet
    ("H100 PCIe", 756e12),
    ("H100", 989e12),
    ("A100", 312e12),  # A100 datasheet
    ("L40S", 362e12),  # L40S datasheet
    ("L4", 121e12),  # L4 datasheet
    ("A10", 125e12),  # A10 datasheet
    ("RTX 5090", 209.5e12),  # RTX Blackwell architecture paper, appendix A
    ("RTX 4090", 165.2e12),  # Ada architecture paper, appendix A
    ("RTX 3090", 71e12),  # GA102 architecture paper, appendix A
)
"""bf16 products with fp32 sums, dense, in operations a second, by NVIDIA's own papers; half of what a datasheet says
"with sparsity". A name stands before the shorter ones that it contains."""


OTHERS = {"D", "Laptop", "Max", "Mobile", "MIG", "Ti"}
"""Words of the names of other chips that share a name of the table, and of parts of a card."""


def peak_of(name: str) -> float | None:
    """The peak of the card that torch calls so; None where the table has not got it."""
    words = re.split(r"[\s-]", name)
    if OTHERS & set(words):
        return None
    for known, peak in PEAKS:
        wanted = known.split()
        if any(words[i : i + len(wanted)] == wanted for i in range(len(words))):
            return peak
    return None


def look(setting: Setting) -> Found:
    """The card's line.

    Raises:
        ConfigError: there is none that can be measured.
    """
    libraries = f"torch {torch.__version__}, Triton {_triton()}"
    if setting.dry:
        return Found(
            f"A dry run on {os.cpu_count()} CPUs at toy sizes, whose figures mean nothing; {libraries}", (), ()
        )
    machine = Machine.look()
    if machine.card is None:
        raise ConfigError(f"{machine.problem}: {machine.cure}")
    if not cuda.suits():
        least = ".".join(map(str, cuda.FIRST_EXACT))
        raise ConfigError(f"the GPU programs need an NVIDIA GPU and Triton {least} or later, not {_triton()}")
    memory, driver = f"{machine.card.memory / 2**30:.0f} GiB", find_gpu().driver or "unknown"
    return Found(f"{machine.card.name}, {memory}, driver {driver}; CUDA {torch.version.cuda}, {libraries}", (), ())


def _triton() -> str:
    try:
        return version("triton")
    except PackageNotFoundError:
        return "none"
