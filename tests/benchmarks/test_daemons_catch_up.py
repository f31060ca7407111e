"""The catch-up benchmark follows a run that it forged itself: that run is a valid one, whole and in parts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from benchmarks.two_builds import ROOT

ROUNDS, PEERS = 3, 2


@pytest.fixture(autouse=True)
def sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections name their modules as the processes do that run them."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_forged_run_is_followed_to_the_root_it_ends_with(tmp_path: Path) -> None:
    from daemons.following import Following, Place
    from daemons.forged_run import forge

    run = asyncio.run(forge(0.3, PEERS, ROUNDS))
    assert [sorted(key[-4:] for key in written.objects) for written in run.rounds] == [
        *[[".bin", ".rec", "seal"]] * ROUNDS,
        [".rec", "seal"],
    ]
    following, place = Following(run), Place.folder(tmp_path / "bucket")
    asyncio.run(following.put(place))
    assert asyncio.run(following.follow(place)) > 0
    assert asyncio.run(following.download(place)) > 0
    assert following.decode() > 0
    assert following.apply() > 0


def test_what_is_followed_is_of_the_size_that_is_asked_for() -> None:
    from daemons.forged_run import spec_of

    from muster.protocol.identity import Identity
    from muster.protocol.spec.layout import layout_of

    peers = [Identity.derive(1, "peer")]
    for millions in (10.0, 30.0, 100.0):
        parameters = layout_of(spec_of(millions, peers).model).parameters
        assert abs(parameters / (millions * 1e6) - 1) < 0.2
    assert layout_of(spec_of(0.3, peers).model).parameters < 1e6
