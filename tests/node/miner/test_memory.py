"""What a miner holds decides who can take part: so many copies of θ between rounds, and so many at most."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("model", "resident", "peak"), [("tiny", 10, 15), ("30m", 7, 8.5)])
def test_a_miner_holds_few_copies_of_theta(model: str, resident: float, peak: float) -> None:
    """θ, e, working weights and two moments between rounds; gradients too while it trains. The rest is small things.

    Measured 6.0 and 7.3 of 30M parameters, 6.7 and 9.9 of `tiny`, whose θ of 1.3 MB is little beside those; commit
    5c6907b held 13 and 21 at least.
    """
    program = Path(__file__).with_name("miner_memory.py")
    plain = {  # what is freed is gone
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "THP_MEM_ALLOC_ENABLE": "0",
    }
    done = subprocess.run(
        (sys.executable, str(program), model), check=True, env=plain, stdout=subprocess.PIPE, timeout=900
    )
    took = json.loads(done.stdout)
    assert 4 < took["resident"] <= resident
    assert took["peak"] <= peak
