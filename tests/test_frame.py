"""The frame a stranger meets first: whatever is wrong, the command ends in one clear line and the documented status."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from muster import cli
from muster.protocol import errors
from muster.protocol.spec import Template, load_template
from muster.run import ending
from muster.run.folder import RunDirectory, create
from muster.testnet.roster import Roster

ROOT = Path(__file__).parent.parent
TEMPLATE = ROOT / "protocol" / "spec" / "presets" / "tiny.toml"
ONE_LINE = re.compile(r"error\[([a-z_.]+)\]: [^\n]{20,400}\n")
HELP_SECONDS = 1.0

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
LONG_FUNCTION_LINES, MAX_LONG_FUNCTIONS = 45, 3


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    def failed(self, code: str, status: int, words: str) -> None:
        """Check that it ended in exactly one line with this code, this status and these words."""
        match = ONE_LINE.fullmatch(self.stderr)
        assert match is not None, self.stderr
        assert (match[1], self.status) == (code, status)
        assert words in self.stderr


Muster = Callable[..., Outcome]


@pytest.fixture
def muster(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Muster:
    """The command, called in this process with the working directory in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    for variable in [name for name in os.environ if name.startswith("MUSTER_")]:
        monkeypatch.delenv(variable)

    def call(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["muster", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        return Outcome(status, *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def template() -> Template:
    """`tiny` with the smallest model there can be: genesis in no time."""
    tiny = load_template("tiny")
    model = tiny.model.model_copy(update={"hidden": 8, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 8, "ffn": 8})
    return tiny.model_copy(update={"model": model})


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory, template: Template) -> Path:
    """A run as it is laid out, before anybody has started."""
    base = tmp_path_factory.mktemp("frame")
    texts = []
    for i in range(8):
        texts.append(base / f"text-{i}.txt")
        texts[-1].write_bytes(bytes(range(32, 127)) * 100)
    return create(base / "run", template, Roster.of(0, 1, 1, {}), texts, block_seconds=1.0).path


@pytest.fixture
def run(pristine: Path, tmp_path: Path) -> Path:
    """A run that a test may spoil."""
    return Path(shutil.copytree(pristine, tmp_path / "run"))


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process without the settings of whoever runs the tests."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    return subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=600, env=plain)


def cpu_seconds() -> float:
    """What all ended children of this process have computed so far; unlike wall time, not the machine's load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def spoil_memory(run: Path) -> None:
    """Put something else where the miner remembers."""
    state = run / "state" / "miner-0"
    state.mkdir()
    (state / "memory.safetensors").write_bytes(b"not tensors")


def block_logs(run: Path) -> None:
    """Make it impossible to write the journal."""
    (run / "logs").rmdir()
    (run / "logs").touch()


def test_help_answers_at_once_and_without_heavy_imports() -> None:
    script = (
        "import sys; sys.argv = ['muster', '--help']\n"
        "from muster.cli import main\n"
        "heavy = ('torch', 'numpy', 'bittensor', 'bittensor_core', 'muster.lab')\n"
        "try: main()\n"
        "finally: print([m for m in heavy if m in sys.modules])"
    )
    before = cpu_seconds()
    ended = process(sys.executable, "-c", script)
    assert cpu_seconds() - before < HELP_SECONDS
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1] == "[]"
    for command in ("testnet", "audit", "story", "miner", "validator", "aggregator", "spec"):
        assert f" {command} " in ended.stdout


def test_the_installed_command_ends_without_a_traceback(tmp_path: Path) -> None:
    ended = process(sys.executable, "-P", "-m", "muster", "audit", str(tmp_path))
    assert ended.returncode == 3
    assert ONE_LINE.fullmatch(ended.stderr)
    assert ended.stdout == ""


def test_a_reader_that_leaves_is_no_error() -> None:
    shell = f"set -o pipefail; {sys.executable} -m muster spec show tiny | head -c 1"
    ended = process("bash", "-c", shell)
    assert ended.stderr == ""
    assert ended.returncode in (0, ending.BROKEN_PIPE_STATUS)


@pytest.mark.parametrize(
    ("flags", "code", "status", "words"),
    [
        (["--preset", "nope"], "config", 3, "there are: 150m, 1b, 512m, 72b, 8b, tiny"),
        (["--preset", "gone.toml"], "config", 3, "gone.toml"),
        (["--adversary", "nope=1"], "usage", 2, "garbage"),
        (["--adversary", "noise"], "usage", 2, "NAME=COUNT"),
        (["--adversary", "noise=0"], "usage", 2, "NAME=COUNT"),
        (["--miners", "0"], "usage", 2, "at least one miner"),
        (["--miners", "64"], "usage", 2, "64 slots"),
        (["--dir", "/dev/null/x"], "storage", 4, "/dev/null/x"),
        (["--dir", "full"], "storage", 4, "not empty"),
    ],
)
def test_a_testnet_that_cannot_be_laid_out(
    muster: Muster, tmp_path: Path, flags: list[str], code: str, status: int, words: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").touch()
    muster("testnet", *flags).failed(code, status, words)
    assert [path.name for path in tmp_path.iterdir() if path.name != "full"] in ([], ["runs"])
    assert list(tmp_path.glob("runs/*")) == [], "nothing is left behind that the next try would stumble over"


@pytest.mark.parametrize(
    "arguments",
    [
        ["testnet", "--rounds", "0"],
        ["testnet", "--unheard-of"],
        ["audit"],
        ["miner", "--behaviour", "noise"],
        ["audit", ".", "--from", "-1"],
        ["fly"],
    ],
)
def test_a_flag_that_makes_no_sense_is_explained(muster: Muster, arguments: list[str]) -> None:
    ended = muster(*arguments)
    assert ended.status == errors.UsageError.exit_status
    assert "Usage: muster" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_unknown_key_in_a_template_is_named(muster: Muster, tmp_path: Path) -> None:
    spoiled = tmp_path / "mine.toml"
    spoiled.write_text(TEMPLATE.read_text().replace("[outer]", "[outer]\nmomentum = 0.9"))
    muster("spec", "show", spoiled).failed("config", 3, "unknown key outer.momentum")


def test_a_participants_variable_does_not_reach_a_testnet(muster: Muster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_KEY_FILE", "/etc/hotkey")
    muster("testnet").failed("config", 3, "MUSTER_KEY_FILE")


def test_an_unknown_variable_is_named(muster: Muster, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUSTER_LEARNING_RATE", "1")
    muster("miner", "--run", run, "--name", "miner-0").failed("config", 3, "MUSTER_LEARNING_RATE is not a setting")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "does not exist"),
        ("name =", "not valid TOML"),
        ('naem = "x"', "unknown key naem"),
        ("threads = 0", "threads"),
    ],
)
def test_a_configuration_file_that_is_wrong(
    muster: Muster, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, words: str
) -> None:
    path = tmp_path / "node.toml"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("MUSTER_CONFIG", str(path))
    muster("miner", "--run", run, "--name", "miner-0").failed("config", 3, words)


@pytest.mark.parametrize(
    ("flags", "code", "status", "words"),
    [
        ([], "config", 3, "name"),
        (["--name", "nobody"], "identity", 9, "nobody.key"),
        (["--name", "miner-0", "--key-file", "run.toml"], "identity", 9, "64 hexadecimal digits"),
        (["--name", "miner-0", "--log-level", "loud"], "config", 3, "log_level"),
    ],
)
def test_a_miner_that_cannot_start(
    muster: Muster, run: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], code: str, status: int, words: str
) -> None:
    monkeypatch.chdir(run)
    muster("miner", "--run", run, *flags).failed(code, status, words)


@pytest.mark.parametrize(
    ("spoil", "code", "status", "words"),
    [
        (lambda run: (run / "chain.sqlite").unlink(), "chain", 5, "chain.sqlite"),
        (lambda run: (run / "data" / "train.bin").write_bytes(b"other text"), "data", 7, "train.bin"),
        (lambda run: (run / "keys" / "miner-0.key").write_text("zz"), "identity", 9, "64 hexadecimal digits"),
        (spoil_memory, "config", 3, "memory"),
        (block_logs, "error", 1, "logs"),
    ],
)
def test_a_miner_whose_run_is_spoiled(
    muster: Muster, run: Path, spoil: Callable[[Path], object], code: str, status: int, words: str
) -> None:
    spoil(run)
    muster("miner", "--run", run, "--name", "miner-0").failed(code, status, words)


@pytest.mark.parametrize("command", [["audit"], ["spec", "show"]])
def test_no_such_run(muster: Muster, tmp_path: Path, command: list[str]) -> None:
    muster(*command, tmp_path).failed("config", 3, f"no run at {tmp_path}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("run_id =", "not valid TOML"),
        ('run_id = "{id}"', "is of a run of format 1; this release reads format 2"),
        ("format = 2\nrun_id = 3", "run_id"),
        ('format = 2\nrun_id = "{id}"\nsecret = 1', "unknown key secret"),
        ('format = 2\nrun_id = "{other}"', "another run"),
        ('format = 2\nrun_id = "{id}"\nspec = "gone.json"', "gone.json"),
        ('format = 2\nrun_id = "{id}"\nspec = "data"', "cannot be read"),
    ],
)
def test_a_run_file_that_is_wrong(muster: Muster, run: Path, text: str, words: str) -> None:
    run_id = RunDirectory.open(str(run)).file.run_id
    (run / "run.toml").write_text(text.replace("{id}", run_id).replace("{other}", "0" * 64))
    muster("audit", run).failed("config", 3, words)


def test_a_spec_that_is_not_canonical(muster: Muster, run: Path) -> None:
    spec = run / "spec.json"
    spec.write_bytes(spec.read_bytes() + b"\n")
    muster("audit", run).failed("config", 3, "canonical")


def test_the_spec_of_another_run(muster: Muster, run: Path, tmp_path: Path) -> None:
    hotkey = Roster.of(1, 1, 1, {}).operators[0].hotkey
    text = tmp_path / "run" / "data" / "train.bin"
    flags = ["--owner", hotkey, "--leader", hotkey, "--text", text, "--text", TEMPLATE]
    assert muster("spec", "new", "tiny", tmp_path / "other", *flags).status == 0
    shutil.copy(tmp_path / "other" / "spec.json", run / "spec.json")
    muster("audit", run).failed("config", 3, "is the spec of another run")


def test_a_run_that_has_not_begun_cannot_be_audited(muster: Muster, run: Path) -> None:
    muster("audit", run).failed("audit", 6, "no records yet")


def test_other_text_fails_the_audit(muster: Muster, run: Path) -> None:
    (run / "data" / "heldout.bin").write_bytes(b"other text")
    muster("audit", run).failed("audit", 6, "heldout.bin")


def test_a_new_spec_needs_real_hotkeys_and_an_empty_folder(muster: Muster, tmp_path: Path) -> None:
    hotkey = Roster.of(0, 1, 1, {}).operators[0].hotkey
    muster("spec", "new", "tiny", "out", "--owner", "x", "--leader", hotkey).failed("identity", 9, "'x'")
    muster("spec", "new", "tiny", tmp_path.parent, "--owner", hotkey, "--leader", hotkey).failed("storage", 4, "empty")


def test_a_preset_is_shown_with_what_follows_from_it(muster: Muster) -> None:
    shown = muster("spec", "show", "tiny")
    assert shown.status == 0
    derived = json.loads(shown.stdout)["derived"]
    assert derived["dense_bytes"] == 4 * derived["parameters"]


def operations() -> str:
    """The page for operators."""
    return (ROOT / "docs" / "operations.md").read_text()


def leaves(kind: type[errors.MusterError]) -> list[type[errors.MusterError]]:
    """The error and everything derived from it."""
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in leaves(child))]


def test_operations_documents_every_exit_status() -> None:
    page = operations()
    for status in {error.exit_status for error in leaves(errors.MusterError)}:
        assert f"\n| {status} | " in page
    for status in (ending.INTERRUPTED_STATUS, ending.BROKEN_PIPE_STATUS):
        assert f"\n| {status} | " in page


def modules() -> list[Path]:
    """Every module of what is installed, once."""
    rooms = ("kernels", "protocol", "node", "validator", "muster")
    return [p for room in rooms for p in (ROOT / room).rglob("*.py") if not any(q.is_symlink() for q in p.parents)]


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, those of functions inside it included."""
    first, documented = function.body[0], ast.get_docstring(function, clean=False) is not None
    assert function.end_lineno is not None and first.end_lineno is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if documented else 0)


def functions() -> dict[str, int]:
    """The length of every function, by "path:name at line"."""
    return {
        f"{path.relative_to(ROOT)}:{node.name} at {node.lineno}": length(node)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_modules_and_functions_are_short() -> None:
    """What grows beyond this has two ideas in it; the few long functions are loops that a compiler wants in one."""
    assert len(modules()) > 200
    assert [str(p) for p in modules() if len(p.read_text().splitlines()) > MAX_FILE_LINES] == []
    lengths = functions()
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}
    long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTION_LINES}
    assert len(long) <= MAX_LONG_FUNCTIONS, long


def test_the_documents_link_only_to_what_is_there() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
        assert missing == [], page.name
