"""What a miner's start costs beyond `import torch`: processor time of a fresh process until its participant is ready.

    python -P -m daemons.start FOLDER       (in a build's folder, as `prepare` has it done)

The process is the `muster miner` command's, on a run of `tiny`; it is ready when its session begins. What the
interpreter itself takes to start is in both figures.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module as part
from pathlib import Path

from two_builds import of

TORCH = "import time, torch; print(time.process_time())"


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """A run that is laid out, whatever `millions` says; each call starts a miner that has never run."""
    builders, load = part("run_builders"), of("muster.protocol.spec:load_template")
    roster = of("muster.testnet.roster:Roster").of(0, 1, 1, {})
    builders.lay_out(folder / "run", builders.write_text(folder / "text", 600, 7000), load("tiny"), roster)

    def work() -> dict[str, float]:
        alone = seconds(["-c", TORCH])
        return {"start": seconds(["-m", "daemons.start", str(folder)]) - alone}

    return work


def seconds(arguments: list[str]) -> float:
    """What a fresh interpreter prints last."""
    command = [sys.executable, "-P", *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


async def ready(_session: object) -> None:
    """In place of the session's run: say what the process has taken, and end."""
    print(time.process_time())


def main() -> None:
    """The command, up to its session."""
    sys.argv = ["muster", "miner", "--run", str(Path(sys.argv[1]) / "run"), "--name", "miner-0"]
    of("muster.node.ledger.session:Session").run = ready  # the daemon would import it anyway
    of("muster.cli:main")()


if __name__ == "__main__":
    main()
