"""A corpus is a function of file names and bytes alone."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from blake3 import blake3

from muster.node.data.build import Manifest, build_corpus, entropy
from muster.protocol.errors import DataError


def write_files(root: Path, count: int = 40) -> list[Path]:
    files = []
    for i in range(count):
        path = root / ("deep" if i % 3 else "") / f"text{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes((i + j) % 251 for j in range(50 + i)))
        files.append(path)
    return files


def held_by_rule(name: str) -> bool:
    return blake3(name.encode()).digest()[0] < 13


def test_shards_are_the_files_in_name_order(tmp_path: Path) -> None:
    files = write_files(tmp_path / "in")
    manifest = build_corpus(files, tmp_path / "out", 16)
    expected = {"train": b"", "heldout": b""}
    rows = []
    for path in sorted(files, key=lambda path: path.relative_to(tmp_path / "in").as_posix()):
        name, data = path.relative_to(tmp_path / "in").as_posix(), path.read_bytes()
        split = "heldout" if held_by_rule(name) else "train"
        expected[split] += data + b"\0"
        rows.append((name, len(data), blake3(data).hexdigest(), split))
    assert manifest.files == tuple(rows)
    for split, shard in (("train", manifest.train), ("heldout", manifest.heldout)):
        data = (tmp_path / "out" / f"{split}.bin").read_bytes()
        assert data == expected[split]
        assert (shard.bytes, shard.blake3) == (len(data), blake3(data).hexdigest())
    assert manifest.windows == (len(expected["train"]) - 1) // 16
    assert manifest.heldout_windows == (len(expected["heldout"]) - 1) // 16


def test_manifest_file_is_canonical_and_digested(tmp_path: Path) -> None:
    manifest = build_corpus(write_files(tmp_path / "in"), tmp_path / "out", 16)
    data = (tmp_path / "out" / "manifest.json").read_bytes()
    assert data == rfc8785.dumps(json.loads(data))
    assert json.loads(data).keys() == {
        "version", "tokenizer", "window", "train", "heldout", "files", "unigram",
    }  # fmt: skip
    assert manifest.digest == blake3(data).hexdigest()
    assert Manifest.from_bytes(data) == manifest


def test_neither_place_nor_order_matters(tmp_path: Path) -> None:
    here = build_corpus(write_files(tmp_path / "here"), tmp_path / "a", 16)
    there = build_corpus(write_files(tmp_path / "else" / "where")[::-1], tmp_path / "b", 16)
    assert here.digest == there.digest
    again = build_corpus(write_files(tmp_path / "here"), tmp_path / "a", 16)
    assert again == here
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "heldout.bin", "manifest.json", "train.bin",
    ]  # fmt: skip


def test_two_files_always_leave_one_held_out(tmp_path: Path) -> None:
    files = [tmp_path / "c.txt", tmp_path / "d.txt"]
    for path in files:
        path.write_bytes(b"some text " * 10)
    assert not any(held_by_rule(path.name) for path in files)
    manifest = build_corpus(files, tmp_path / "out", 8)
    lowest = min(files, key=lambda path: blake3(path.name.encode()).digest()).name
    assert [name for name, _, _, split in manifest.files if split == "heldout"] == [lowest]


def test_refusals(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"some text " * 10)
    cases = {
        "no text files": [],
        "twice": [file, tmp_path / "x" / ".." / "a.txt"],
        "name more files": [file],
        "cannot build": [file, tmp_path / "missing.txt"],
    }
    for words, files in cases.items():
        with pytest.raises(DataError, match=words):
            build_corpus(files, tmp_path / "out", 8)
        assert not list((tmp_path / "out").glob("*"))
    odd = tmp_path / "odd\udc80name.txt"
    with pytest.raises(DataError, match="printable"):
        build_corpus([file, odd], tmp_path / "out", 8)


def test_a_failed_build_leaves_the_old_corpus(tmp_path: Path) -> None:
    files = write_files(tmp_path / "in")
    before = build_corpus(files, tmp_path / "out", 16)
    with pytest.raises(DataError):
        build_corpus([*files, tmp_path / "in" / "missing"], tmp_path / "out", 16)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before.canonical()
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_entropy() -> None:
    assert entropy(np.full(256, 3)) == pytest.approx(math.log(256), abs=1e-6)
    assert entropy(np.array([0, 9, 0])) == 0
    assert entropy(np.zeros(4, dtype=np.int64)) == 0
    assert entropy(np.array([1, 3])) == round(0.25 * math.log(4) + 0.75 * math.log(4 / 3), 6)


def test_unigram_is_of_the_held_out_text(tmp_path: Path) -> None:
    manifest = build_corpus(write_files(tmp_path / "in"), tmp_path / "out", 16)
    counts = np.bincount(np.frombuffer((tmp_path / "out" / "heldout.bin").read_bytes(), dtype=np.uint8))
    assert manifest.unigram == entropy(counts)


def test_default_text_is_the_standard_library(tmp_path: Path) -> None:
    manifest = build_corpus(None, tmp_path / "out", 128)
    names = [name for name, *_ in manifest.files]
    assert {"argparse.py", "asyncio/base_events.py", "json/decoder.py"} <= set(names)
    assert names == sorted(names)
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    assert all(name.endswith(".py") for name in names)
    assert manifest.train.bytes > 5_000_000
    assert 0.01 < manifest.heldout.bytes / manifest.train.bytes < 0.1
    assert 2 < manifest.unigram < math.log(256)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"tokenizer": "bpe"},
        {"window": 0},
        {"extra": 1},
        {"unigram": -1.0},
        {"train": {"bytes": -1, "blake3": "0" * 64}},
        {"train": {"bytes": 1, "blake3": "zz"}},
        {"files": [["a", 1, "0" * 64, "other"]]},
        {"files": [["a", 1]]},
    ],
)
def test_a_manifest_is_parsed_strictly(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "version": 1,
        "tokenizer": "bytes",
        "window": 4,
        "train": {"bytes": 9, "blake3": "0" * 64},
        "heldout": {"bytes": 1, "blake3": "0" * 64},
        "files": [["a", 1, "0" * 64, "train"]],
        "unigram": 1.5,
    }
    assert Manifest.from_bytes(rfc8785.dumps(good)).windows == 2
    assert Manifest.from_bytes(rfc8785.dumps(good)).heldout_windows == 0
    with pytest.raises(DataError, match="manifest is not valid"):
        Manifest.from_bytes(rfc8785.dumps({**good, **change}))
