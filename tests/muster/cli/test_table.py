"""The command table: every command is there, says what its function says, and is imported when it is called."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator

import pytest

from muster.cli.lazy import Command, Group, load
from muster.cli.table import COMMANDS
from muster.run.settings import SETTINGS


def commands() -> Iterator[tuple[str, Command]]:
    """Every command with the words that call it."""
    for word, entry in COMMANDS.items():
        if isinstance(entry, Group):
            yield from ((f"{word} {sub}", command) for sub, command in entry.commands.items())
        else:
            yield word, entry


ALL = dict(commands())


def muster(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "muster", *arguments], capture_output=True, text=True, check=False, timeout=600
    )


def test_the_table_has_every_command() -> None:
    assert set(ALL) == {
        "testnet", "join", "doctor", "estimate", "miner", "validator", "aggregator", "status", "story", "explain",
        "audit", "spec show", "spec new", "spec amend", "run publish", "bucket create", "bucket check", "bucket rotate",
        "bucket remove", "deploy check",
    }  # fmt: skip


@pytest.mark.parametrize("words", ALL)
def test_a_summary_is_the_first_line_of_the_functions_docstring(words: str) -> None:
    function = load(ALL[words].function)
    assert (inspect.getdoc(function) or "").splitlines()[0] == ALL[words].summary


@pytest.mark.slow
@pytest.mark.parametrize("words", ALL)
def test_a_command_needs_nothing_that_another_has_imported(words: str) -> None:
    """Tests fork their commands off a process that has imported all of them; a person's begins with none."""
    argv = [sys.executable, "-P", "-m", "muster", *words.split(), "--help"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("role", ["miner", "validator", "aggregator", "doctor"])
def test_a_daemons_command_has_a_flag_for_each_setting(role: str) -> None:
    parameters = inspect.signature(load(ALL[role].function)).parameters
    assert list(SETTINGS) == list(parameters)[: len(SETTINGS)]


@pytest.mark.parametrize("words", ["spec", "run", "bucket", "deploy"])
def test_help_of_a_group_imports_none_of_its_commands(words: str) -> None:
    script = (
        f"import sys; sys.argv = ['muster', '{words}', '--help']\n"
        "from muster.cli import main\n"
        "try: main()\n"
        "finally: print([m for m in sys.modules if m in ('torch', 'muster.run.settings', 'muster.cli.' + '{words}')])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    assert ended.stdout.splitlines()[-1] == "[]"
    entry = COMMANDS[words]
    assert isinstance(entry, Group)
    assert all(f" {sub} " in ended.stdout for sub in entry.commands)


def test_help_of_a_command_is_its_own() -> None:
    ended = muster("spec", "new", "-h")
    assert ended.returncode == 0
    assert "Usage: muster spec new " in " ".join(ended.stdout.split())
    assert "--owner" in ended.stdout


def test_what_a_command_imports_is_never_looked_at_for_garbage() -> None:
    script = (
        "import gc; from muster.cli.lazy import load\n"
        f"load('{ALL['spec show'].function}'); print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
        "gc.disable()\n"
        "try: load('muster.cli.nothing:here')\n"
        "except ModuleNotFoundError: print(gc.isenabled())"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    assert ended.stdout == "True True\nFalse\n"
