"""A checkpoint's bytes follow from θ alone, only the pinned bytes are ever loaded, and one shard is held at most."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import rfc8785
import safetensors.torch
import torch
from builders import MODEL, TIP_INFO, checkpoint_of, hash32, layout, theta

from muster.node.context import in_place
from muster.node.replica import Replica, Spool
from muster.node.replica.checkpoint import (
    SHARD_BYTES,
    check_shard,
    plan_shards,
    read_manifest,
    read_shards,
)
from muster.protocol import paths
from muster.protocol.errors import DiskFailed, LedgerError, ObjectDamaged, StorageError
from muster.protocol.wire.manifest import ShardInfo, manifest_digest

RUN = hash32("run")
CHILD = Path(__file__).with_name("checkpoint_process.py")


def held() -> Replica:
    return Replica(MODEL, RUN, [tensor.clone() for tensor in theta()], 3)


def made(round_: int = 4, shard_bytes: int = SHARD_BYTES) -> tuple[dict[str, bytes], bytes]:
    return checkpoint_of(held(), round_, shard_bytes)


def loaded(files: Mapping[str, bytes], digest: bytes, shard_bytes: int = SHARD_BYTES) -> list[torch.Tensor]:
    manifest = read_manifest(files[paths.MANIFEST], digest, RUN, layout(), shard_bytes)

    async def read(info: ShardInfo) -> bytes:
        check_shard(info, files[info.name])
        return files[info.name]

    return asyncio.run(read_shards(manifest, read, layout(), shard_bytes))


def shards(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name != paths.MANIFEST}


@pytest.mark.parametrize("shard_bytes", [SHARD_BYTES, 2**14])
async def test_shards_that_wait_on_disk_are_the_same_files(tmp_path: Path, shard_bytes: int) -> None:
    files: dict[str, bytes] = {}
    uploaded: set[str] = set()

    async def put(name: str, data: bytes) -> None:
        files[name] = data

    async def upload(name: str, file: Path) -> None:
        files[name] = await asyncio.to_thread(file.read_bytes)
        uploaded.add(name)

    expected, digest = made(shard_bytes=shard_bytes)
    least = sorted(len(data) for data in shards(expected).values())[len(expected) // 2 - 1]
    spool = Spool(tmp_path, least, upload)
    assert (await held().save(4, TIP_INFO, put, in_place, shard_bytes, large=spool))[0] == digest
    assert files == expected
    assert uploaded == {name for name, data in shards(expected).items() if len(data) >= least}
    assert await asyncio.to_thread(lambda: list(tmp_path.iterdir())) == []


async def test_a_disk_that_takes_no_shard_is_said_to() -> None:
    async def nothing(*_of: object) -> None:
        raise AssertionError

    spool = Spool(Path(__file__), 1, nothing)
    with pytest.raises(DiskFailed, match="a checkpoint cannot be kept on disk: File exists"):
        await held().save(4, TIP_INFO, nothing, in_place, large=spool)


async def test_a_disk_that_is_full_is_said_to_be_also_when_the_file_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is small waits in the file's buffer, and is written when that is full: by the next part, or at the end."""

    class Full(io.RawIOBase):
        name = str(tmp_path / "full")

        def writable(self) -> bool:
            return True

        def write(self, _data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def nothing(*_of: object) -> None:
        raise AssertionError

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **_: io.BufferedWriter(Full()))
    with pytest.raises(StorageError, match="a checkpoint cannot be kept on disk: No space left on device"):
        await held().save(4, TIP_INFO, nothing, in_place, large=Spool(tmp_path, 1, nothing))


def test_round_trip_to_the_bit() -> None:
    for tensor, read in zip(theta(), loaded(*made()), strict=True):
        assert read.dtype == torch.float32
        assert torch.equal(tensor.view(torch.int32), read.view(torch.int32))


def test_bytes_are_a_function_of_theta_and_round() -> None:
    assert made() == made()
    assert made(5)[0][paths.MANIFEST] != made(4)[0][paths.MANIFEST]
    assert shards(made(5)[0]) == shards(made(4)[0])


def test_shards_are_what_the_safetensors_library_reads() -> None:
    files, _ = made()
    (data,) = shards(files).values()
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0
    assert set(safetensors.torch.load(data)) == set(json.loads(data[8 : 8 + length])) == set(layout().names)


def test_a_large_model_is_cut_into_shards_in_layout_order() -> None:
    files, digest = made(shard_bytes=2000)
    names = list(shards(files))
    assert len(names) > 2
    assert names == sorted(names)
    assert names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert all(torch.equal(a, b) for a, b in zip(theta(), loaded(files, digest, 2000), strict=True))
    plan = plan_shards(layout(), 2000)
    assert [i for shard in plan for i in shard.tensors] == list(range(len(layout().names)))
    assert [shard.size for shard in plan] == [len(data) for data in shards(files).values()]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda data: flipped(data, len(data) - 1),
    lambda data: flipped(data, 9),
    lambda data: data[:-1],
    lambda data: data + b"\0",
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_shard_is_refused_by_name(change: Callable[[bytes], bytes]) -> None:
    files, digest = made()
    (name,) = shards(files)
    with pytest.raises(ObjectDamaged, match=name):
        loaded(files | {name: change(files[name])}, digest)


@pytest.mark.parametrize("change", [CHANGES[1], CHANGES[3]])
def test_a_pinned_shard_of_other_tensors_is_refused(change: Callable[[bytes], bytes]) -> None:
    """A leader may pin what it likes: what is taken in has this layout's header and size."""
    (shard,) = plan_shards(layout())
    with pytest.raises(LedgerError, match="exactly this model's tensors"):
        shard.read_(change(shard.write(theta())), [torch.empty(shape) for shape in layout().shapes])


def test_a_changed_manifest_is_refused() -> None:
    files, digest = made()
    with pytest.raises(ObjectDamaged, match="not the one the record pins"):
        read_manifest(flipped(files[paths.MANIFEST], 30), digest, RUN, layout())


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("run", hash32("other").hex(), "another run or model"),
        ("layout", hash32("other").hex(), "another run or model"),
        ("round", -1, "not readable"),
        ("unheard_of", 1, "not readable"),
    ],
)
def test_a_pinned_manifest_of_something_else_is_refused(field: str, value: object, problem: str) -> None:
    data = rfc8785.dumps(json.loads(made()[0][paths.MANIFEST]) | {field: value})
    with pytest.raises(LedgerError, match=problem):
        read_manifest(data, manifest_digest(data), RUN, layout())


def test_a_pinned_manifest_in_another_spelling_is_refused() -> None:
    """An auditor that makes it again must come to the same bytes."""
    data = json.dumps(json.loads(made()[0][paths.MANIFEST]), sort_keys=True).encode()
    with pytest.raises(LedgerError, match="canonical"):
        read_manifest(data, manifest_digest(data), RUN, layout())


@pytest.mark.parametrize(("field", "value"), [("bytes", 10**12), ("name", "../../model.safetensors")])
def test_names_and_sizes_are_judged_before_anything_is_fetched(field: str, value: object) -> None:
    document = json.loads(made()[0][paths.MANIFEST])
    document["shards"][0][field] = value
    data = rfc8785.dumps(document)
    with pytest.raises(LedgerError, match="names or sizes this model cannot have"):
        read_manifest(data, manifest_digest(data), RUN, layout())


@pytest.mark.parametrize(("what", "shard_bytes"), [("tiny", 1 << 20), ("tiny", SHARD_BYTES), ("30m", 1 << 25)])
def test_beside_theta_there_is_one_shard_at_most(tmp_path: Path, what: str, shard_bytes: int) -> None:
    """In a process of its own: the peak of resident memory less θ's, in shards of the largest size there is."""
    done = subprocess.run(
        [sys.executable, str(CHILD), what, str(shard_bytes), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        # What is freed goes back to the system at once, so that the next peak is not hidden in it.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    measured = json.loads(done.stdout)
    assert measured["shards"] >= (1 if shard_bytes == SHARD_BYTES else 2)
    for way in ("make", "join"):
        assert measured[way] <= 1.2 * measured["largest_shard"] + measured["noise"], way
