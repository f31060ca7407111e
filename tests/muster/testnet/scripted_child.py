"""What stands in for `python` where a testnet starts its participants: plays the part a test has written for it.

The script is the file CHILD_SCRIPT: label → the parts of its lives, one after the other (the last one stays). A part is
"follow" (tell a run of ROUNDS rounds, all of one root each, and end), "other root", "leave" (end without the end of the
run), "crash", "refuse" (a setting that no restart cures) or "stay". Each life adds its arguments to CHILD_LIVES/label.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    """Play one life."""
    arguments = sys.argv[1:]
    run, name = (arguments[arguments.index(flag) + 1] for flag in ("--run", "--name"))
    role = arguments[3]
    label = f"{role}-{name}" if role in ("aggregator", "validator") else name
    lives = Path(os.environ["CHILD_LIVES"]) / label
    with lives.open("a") as file:
        file.write(json.dumps({"arguments": arguments, "threads": os.environ["OMP_NUM_THREADS"]}) + "\n")
    parts = json.loads(Path(os.environ["CHILD_SCRIPT"]).read_text()).get(label, ["follow"])
    part = parts[min(len(lives.read_text().splitlines()), len(parts)) - 1]
    if part == "crash":
        return 1
    if part == "refuse":
        sys.stderr.write("noise\nthe setting colour is not known\n")
        return 3
    if part == "stay":
        signal.pause()
    rounds = int(os.environ["ROUNDS"])
    with (Path(run) / "logs" / f"{label}.jsonl").open("a") as file:
        for round_ in range(rounds + 1):
            root = f"{min(round_, rounds - 1):064x}" if part != "other root" else "f" * 64
            told = {"event": "applied", "time": time.time(), "round": round_, "root": root, "accepted": []}
            told |= {"kind": "close" if round_ == rounds else "round", "outer_step": round_, "rejected": {}}
            file.write(json.dumps(told | {"bytes_up": 0, "bytes_down": 0}) + "\n")
        if part != "leave":
            file.write(json.dumps({"event": "finished", "time": time.time(), "root": root}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
