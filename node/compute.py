"""How this machine computes: device, precision, memory. Nothing of it is consensus, and no two peers need agree on it.

θ has the same bits whichever way it is trained and measured; what a miner sends, and the last bits of a loss, have not.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from muster.node.wished import Moments, Wished
from muster.protocol.errors import ConfigError

_CPU = torch.device("cpu")

BF16_CARDS = (8, 0)
"""The first compute capability with bf16 tensor cores (NVIDIA A100); older cards only imitate them."""

_PROCESSOR = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU that torch has just computed with: its name, bytes of memory, and compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to compute with.

    `card` is the first GPU, if it works; where none does, `problem` says why and `cure` what to do about it. `bf16` is
    whether the processor has instructions for products of bf16.
    """

    card: Card | None
    problem: str
    cure: str
    bf16: bool

    @classmethod
    def look(cls) -> Machine:
        """Ask torch and the kernel; a GPU counts once it has added two numbers."""
        bf16 = bool(_BF16_FLAGS & set(re.findall(r"\w+", _read(_PROCESSOR))))
        return cls(*_working_card(), bf16)


@dataclass(frozen=True, slots=True)
class Compute:
    """How one participant computes.

    Attributes:
        device: where θ, the working copy and the moments are.
        autocast: matrix products in bf16 over fp32 weights; None: the engine times both when it starts (CPUs only).
        compiled: the model's loss goes through `torch.compile`.
        moments: what is kept of the optimizer's moments ("full": fp32; "8bit"; "factored": no momentum, the second
            moment by rows and columns).
        micro_batch: windows in one forward pass, whose gradients add up to the batch's; None: the whole batch, halved
            when a GPU's memory does not hold it.
        recompute: activations inside the layers are made again in the backward pass instead of kept.
    """

    device: torch.device = _CPU
    autocast: bool | None = False
    compiled: bool = False
    moments: Moments = "full"
    micro_batch: int | None = None
    recompute: bool = False

    def said(self) -> str:
        """The parts of it that are not the default, in words for people."""
        products = {None: "bf16 or fp32 products, as found faster", True: "bf16 products", False: "fp32 products"}
        words = [products[self.autocast]]
        words += ["compiled"] if self.compiled else []
        words += [] if self.moments == "full" else [f"{self.moments} moments"]
        words += [f"{self.micro_batch} windows at a time"] if self.micro_batch else []
        words += ["activations recomputed"] if self.recompute else []
        return ", ".join(words)


CPU = Compute()
"""One plain processor: what everything computes with that is not told otherwise."""


def choose(machine: Machine, wished: Wished | None = None) -> tuple[Compute, str]:
    """How to compute on a machine, as wished, and a sentence that says what was chosen and why.

    Raises:
        ConfigError: `device` is "cuda" and no GPU can be used; or bf16 is wished of a GPU that has it not.
    """
    wished, card = wished or Wished(), machine.card
    if wished.device == "cuda" and card is None:
        raise ConfigError(f"device is cuda, but {machine.problem}: {machine.cure}, or set device to cpu")
    if card is None or wished.device == "cpu":
        here, where = _CPU, "the CPU" + (", as set" if wished.device == "cpu" else f": {machine.problem}")
        auto = None if machine.bf16 else False
    else:
        where = f"{card.name} with {card.memory / 2**30:.0f} GiB" + ("" if wished.device == "auto" else ", as set")
        here, auto = torch.device("cuda", 0), card.capability >= BF16_CARDS
        if wished.precision == "bf16" and not auto:
            raise ConfigError(f"precision is bf16, which {card.name} has no units for; set precision to auto or fp32")
    autocast = auto if wished.precision == "auto" else wished.precision == "bf16"
    compute = Compute(here, autocast, wished.compiled, wished.moments, wished.micro_batch, wished.recompute)
    return compute, f"{compute.said()} on {where}"


def _working_card() -> tuple[Card | None, str, str]:
    """The first GPU; or None, why there is none, and what to do about that."""
    if torch.version.cuda is None and torch.version.hip is None:
        return None, f"torch {torch.__version__} is built for CPUs only", "install torch's build for your CUDA version"
    with warnings.catch_warnings(record=True) as said:  # torch tells of an old driver by a warning
        warnings.simplefilter("always")
        found = torch.cuda.is_available()
    if not found:
        why = f" ({str(said[0].message).splitlines()[0]})" if said else ""
        return None, f"torch finds no GPU with a driver{why}", "install NVIDIA's until `nvidia-smi` lists the card"
    try:
        properties = torch.cuda.get_device_properties(0)
        torch.ones(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        return None, f"the first GPU fails ({why})", "free it, or install a torch build that knows this card"
    return Card(properties.name, properties.total_memory, (properties.major, properties.minor)), "", ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
