"""How far do reading, decoding and applying overlap in a follower that is a hundred rounds behind?

A closed run of `CATCH_UP_ROUNDS` rounds (100 unless the environment says another number) with work of
`CATCH_UP_PEERS` peers (4) in each, written by `daemons.forged_run`, lies in a real S3 server on loopback and in a
folder. A session follows it from genesis to its end, from each, in the daemons' event loop. Alone, over the same
rounds: *download* is every object that the session reads, `AT_ONCE` rounds of them at a time; *decode* is the bundles
in one thread, from bytes to updates; *apply* is everything else of judging (signatures, possession, weights), the step
and the root of θ, in one thread. All in seconds of the wall, since what overlaps costs no less processor time; so a
figure means something on a quiet machine only, and one with as many cores as things go on (the S3 server is one). A
round of `tiny` is followed from a folder, 20 of them in a row.

Commit 5c6907b is not measured: its ledger has other objects, and it reads one after another, so that its whole is the
sum of its parts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from two_builds import ROOT, runs_here

ROUNDS = int(os.environ.get("CATCH_UP_ROUNDS", "100"))
PEERS = int(os.environ.get("CATCH_UP_PEERS", "4"))
TINY_ROUNDS = 20
TINY_MILLIONS = 0.3


def prepare(millions: float, folder: Path) -> Callable[[], dict[str, float]]:
    """The runs, put where they are followed from; the work follows them."""
    if not runs_here():
        return dict
    import uvloop

    from daemons.following import Following, Place, s3_place
    from daemons.forged_run import forge

    sys.path.append(str(ROOT / "tests"))
    from s3_server import RadosGateway

    server = RadosGateway()
    large = Following(uvloop.run(forge(millions, PEERS, ROUNDS)))
    small = Following(uvloop.run(forge(TINY_MILLIONS, PEERS, TINY_ROUNDS)))
    there = s3_place(server)
    here, tiny = Place.folder(folder / "large"), Place.folder(folder / "tiny")
    for following, place in ((large, there), (large, here), (small, tiny)):
        uvloop.run(following.put(place))

    def work() -> dict[str, float]:
        decode, apply = large.decode(), large.apply()
        figures = {"decode": decode, "apply": apply}
        for name, place in (("s3", there), ("folder", here)):
            download = uvloop.run(large.download(place))
            whole = uvloop.run(large.follow(place))
            figures |= {f"{name}_download": download, f"{name}_whole": whole}
            figures[f"{name}_overlap"] = whole / max(download, decode, apply)
        figures["tiny_round"] = uvloop.run(small.follow(tiny)) / TINY_ROUNDS * 1000
        told = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
        print(f"catch_up, {ROUNDS} rounds: {told}")
        return figures

    work.server = server  # type: ignore[attr-defined]  # which lives as long as the work
    return work
