"""Whether a testnet fits a machine is told before it starts, in one sentence with what would fit instead."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from muster.node.compute import CPU, Card, Compute
from muster.protocol.errors import ConfigError
from muster.protocol.spec import load_template, preset_names
from muster.testnet.room import Room, check_room

GIB = 1 << 30
LAPTOP = Room(16 * GIB)
CPU_SECONDS = 8.0
"""Most of it is importing; a machine that has nothing else to do is done in less than 2 s."""


def refusal(preset: str, room: Room, miners: int = 4, compute: Compute = CPU) -> str:
    """Why a testnet is not started."""
    with pytest.raises(ConfigError) as caught:
        check_room(load_template(preset), miners, 1, compute, room)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_fits_is_started() -> None:
    check_room(load_template("tiny"), 4, 1, CPU, LAPTOP)
    check_room(load_template("benchmarks/150m-cpu.toml"), 2, 1, CPU, LAPTOP)
    check_room(load_template("150m"), 1, 1, replace(CPU, micro_batch=1), LAPTOP)


def test_the_largest_on_a_laptop() -> None:
    said = refusal("72b", LAPTOP)
    assert said.startswith("a testnet of 72b with 4 miners and 1 validator needs at least 3.71 TiB of memory")
    assert said.endswith("this machine has 16 GiB of memory; tiny fits")


def test_other_settings_come_before_fewer_miners() -> None:
    assert "it fits with MUSTER_MICRO_BATCH=" in refusal("150m", LAPTOP, miners=2)


def test_fewer_miners() -> None:
    said = refusal("tiny", Room(2 * GIB), miners=9)
    assert "; 3 miners and 1 validator would fit" in said


def test_a_gpu_is_shared() -> None:
    compute, card = Compute(torch.device("cuda", 0), True), Card("card", 80 * GIB, (9, 0))
    room = Room.of(256 * GIB, compute, card)
    check_room(load_template("150m"), 1, 1, replace(compute, micro_batch=8), room)
    assert "80 GiB of its GPU's" in refusal("1b", room, 4, compute)
    assert Room.of(256 * GIB, CPU, card).card == 0


@pytest.mark.parametrize("preset", preset_names())
def test_no_machine_is_too_small_for_a_sentence(preset: str) -> None:
    assert refusal(preset, Room(GIB // 2)).endswith("no preset fits it with so many; ask for fewer miners")


def test_the_command_says_so_at_once(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from muster.cli.main import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_utime)"
    )
    argv = [sys.executable, "-c", code, "testnet", "--preset", "72b", "--dir", str(tmp_path / "run")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == ConfigError.exit_status
    assert "needs at least 3.71 TiB of memory" in done.stderr
    assert float(done.stdout.split()[-1]) < CPU_SECONDS
    assert not (tmp_path / "run").exists()
