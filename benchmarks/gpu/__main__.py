"""Is this GPU right, and how fast is it? Six minutes at most; prints tables in Markdown.

    python -m benchmarks.gpu [--dry-run] [--only SECTION ...] [--skip SECTION ...]

In this order: every kernel against the reference to the bit; kernels beside a copy within the device; training of two
presets with and without torch.compile; a round beside its inner steps; a network whose peers share the GPU, beside an
aggregator on the CPU. Each section runs in a process of its own and has its own time; one that fails says so, and the
others go on. The exit status is 1 where bits differ, 2 where a section found nothing, or nothing can be measured here.

--dry-run plays every section at toy sizes on a CPU, the kernels by Triton's interpreter: its figures mean nothing, but
what would fail on a card fails there first.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence

from benchmarks.gpu import plan, runner
from benchmarks.gpu.section import Found, Section, Setting

DIFFERS, INCOMPLETE = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Play what is asked for; the exit status."""
    names = [section.name for section in plan.SECTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry-run", action="store_true", help="toy sizes, on the CPU and Triton's interpreter")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--skip", nargs="+", choices=names, default=[], metavar="SECTION")
    options = parser.parse_args(arguments)
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before a process that imports Triton is started
    setting = Setting(options.dry_run)
    looked = runner.within_budget(plan.LOOK, setting)
    if isinstance(looked, str):
        print(f"Nothing can be measured here: {looked}.")
        return INCOMPLETE
    print(looked.markdown(), flush=True)
    wanted = (section for section in plan.SECTIONS if section.name in options.only and section.name not in options.skip)
    return play(wanted, setting)


def play(sections: Iterable[Section], setting: Setting) -> int:
    """Print what the sections find, tables of the same title as one; the exit status."""
    began, status, table = time.monotonic(), 0, Found("", (), ())
    for section in sections:
        at = time.monotonic()
        found = runner.within_budget(section, setting)
        print(f"{section.name}: {time.monotonic() - at:.0f} s", file=sys.stderr)
        if isinstance(found, Found) and found.title == table.title:
            table = table.joined(found)
            continue
        show(table)
        table = found if isinstance(found, Found) else Found(section.name, (), (), (f"Found nothing: {found}.",))
        status = status or (0 if isinstance(found, Found) else INCOMPLETE)
        status = DIFFERS if table.differs else status
    show(table)
    verdict = {0: "no bit differs", DIFFERS: "BITS DIFFER", INCOMPLETE: "not everything could be measured"}[status]
    print(f"{time.monotonic() - began:.0f} s in all; {verdict}.")
    return status


def show(table: Found) -> None:
    """Print a table, unless there is none yet."""
    if table.title:
        print(table.markdown(), flush=True)


if __name__ == "__main__":
    sys.exit(main())
