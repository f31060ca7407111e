"""What is installed is one name and all of the tree: a link that leads nowhere leaves a room out without a word."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
from source_tree import LINKS, ROOMS, ROOT, build, copy_tree, installed_names

DATA = {"muster/py.typed", "muster/lab/nano.toml", "muster/protocol/spec/presets/tiny.toml"}
"""Some of what is no module; a list that has lost these compares nothing."""


def contents(wheel: Path) -> set[str]:
    """The files of a wheel but for its own description."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_rooms_are_relative_links() -> None:
    assert {f"muster/{room}": str((ROOT / "muster" / room).readlink()) for room in ROOMS} == {
        f"muster/{room}": f"../{room}" for room in ROOMS
    }


def test_the_wheel_is_muster_and_all_of_it(wheel: Path) -> None:
    expected = set(installed_names())
    assert expected >= DATA
    assert {name.split("/")[2] for name in expected if name.startswith(tuple(LINKS))} > {"__init__.py", "fast", "miner"}
    assert contents(wheel) == expected
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert tops == {"muster", wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"}


def test_the_sdist_holds_the_same_and_builds_the_same(wheel: Path, tmp_path: Path) -> None:
    sdist = build("sdist", copy_tree(tmp_path / "tree"), tmp_path / "out")
    base = sdist.name.removesuffix(".tar.gz")
    with tarfile.open(sdist) as archive:
        files = {member.name.removeprefix(f"{base}/") for member in archive.getmembers() if not member.isdir()}
        assert all(member.isfile() or member.isdir() for member in archive.getmembers())
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert {name for name in files if name.startswith("muster/")} == set(installed_names())
    assert {name.split("/")[0] for name in files if "/" in name} == {"muster", "muster_network.egg-info"}
    assert contents(build("wheel", tmp_path / "unpacked" / base, tmp_path / "again")) == contents(wheel)


@pytest.mark.parametrize("room", ROOMS)
def test_a_link_that_leads_nowhere_would_be_noticed(room: str, tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    (tree / "muster" / room).unlink()
    (tree / "muster" / room).symlink_to(f"../{room}s")
    lost = set(installed_names()) - contents(build("wheel", tree, tmp_path / "out"))
    assert lost == {name for name in installed_names() if name.startswith(f"muster/{room}/")} != set()
