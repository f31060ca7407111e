"""What a miner's start costs beyond `import torch`: processor time of a fresh process until its participant is ready.

    python -P -m daemons.start RUN      (in a build's folder, as `prepare` has it done)

The process is the `muster miner` command's, on a run of `tiny` at its first round; it is ready when the log says that
it takes part. What the interpreter itself takes to start is in both figures.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module as part
from pathlib import Path

from two_builds import of

TORCH = "import time, torch; print(time.process_time())"
READY = "takes part"


def prepare(_millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """A run that is laid out, of `tiny`; each call starts its miner."""
    builders, load = part("run_builders"), of("muster.protocol.spec:load_template")
    roster = of("muster.testnet.roster:Roster").of(0, 1, 1, {})
    builders.lay_out(folder / "run", builders.write_text(folder / "text", 600, 7000), load("tiny"), roster)

    def work() -> dict[str, float]:
        alone = seconds(["-c", TORCH])
        return {"start": seconds(["-m", "daemons.start", str(folder / "run")]) - alone}

    return work


def seconds(arguments: list[str]) -> float:
    """What a fresh interpreter prints last."""
    command = [sys.executable, "-P", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return float(done.stdout.splitlines()[-1])


class Ready(logging.Handler):
    """Ends the process with what it has taken, once it is told that the participant is ready."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hear of a line of the log."""
        if READY in record.getMessage():
            print(time.process_time(), flush=True)
            os._exit(0)


def main() -> None:
    """The command, up to its session; nothing that it imports is here before."""
    logging.getLogger().addHandler(Ready())
    logging.getLogger().setLevel(logging.INFO)
    sys.argv = ["muster", "miner", "--run", sys.argv[1], "--name", "miner-0"]
    of("muster.cli:main")()


if __name__ == "__main__":
    main()
