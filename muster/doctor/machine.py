"""Probes of this machine: GPU, speed, memory, disk, key file. They block; call them in a thread."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import torch

from muster.doctor.facts import BucketFacts, GpuFacts, KeyFacts, SpaceFacts, SpeedFacts
from muster.doctor.needs import step_operations
from muster.node.compute import Card, Compute, Machine
from muster.node.miner.engine import Job
from muster.node.miner.inner import LocalEngine
from muster.node.miner.trial import settled
from muster.node.replica import Replica
from muster.protocol.spec import RunSpec
from muster.run.credentials import load_identity

TIMED_OPERATIONS = 3e10
"""Models whose inner step takes more are not trained for the doctor: a few seconds on a slow core."""
GPU_OPERATIONS = 2e15
"""The same of a GPU, some seconds on one of 10¹⁵ operations a second at a third of its peak."""
_PRODUCT = 768
_GPU_PRODUCT = 8192
"""The same on a GPU, where a small one takes no longer than asking for it: 1.1 · 10¹² operations."""
_PRODUCTS = 5
"""Matrix products of 768 × 768, whose rate stands for a large model's: 10 ms each on one core."""

_CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where systemd puts a service's credentials."""

_DRIVER = Path("/proc/driver/nvidia/version")
_MEMORY = Path("/proc/meminfo")
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""A container's limit and use, by cgroups version 2 and 1."""


def find_gpu() -> GpuFacts:
    """What torch and the kernel say, once a GPU has computed something."""
    machine = Machine.look()
    driver = ""
    if _DRIVER.exists():
        found = re.search(r"(\d+\.\d+(?:\.\d+)?)", _DRIVER.read_text(errors="replace"))
        driver = found[1] if found else "of unknown version"
    return GpuFacts(machine, torch.cuda.device_count() if machine.card else 0, driver, torch.version.cuda or "")


def measure_step(spec: RunSpec, compute: Compute, card: Card | None, fits: bool) -> SpeedFacts:
    """Seconds of one inner step: a real one where the model `fits` and is small, or a GPU trains it; else estimated
    from a product's rate. Products are as the miner will choose them, by the same trial; where it does not fit, fp32.
    """
    if fits:
        compute, _ = settled(compute, spec.model)
    bf16 = bool(compute.autocast)
    operations = step_operations(spec)
    on_gpu = compute.device.type == "cuda"
    device = card.name if on_gpu and card else "CPU"
    if fits and operations <= (GPU_OPERATIONS if on_gpu else TIMED_OPERATIONS):
        try:
            return SpeedFacts(_timed_step(spec, compute), False, device, bf16)
        except torch.cuda.OutOfMemoryError:  # others have the card's memory, this very miner perhaps
            torch.cuda.empty_cache()
    return SpeedFacts(operations / _operations_a_second(compute), True, device, bf16)


def _timed_step(spec: RunSpec, compute: Compute) -> float:
    """Seconds of the second of two inner steps: the first one also warms up."""
    inner = spec.inner.model_copy(update={"steps": 2})
    engine = LocalEngine(spec.model, inner, compute)
    windows = torch.zeros(2 * inner.batch, spec.data.window + 1, dtype=torch.int64)
    ends: list[float] = []
    engine.run(
        Replica.genesis(spec, spec.run_id(), compute.device),
        Job(0, 0, inner, windows),
        on_step=lambda _step, _loss: ends.append(time.perf_counter()),
    )
    return ends[1] - ends[0]


def find_space(folder: Path) -> SpaceFacts:
    """Memory by the kernel and the container's limit, disk where `folder` is or will be."""
    fields = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _MEMORY.read_text(), re.MULTILINE))
    total, available = int(fields["MemTotal"]) * 1024, int(fields["MemAvailable"]) * 1024
    for limit_file, used_file in _LIMITS:
        if limit_file.exists() and (limit := limit_file.read_text().strip()).isdigit() and int(limit) < total:
            total = int(limit)
            available = min(available, total - int(used_file.read_text()))
    disk = os.statvfs(_existing(folder))
    return SpaceFacts(total, max(0, available), str(folder), disk.f_bavail * disk.f_frsize)


def try_folder(location: str, folder: Path) -> BucketFacts:
    """Ask whether this user may write a bucket that is a folder; nothing is written, as it is a part of the run."""
    there = _existing(folder)
    write = read = ""
    if not there.is_dir():
        write = f"{there} is no folder"
    elif not os.access(there, os.R_OK | os.X_OK):
        read = f"{there} is closed to this user"
    elif not os.access(there, os.W_OK):
        read_only = os.statvfs(there).f_flag & os.ST_RDONLY
        write = f"{there} is {'on a read-only file system' if read_only else 'not writable by this user'}"
    return BucketFacts(location, True, write or read, read, "", public_write_refused=True)


def find_key(path: Path) -> KeyFacts:
    """Whose hotkey a file holds, and who else can read it.

    A credential of systemd's is for the service's user alone (systemd.exec(5)); where that is by an access control
    list, the bits of the group are the list's mask and no group's rights.

    Raises:
        IdentityError: there is none.
    """
    hotkey = load_identity(path).hotkey
    credentials = os.environ.get(_CREDENTIALS)
    bits = 0o707 if credentials and path.is_relative_to(credentials) else 0o777
    return KeyFacts(str(path), hotkey, path.stat().st_mode & bits)


def _existing(folder: Path) -> Path:
    """A folder, or the nearest one above it that is there as far as this user can see."""
    there = folder.absolute()
    while not os.access(there, os.F_OK):
        there = there.parent
    return there


def _operations_a_second(compute: Compute) -> float:
    """Of matrix products on the device, in the precision that training has there; the best of a few."""
    side = _GPU_PRODUCT if compute.device.type == "cuda" else _PRODUCT
    matrix = torch.ones(side, side, device=compute.device)
    if compute.autocast:
        matrix = matrix.bfloat16()
    best = float("inf")
    for _ in range(_PRODUCTS):
        began = time.perf_counter()
        torch.mm(matrix, matrix)[0, 0].item()  # waits for a GPU
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
