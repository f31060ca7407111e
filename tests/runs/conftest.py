"""What whole runs have in common: the text they train on, and that all participants share one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import bittensor_core
import pytest
import torch
from run_builders import SEED, MakeStage, Stage, lay_out, template, write_text

from muster.testnet.roster import Roster

torch.set_num_threads(1)

SIGNATURES = 1 << 13
"""Signed messages that are remembered, of a KiB mostly: a crowd's of some rounds."""


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """A signature is verified once, not by each participant, of which a simulated run has all in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bittensor_core, "verify", lru_cache(SIGNATURES)(bittensor_core.verify))
        yield


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of text."""
    return write_text(tmp_path_factory.mktemp("text") / "files")


@pytest.fixture(scope="session")
def stage(texts: list[Path], tmp_path_factory: pytest.TempPathFactory) -> MakeStage:
    """A maker of runs in fresh folders."""

    def make(
        miners: int = 3,
        validators: int = 1,
        seed: int = SEED,
        adversaries: Mapping[str, int] | None = None,
        **sections: Mapping[str, Any],
    ) -> Stage:
        roster = Roster.of(seed, miners, validators, adversaries or {})
        return lay_out(tmp_path_factory.mktemp("run") / "run", texts, template(**sections), roster)

    return make
