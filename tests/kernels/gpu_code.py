"""Compiles the GPU programs, as the public functions launch them, into a folder of PTX; needs no GPU.

    python gpu_code.py FOLDER

A process of its own, because a process that interprets Triton's programs cannot compile them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from kernel_inputs import tensors, update
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from muster.kernels import Codec, Grid, perturb_
from muster.kernels.cuda import compress, language, step

POINTERS = {
    torch.float32: "*fp32",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.uint8: "*u8",
}
CAPABILITY = 80
"""An A100's: the oldest that Triton supports."""


class Compiled:
    """Stands in for a program: launched, it is compiled for the arguments' types, and for those of a huge tensor."""

    def __init__(self, name: str, folder: Path, function: Any) -> None:
        self._name, self._folder, self._function = name, folder, function

    def __getitem__(self, instances: tuple[int]) -> Callable[..., None]:
        return self._compile

    def _compile(self, *values: Any, num_warps: int = 4, **named: Any) -> None:
        options = {key: named.pop(key) for key in language.OPTIONS} | {"num_warps": num_warps}
        fixed = [
            self._function.params[i].name for i in range(len(values)) if self._function.params[i].do_not_specialize
        ]
        for integer in ("i32", "i64"):
            signature, constants = {}, dict(named)
            for name, value in zip(self._function.arg_names, values, strict=False):
                if isinstance(value, Tensor):
                    signature[name] = POINTERS[value.dtype]
                elif value == 1 and name not in fixed:  # what Triton does with an argument that is 1
                    constants[name] = 1
                else:
                    signature[name] = integer
            signature |= dict.fromkeys(constants, "constexpr")
            label = "-".join([self._name, integer, *(f"{key}={value}" for key, value in constants.items())])
            source = ASTSource(self._function, {key: signature[key] for key in self._function.arg_names}, constants)
            made = triton.compile(source, target=GPUTarget("cuda", CAPABILITY, 32), options=options)
            (self._folder / f"{label}.ptx").write_text(made.asm["ptx"])


def main(folder: Path) -> None:
    """Launch everything once, on shapes of every kind."""
    for module in (compress, step):
        for name in ("compress_tiles", "step_tiles", "subtract_tiles", "put_tiles", "put_listed_tiles"):
            if hasattr(module, name):
                setattr(module, name, Compiled(name, folder, getattr(module, name)))
    grid = Grid([(130, 200), (5000,), ()])
    sent, weights = update(grid, 64, 0), np.ones((1, len(grid.shapes)), np.float32)
    compress.compress(tensors(grid, 0), Codec(grid, 64))
    delta = tensors(grid, 0)
    compress.compress_(delta, tensors(grid, 1), 0.95, Codec(grid, 64), delta)
    step.step_(tensors(grid, 0), [sent], weights, 1.0, np.ones(2, np.float32))
    undo = perturb_(tensors(grid, 0), sent, 1.0)
    for updates in ([sent], [sent, sent]):
        step.put_(tensors(grid, 0), updates, undo)
    for flag in (False, True):
        compress.subtract_(tensors(grid, 0), sent, [1.0] * len(grid.shapes), save=flag)


main(Path(sys.argv[1]))
