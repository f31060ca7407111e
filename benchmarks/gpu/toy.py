"""A GPU for a dry run: Triton's interpreter on the CPU, and lanes in which everything is done at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tomli_w
import torch

from muster.kernels import backend
from muster.kernels.lanes import Lanes, Mark
from muster.lab.nano import nano_template
from muster.protocol.spec import load_template


@contextmanager
def interpreted() -> Iterator[None]:
    """Within, the kernels' public functions run the GPU programs on the CPU; TRITON_INTERPRET must have been set."""
    from muster.kernels.cuda import operations, step

    # The interpreter computes with numpy, which warns where a sum overflows.
    with (
        np.errstate(all="ignore"),
        patch.object(backend, "choose", lambda *_of: operations),
        patch.object(step, "INSTANCES", 2),
    ):
        yield


@contextmanager
def only_traced() -> Iterator[None]:
    """Within, `torch.compile` traces a model and runs what it traced as it is: no C compiler is needed."""
    with patch.object(torch, "compile", partial(torch.compile, backend="eager")):
        yield


def write_preset(path: Path) -> Path:
    """The smallest run of real processes: the bench's model, with the patience of `tiny`."""
    made = nano_template().model_copy(update={"clock": load_template("tiny").clock})
    path.write_text(tomli_w.dumps(made.model_dump(mode="json")))
    return path


class _AtOnce:
    """A lane, and every mark in it: nothing is ever waited for."""

    def run(self, work: Callable[[], object]) -> None:
        work()

    def after(self, mark: Mark) -> None:
        pass

    def mark(self) -> Mark:
        return self

    def wait(self) -> None:
        pass


def lanes() -> Lanes:
    """Lanes of the CPU."""
    return Lanes(_AtOnce(), _AtOnce(), _AtOnce(), torch.empty, torch.empty)
