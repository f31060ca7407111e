"""A miner gone bad as a process of its own: the daemon, with another miner in it."""

from __future__ import annotations

import argparse
import os

from muster.lab.adversary import ADVERSARIES, maker_of
from muster.protocol.types import Role
from muster.run.daemon import run_daemon
from muster.run.ending import run_command
from muster.run.settings import load_config


def main() -> None:
    """Take part in a run, badly; settings are those of `muster miner`, by flag or environment."""
    parser = argparse.ArgumentParser(prog="python -m muster.lab.adversary", description=__doc__.splitlines()[0])
    parser.add_argument("behaviour", metavar="NAME", help=f"one of {', '.join(sorted(ADVERSARIES))}")
    parser.add_argument("--run", help="the run's folder or URL [env: MUSTER_RUN]")
    parser.add_argument("--name", help="what this participant is called [env: MUSTER_NAME]")
    options = parser.parse_args()
    flags = {"run": options.run, "name": options.name}

    def live() -> None:
        make_miner = maker_of(options.behaviour)
        run_daemon(Role.MINER, load_config(flags, os.environ), make_miner=make_miner)

    run_command(live)


if __name__ == "__main__":
    main()
