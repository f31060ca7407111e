"""What an operator may wish of how his machine computes, apart from `compute` because commands that only help have no
time to import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from muster.protocol.errors import UsageError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]
Moments = Literal["full", "8bit", "factored"]


@dataclass(frozen=True, slots=True)
class Wished:
    """The settings of computing, as they are named and told of in `muster.run.settings`."""

    device: Device = "auto"
    precision: Precision = "auto"
    compiled: bool = False
    moments: Moments = "full"
    micro_batch: int | None = None
    recompute: bool = False


def device_named(name: str) -> Device:
    """The device of that name.

    Raises:
        UsageError: there is none.
    """
    for device in get_args(Device):
        if device == name:
            found: Device = device
            return found
    raise UsageError(f"--device is one of {', '.join(get_args(Device))}, not {name}")
