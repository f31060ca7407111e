"""One section in a process of one build: prepares its work, then does it once for each line it is sent.

    python -P -m daemons.child SECTION MILLIONS FOLDER      (in a build's folder, as the parent starts it)

Answers each line with one of JSON: the section's figures by name, in their rows' units.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import torch


def main() -> None:
    """Serve the parent until it closes the pipe."""
    section, millions, folder = sys.argv[1:]
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr  # whatever a build prints is not an answer
    work = import_module(f"daemons.{section}").prepare(float(millions), Path(folder))
    for _ in sys.stdin:
        print(json.dumps(work()), file=out, flush=True)


if __name__ == "__main__":
    main()
