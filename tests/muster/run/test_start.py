"""What a miner's process has loaded once it takes part: nothing that takes seconds or megabytes for nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from doctor_setups import lay_out

NEEDLESS = ("bittensor", "boto3", "botocore", "numba", "sympy", "torch._dynamo", "torch._inductor", "muster.validator")
"""The chain's and Amazon's own clients, compilers, and another role's code; numba is for larger models."""

PROGRAM = f"""
import logging, os, sys

class Ready(logging.Handler):
    def emit(self, record):
        if "takes part" in record.getMessage():
            print(sorted(name for name in {NEEDLESS!r} if name in sys.modules), flush=True)
            os._exit(0)

logging.getLogger().addHandler(Ready())
logging.getLogger().setLevel(logging.INFO)
from muster.cli import main
main()
"""


def test_a_miner_loads_nothing_that_it_does_without(tmp_path: Path) -> None:
    run = lay_out(tmp_path / "run")
    arguments = ["miner", "--run", str(run.path), "--name", "miner-0"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], check=True, stdout=subprocess.PIPE, text=True, timeout=600
    )
    assert done.stdout == "[]\n"
