"""What a miner holds decides who can take part: so many copies of θ between rounds, and so many at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("model", "resident", "peak"), [("tiny", 9, 20), ("30m", 5.8, 8)])
def test_a_miner_holds_few_copies_of_theta(model: str, resident: float, peak: float, tmp_path: Path) -> None:
    """θ, working weights and two moments between rounds; gradients while it trains, or Δ and e while it compresses.

    The rest is small things, and the compiled loops. Measured 5.0 and 7.0 of 30M parameters, 5.7 and 16 of `tiny`,
    whose θ of 1.3 MB is little beside those and beside the maps of its entries; commit 5c6907b held 13 and 21 at least.
    """
    program = Path(__file__).with_name("miner_memory.py")
    plain = {  # what is freed is gone
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "THP_MEM_ALLOC_ENABLE": "0",
    }
    done = subprocess.run(
        (sys.executable, str(program), model, str(tmp_path)), check=True, env=plain, stdout=subprocess.PIPE, timeout=900
    )
    took = json.loads(done.stdout)
    assert 3 < took["resident"] <= resident
    assert took["peak"] <= peak
