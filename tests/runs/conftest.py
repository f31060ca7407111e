"""The text all whole runs train on, written once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from run_builders import SEED, MakeStage, Stage, lay_out, template, write_text

from muster.testnet.roster import Roster

torch.set_num_threads(1)


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
