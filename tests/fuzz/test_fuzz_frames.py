"""A few seconds of `make fuzz`, under its memory cap, and proof that it would notice what it looks for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fuzz import fuzz_frames
from fuzz.fuzz_frames import ACCEPTED, CASES, MEMORY_BYTES, REASONS, batch, check_valid, honest

from muster.kernels import Codec, decode

SCRIPT = Path(fuzz_frames.__file__)


def child(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A python process whose limits are its own."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=900, check=False)


def test_a_short_batch_breaks_nothing_and_meets_every_verdict() -> None:
    done = child(str(SCRIPT), "--seed", "1", "--examples", "400")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(json.loads(done.stdout)) == {ACCEPTED, *REASONS}


def test_memory_above_the_cap_cannot_be_had() -> None:
    limited = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import fuzz_frames; fuzz_frames.limit_memory()"
    tried = f"bytearray({MEMORY_BYTES // 2}); print('half'); bytearray({2 * MEMORY_BYTES}); print('double')"
    done = child("-c", f"{limited}; {tried}")
    assert done.stdout.split() == ["half"]
    assert "MemoryError" in done.stderr


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("part", ["indices", "codes", "scales"])
def test_an_update_that_breaks_a_rule_is_noticed(name: str, part: str) -> None:
    made = decode(honest(name, 1), Codec(*CASES[name]))
    check_valid(made)
    made = replace(made, codes=torch.ones_like(made.codes))
    broken = getattr(made, part).clone()
    broken[0] = {"indices": 4096, "codes": 4, "scales": 0}[part]
    with pytest.raises(AssertionError):
        check_valid(replace(made, **{part: broken}))


def test_a_crash_is_kept_in_the_corpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tried = []

    def crash(data: bytes, *_: object) -> None:
        tried.append(data)
        raise IndexError

    monkeypatch.setattr(fuzz_frames, "CORPUS", tmp_path)
    monkeypatch.setattr(fuzz_frames, "corpus", lambda _case: ())
    monkeypatch.setattr(fuzz_frames, "decode", crash)
    with pytest.raises(IndexError):
        batch(seed=0, examples=5)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [tried[-1]]


def test_a_hang_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hang(*_: object) -> None:
        while True:
            pass

    monkeypatch.setattr(fuzz_frames, "CORPUS", tmp_path)
    monkeypatch.setattr(fuzz_frames, "SECONDS", 0.05)
    monkeypatch.setattr(fuzz_frames, "decode", hang)
    with pytest.raises(fuzz_frames.Hang):
        batch(seed=0, examples=1)
