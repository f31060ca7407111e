"""Windows come only from the text the run pins, and are the right bytes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from muster.node.data import dataset as data
from muster.node.data.build import Manifest, Shard, build_corpus
from muster.node.data.dataset import TextReader
from muster.protocol.errors import DataError


@pytest.fixture
def corpus(tmp_path: Path) -> tuple[Path, Manifest]:
    files = []
    for i in range(30):
        files.append(tmp_path / f"text{i}.txt")
        files[-1].write_bytes(bytes((7 * i + j) % 256 for j in range(64)))
    return tmp_path / "out", build_corpus(files, tmp_path / "out", 10)


def test_windows_are_the_shards_bytes(corpus: tuple[Path, Manifest]) -> None:
    directory, manifest = corpus
    reader = TextReader.open(directory, manifest.digest)
    assert reader.manifest == manifest
    for read, name, count in (
        (reader.windows, "train.bin", manifest.windows),
        (reader.heldout, "heldout.bin", manifest.heldout_windows),
    ):
        text = (directory / name).read_bytes()
        ids = [count - 1, 0, 2, 0]
        got = read(ids)
        assert (got.dtype, tuple(got.shape)) == (torch.int64, (4, 11))
        for row, window in zip(got.tolist(), ids, strict=True):
            assert bytes(row) == text[10 * window : 10 * window + 11]
        assert read([]).shape == (0, 11)
        for outside in (-1, count, 2**70):
            with pytest.raises(DataError, match=f"no window {outside}"):
                read([0, outside])


def corrupt_byte(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(text)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [corrupt_byte, truncate, remove])
@pytest.mark.parametrize("name", ["train.bin", "heldout.bin", "manifest.json"])
def test_any_damage_is_found(corpus: tuple[Path, Manifest], name: str, damage: Callable[[Path], None]) -> None:
    directory, manifest = corpus
    damage(directory / name)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        TextReader.open(directory, manifest.digest)


def test_another_text_is_refused(corpus: tuple[Path, Manifest]) -> None:
    directory, _ = corpus
    with pytest.raises(DataError, match="the run pins"):
        TextReader.open(directory, "0" * 64)


def test_an_oversized_manifest_is_not_read(corpus: tuple[Path, Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    directory, manifest = corpus
    monkeypatch.setattr(data, "MAX_MANIFEST_BYTES", len(manifest.canonical()) - 1)
    with pytest.raises(DataError, match="larger"):
        TextReader.open(directory, manifest.digest)


@given(st.integers(2, 400), st.integers(1, 40))
def test_windows_tile_the_text(size: int, window: int) -> None:
    text = (np.arange(size) % 256).astype(np.uint8)
    shard = Shard(bytes=size, blake3="0" * 64)
    manifest = Manifest(window=window, train=shard, heldout=shard, files=(), unigram=0.0)
    rows = TextReader(manifest, text, text).windows(range(manifest.windows))
    assert rows[:, :-1].flatten().tolist() == text[: manifest.windows * window].tolist()
    assert rows[:, 1:].flatten().tolist() == text[1 : manifest.windows * window + 1].tolist()
    assert size - (manifest.windows * window + 1) < window
