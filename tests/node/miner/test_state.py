"""The miner's state file: whole or as it was, of this release and model or refused in a sentence."""

from __future__ import annotations

import errno
import json
import os
import stat
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import torch
from builders import layout, theta
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save_file

from muster.node.miner.state import FORMAT, Entry, Made, MinerState, load_state, save_state, stored_error
from muster.protocol.errors import ConfigError, StorageError

MADE = Made(7, bytes(reversed(range(32))), bytes(range(32)), b"a submission's bytes")


REMEMBERED = MinerState(tuple(theta()), MADE)
MOMENTS: list[Entry] = [("model.norm.weight", {"exp_avg": torch.arange(3.0), "step": torch.tensor(5.0)})]


def save(path: Path, state: MinerState = REMEMBERED, moments: Iterable[Entry] = MOMENTS) -> None:
    save_state(path, layout(), state, lambda: moments)


def load(path: Path) -> tuple[MinerState, list[Entry]]:
    """What a file says of e and the submission, and of the moments."""
    moments: list[Entry] = []
    return load_state(path, layout(), moments.extend), moments


def holds(path: Path, state: MinerState = REMEMBERED, moments: Sequence[Entry] = MOMENTS) -> bool:
    """Whether the file holds these bits."""
    found, kept = load(path)
    return (
        found.made == state.made
        and all(torch.equal(x, y) for x, y in zip(found.error, state.error, strict=True))
        and [(name, list(entry)) for name, entry in kept] == [(name, list(entry)) for name, entry in moments]
        and all(torch.equal(entry[part], kept[i][1][part]) for i, (_, entry) in enumerate(moments) for part in entry)
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "memory.safetensors"


def test_round_trip(path: Path) -> None:
    save(path)
    assert holds(path)


def test_the_first_round_begins_blank(path: Path) -> None:
    blank, moments = load(path)
    assert (blank.made, moments) == (None, [])
    assert all(not tensor.any() for tensor in blank.error)
    save(path, blank, [])
    assert holds(path, blank, [])


def test_moments_may_be_bytes(path: Path) -> None:
    packed: list[Entry] = [("model.norm.weight", {"exp_avg_codes": torch.arange(7, dtype=torch.uint8)})]
    save(path, moments=packed)
    assert holds(path, moments=packed)
    assert load(path)[1][0][1]["exp_avg_codes"].dtype == torch.uint8


def test_it_is_a_safetensors_file(path: Path) -> None:
    """Written here, tensor by tensor; read by the library, here and by whoever looks into it."""
    save(path)
    found = load_safetensors(path.read_bytes())
    assert torch.equal(found["model.norm.weight/exp_avg"], torch.arange(3.0))
    assert found["made/key"].numpy().tobytes() == MADE.key
    assert all(torch.equal(found[f"{name}/error"], e) for name, e in zip(layout().names, theta(), strict=True))


def test_tensors_need_not_lie_in_one_piece(path: Path) -> None:
    turned: list[Entry] = [("model.norm.weight", {"exp_avg": torch.arange(6.0).reshape(2, 3).T})]
    save(path, moments=turned)
    assert holds(path, moments=turned)


def test_nobody_else_may_read_the_key(path: Path) -> None:
    save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_crash_while_writing_leaves_the_old_memory(path: Path) -> None:
    save(path)
    path.with_suffix(".draft").write_bytes(b"half of a newer mem")
    assert holds(path)
    save(path, MinerState.blank(layout()))
    assert load(path)[0].made is None


def test_a_full_disk_is_a_sentence_and_leaves_the_old_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(path)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"memory\.safetensors: No space left on device; free space"):
        save(path, MinerState.blank(layout()))
    assert holds(path)


def test_file_and_folder_are_synced_before_it_counts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    real = os.fsync

    def record(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(os, "fsync", record)
    save(path)
    assert synced == [False, True]


ERRORS = {f"{name}/error": tensor for name, tensor in zip(layout().names, theta(), strict=True)}
NORM = "model.norm.weight"
ABOUT = {"format": FORMAT}
SUBMISSION = {"made/key": torch.zeros(32, dtype=torch.uint8), "made/submission": torch.zeros(1, dtype=torch.uint8)}
NOT_MINE: dict[str, tuple[dict[str, torch.Tensor], dict[str, str]]] = {
    "other shapes": ({name: torch.zeros(2) for name in ERRORS}, ABOUT),
    "other type": ({name: tensor.double() for name, tensor in ERRORS.items()}, ABOUT),
    "a tensor less": ({name: tensor for name, tensor in ERRORS.items() if name != f"{NORM}/error"}, ABOUT),
    "a tensor more": ({**ERRORS, "another/error": torch.zeros(1)}, ABOUT),
    "moments of no tensor": ({**ERRORS, "another/exp_avg": torch.zeros(1)}, ABOUT),
    "no owner": ({**ERRORS, "exp_avg": torch.zeros(1)}, ABOUT),
    "empty": ({**ERRORS, f"{NORM}/exp_avg": torch.zeros(0)}, ABOUT),
    "round": ({**ERRORS, **SUBMISSION}, {**ABOUT, "round": "seven"}),
    "half a submission": ({**ERRORS, "made/key": SUBMISSION["made/key"]}, {**ABOUT, "round": "7"}),
    "no bytes": ({**ERRORS, **{name: part.float() for name, part in SUBMISSION.items()}}, {**ABOUT, "round": "7"}),
}


@pytest.mark.parametrize("what", sorted(NOT_MINE))
def test_a_file_that_is_not_this_miners_memory_is_named(path: Path, what: str) -> None:
    path.parent.mkdir()
    save_file(*NOT_MINE[what][:1], path, NOT_MINE[what][1])
    with pytest.raises(ConfigError, match=r"memory\.safetensors is not this miner's memory"):
        load(path)


@given(st.data())
def test_no_damage_is_read_as_something_else(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file that is cut, or whose header is another, is refused or says the same; it never raises anything else."""
    path = tmp_path_factory.mktemp("state") / "memory.safetensors"
    save(path)
    whole = path.read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    if data.draw(st.booleans()):
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        at, byte = data.draw(st.integers(0, 8 + length - 1)), data.draw(st.integers(0, 255))
        path.write_bytes(whole[:at] + bytes((byte,)) + whole[at + 1 :])
    try:
        found, _ = load(path)
    except ConfigError:
        return
    assert all(torch.equal(x, y) for x, y in zip(found.error, theta(), strict=True))


def test_a_header_that_claims_the_memory_of_a_large_machine_is_refused_unread(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(ConfigError):
        load(path)
    text = json.dumps({"a/error": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ConfigError):
        load(path)


def test_a_disk_that_cannot_be_read_is_a_sentence(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match=r"cannot read .*: Is a directory; mend"):
        load(path)


@pytest.mark.parametrize(("about", "named"), [(None, "format 1,"), ({"format": "muster/memory/9"}, "memory/9")])
def test_a_file_of_another_release_is_named_as_that(path: Path, about: dict[str, str] | None, named: str) -> None:
    """Format 1 had no version; what it kept of a submission under way has no place here."""
    path.parent.mkdir()
    save_file(ERRORS, path, about)
    with pytest.raises(ConfigError, match=named) as caught:
        load(path)
    assert "then move the file away" in str(caught.value)


def test_neither_saving_nor_loading_takes_a_second_copy_of_the_model(tmp_path: Path) -> None:
    """30M parameters: beyond the state itself, no more than its largest tensor, with a fifth to spare."""
    program = (sys.executable, str(Path(__file__).with_name("state_memory.py")), str(tmp_path / "memory.safetensors"))
    plain = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "THP_MEM_ALLOC_ENABLE": "0"}  # what is freed is gone
    done = subprocess.run(program, check=True, env=plain, stdout=subprocess.PIPE, timeout=900)
    took = json.loads(done.stdout)
    assert took["parameters"] > 29e6
    assert took["state"] > 3 * 4 * took["parameters"], "e and two moments"
    assert took["save"] <= 1.2 * took["largest"]
    assert took["load"] <= 1.2 * took["largest"]


def test_e_stays_in_the_file_and_is_what_was_saved_whatever_replaces_it(path: Path) -> None:
    first = MinerState(tuple(torch.full(shape, 1.5) for shape in layout().shapes), MADE)
    save_state(path, layout(), first, tuple)
    kept = stored_error(path, layout())
    assert str(path) in Path("/proc/self/maps").read_text()
    save_state(path, layout(), MinerState.blank(layout()), tuple)
    assert all(torch.equal(one, other) for one, other in zip(kept, first.error, strict=True))
    again = stored_error(path, layout())
    again[0].add_(1)
    assert not any(tensor.any() for tensor in stored_error(path, layout()))


def test_a_state_that_is_gone_once_it_was_saved_is_a_storage_error(path: Path) -> None:
    with pytest.raises(StorageError, match="leave it to the miner"):
        stored_error(path, layout())
