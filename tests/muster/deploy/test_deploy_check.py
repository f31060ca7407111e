"""`muster deploy check` names what the tools take in silence, at its line, and finds nothing in the files that ship."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.deploy import dotenv
from muster.deploy.check import MAX_BYTES, check_files
from muster.deploy.systemd import INCURABLE
from muster.protocol.errors import ConfigError, UsageError
from muster.run.settings import SETTINGS

DEPLOY = Path(__file__).parents[3] / "deploy"
SHIPPED = sorted(path for path in DEPLOY.rglob("*") if path.suffix in {".env", ".yaml", ".yml", ".service"})
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"

Check = Callable[[str, str], list[tuple[int, str]]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """The faults of a text as (line, kind), checked as the file NAME."""
    monkeypatch.chdir(tmp_path)

    def faults(name: str, text: str) -> list[tuple[int, str]]:
        (tmp_path / name).write_text(text)
        return [(fault.line, fault.kind) for fault in check_files([Path(name)])]

    return faults


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_what_ships_needs_nothing_but_the_readers_own_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEPLOY.parent)
    lines = path.read_text().splitlines()
    for fault in check_files([path]):
        assert fault.kind == "placeholder"
        assert re.search("example.org|READ_KEY|/home/me/", lines[fault.line - 1])


def test_there_is_something_to_check() -> None:
    assert {path.parent.name for path in SHIPPED} == {"deploy", "skypilot", "compose", "systemd", "cloud-init"}


def test_at_most_ten_settings_to_mine() -> None:
    assert len(dotenv.values((DEPLOY / "settings.env").read_text())) <= 10
    assert {"MUSTER_RUN", "MUSTER_NAME", "MUSTER_LOCATION"} < {setting.variable for setting in SETTINGS.values()}


class TestSkypilot:
    """What SkyPilot's loader makes of it is in tests/deploy/test_tools.py, where the loader is."""

    @pytest.mark.parametrize(
        ("value", "read"), [("010", "8"), ("12:30:45", "45045"), ("yes", "True"), ("1_000", "1000"), ("0x1F", "31")]
    )
    def test_what_yaml_reads_as_something_else(self, check: Check, tmp_path: Path, value: str, read: str) -> None:
        assert check("task.yaml", f'envs:\n  A: {value}\n  B: "{value}"\nrun: "true"\n') == [(2, "unquoted")]
        (fault,) = check_files([Path("task.yaml")])
        assert f"is read as {read}" in fault.text

    def test_every_variable_is_quoted_and_has_a_value(self, check: Check) -> None:
        text = "envs:\n  A: plain\n  B: null\n  C: ''\nsecrets:\n  D:\n  E: ''\nrun: 'true'\n"
        assert check("task.yaml", text) == [(2, "unquoted"), (4, "empty"), (6, "empty"), (7, "empty")]

    def test_settings_given_at_launch(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "settings.env").write_text("A='1'\n")
        (tmp_path / "task.yaml").write_text("envs:\n  A: null\n  B: null\nrun: 'true'\n")
        found = check_files([Path("settings.env"), Path("task.yaml")])
        assert [(fault.file, fault.line, fault.kind) for fault in found] == [("task.yaml", 3, "empty")]

    @pytest.mark.parametrize("gpu", ['"H1OO:1"', '{"H1OO": 1}', '["H1OO:1"]'])
    def test_a_gpu_that_does_not_exist(self, check: Check, gpu: str) -> None:
        assert check("task.yaml", f"resources:\n  accelerators: {gpu}\n") == [(2, "gpu")]
        assert check("task.yaml", "resources:\n  accelerators: " + gpu.replace("H1OO", "h100") + "\n") == []

    def test_gpus_of_alternatives(self, check: Check) -> None:
        text = "resources:\n  any_of:\n    - accelerators: 'H100:1'\n    - accelerators: 'H2OO:1'\n"
        assert check("task.yaml", text) == [(4, "gpu")]

    @pytest.mark.parametrize("recovery", ['"EAGER"', '{strategy: "EAGER"}'])
    def test_a_strategy_that_does_not_exist(self, check: Check, recovery: str) -> None:
        assert check("task.yaml", f"resources:\n  job_recovery: {recovery}\n") == [(2, "strategy")]
        right = recovery.replace("EAGER", "EAGER_NEXT_REGION")
        assert check("task.yaml", f"resources:\n  job_recovery: {right}\n") == []

    def test_mounts(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "there").touch()
        text = (
            'envs: {A: "1"}\nfile_mounts:\n  /a: "there"\n  /b: "gone"\n  /c: "${A}/x"\n  /d: "${B}/x"\n'
            '  /e: "s3://bucket"\n  /f: {source: "gone", mode: COPY}\nrun: "true"\n'
        )
        assert check("task.yaml", text) == [(4, "missing"), (6, "variable"), (8, "missing")]

    def test_a_setting_nobody_knows_and_a_secret_in_the_clear(self, check: Check) -> None:
        text = f'envs:\n  MUSTER_RUM: "x"\nsecrets:\n  MUSTER_S3_SECRET_KEY: "abc"\n  SEED: "{SEED}"\nrun: "true"\n'
        assert check("task.yaml", text) == [(2, "setting"), (4, "secret"), (5, "secret")]

    def test_what_is_in_the_clear_behind_a_reference_or_in_capitals(self, check: Check) -> None:
        text = 'secrets:\n  MUSTER_S3_SECRET_KEY: "${X:-abc}"\n  A: "${X:?where}"\n  SEED: "%s"\nrun: "true"\n'
        assert check("task.yaml", text % SEED.upper()) == [(2, "secret"), (4, "secret")]

    def test_a_run_id_is_no_secret(self, check: Check) -> None:
        text = f'envs:\n  MUSTER_RUN: "https://runs.test/{SEED}#{SEED}"\nrun: "true"\n'
        assert check("task.yaml", text) == []

    def test_a_key_that_is_there_twice(self, check: Check) -> None:
        assert check("task.yaml", 'envs:\n  A: "1"\n  A: "2"\nrun: "true"\n') == [(3, "twice")]


class TestCompose:
    """compose.yml."""

    def test_blank_variables(self, check: Check, tmp_path: Path) -> None:
        text = (
            'services:\n  a:\n    environment:\n      A: "${X}"\n      B: "${X:-x}"\n      C: "${X:?x}"\n'
            '      D: "$$X"\n      E: "$X"\n'
        )
        assert check("compose.yml", text) == [(4, "empty"), (8, "empty")]
        (tmp_path / "settings.env").write_text("X='1'\n")
        assert check_files([Path("settings.env"), Path("compose.yml")]) == []

    def test_files_that_are_not_there(self, check: Check, tmp_path: Path) -> None:
        (tmp_path / "there").touch()
        text = (
            "services:\n  a:\n    env_file: 'gone.env'\n    volumes: ['./there:/x', './gone:/y', 'named:/z']\n"
            "secrets:\n  one: {file: './gone'}\n  two: {file: './there'}\n"
        )
        assert check("compose.yml", text) == [(3, "missing"), (4, "missing"), (6, "missing")]

    @pytest.mark.parametrize("entry", ['["MUSTER_S3_SECRET_KEY=abc"]', '{MUSTER_S3_SECRET_KEY: "abc"}'])
    def test_a_secret_in_the_clear(self, check: Check, entry: str) -> None:
        assert check("compose.yml", f"services:\n  a:\n    environment: {entry}\n") == [(3, "secret")]
        fine = entry.replace("abc", "${S:?s}")
        assert check("compose.yml", f"services:\n  a:\n    environment: {fine}\n") == []

    def test_merged_variables_are_looked_at_once(self, check: Check) -> None:
        text = (
            "x-e: &e\n  MUSTER_RUM: 'x'\nservices:\n"
            "  a:\n    environment: {<<: *e}\n  b:\n    environment: {<<: *e, N: 010}\n"
        )
        assert check("compose.yml", text) == [(2, "setting"), (7, "unquoted")]


class TestSystemd:
    """Units."""

    def test_what_no_restart_cures(self, check: Check) -> None:
        assert check("a.service", "[Service]\nRestart=always\n") == [(2, "restart")]
        assert check("a.service", "[Service]\nRestart=no\n") == []
        statuses = " ".join(map(str, sorted(INCURABLE)))
        assert check("a.service", f"[Service]\nRestart=always\nRestartPreventExitStatus={statuses}\n") == []
        fewer = " ".join(map(str, sorted(INCURABLE)[1:]))
        assert check("a.service", f"[Service]\nRestart=on-failure\nRestartPreventExitStatus={fewer}\n") == [
            (2, "restart")
        ]

    def test_variables(self, check: Check) -> None:
        text = (
            "[Service]\n# Environment=MUSTER_RUM=1\nEnvironment=A=1 \\\n  MUSTER_RUM=2\nEnvironment=B=\n"
            'Environment="C=a b" D=a b\nEnvironment=MUSTER_S3_SECRET_KEY=abc\n'
        )
        assert check("a.service", text) == [(3, "setting"), (5, "empty"), (6, "empty"), (7, "secret")]

    def test_files_of_an_installed_unit(self, tmp_path: Path) -> None:
        folder = tmp_path / "etc/systemd/system"
        folder.mkdir(parents=True)
        unit = folder / "a.service"
        unit.write_text(
            "[Service]\nExecStart=-/opt/x run\nEnvironmentFile=-/etc/optional\nEnvironmentFile=/etc/needed\n"
            "LoadCredential=key:/etc/key\n"
        )
        assert [fault.line for fault in check_files([unit])] == [2, 4, 5]
        for name in ("opt/x", "etc/needed", "etc/key"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        assert check_files([unit]) == []


class TestCloudInit:
    """User data."""

    def test_the_first_line(self, check: Check) -> None:
        assert check("user-data.yaml", "# cloud-config\nruncmd: []\n") == [(1, "first line")]
        assert check("user-data.yaml", "#cloud-config\nruncmd: []\n") == []

    def test_settings_that_it_writes(self, check: Check) -> None:
        text = (
            "#cloud-config\nwrite_files:\n  - path: '/etc/x.env'\n    content: |\n"
            "      A='1'\n      B=two words\n      MUSTER_RUM='3'\n      C=''\n"
        )
        assert check("user-data.yaml", text) == [(6, "unquoted"), (7, "setting"), (8, "empty")]

    def test_secrets_anywhere_and_numbers(self, check: Check) -> None:
        text = (
            f"#cloud-config\nwrite_files:\n  - path: '/k'\n    permissions: 0600\n    content: '{SEED}'\n"
            "runcmd:\n  - 'MUSTER_RUM=1 muster miner'\n"
        )
        assert check("user-data.yaml", text) == [(4, "unquoted"), (5, "secret"), (7, "setting")]


class TestSettings:
    """settings.env, and the folder of keys that it names."""

    def test_a_line_that_is_none_is_not_repeated(self, tmp_path: Path) -> None:
        """It may hold a secret, and what is told here lands in logs."""
        (tmp_path / "settings.env").write_text("export MUSTER_S3_SECRET_KEY='hidden'\n")
        (found,) = check_files([tmp_path / "settings.env"])
        assert "hidden" not in repr(found)

    def test_form(self, check: Check) -> None:
        text = "# a\nA='1'\nB=\"2\"\nC=''\nexport D='4'\nA='5'\n"
        assert check("settings.env", text) == [
            (3, "unquoted"), (4, "empty"), (5, "unquoted"), (6, "twice"),
        ]  # fmt: skip

    def test_the_key_files(self, check: Check, tmp_path: Path) -> None:
        text = f"KEYS='{tmp_path}'\n"
        assert check("settings.env", text) == [(1, "missing")] * 3
        for name, content in zip(dotenv.KEY_FILES, (SEED, "access", ""), strict=True):
            (tmp_path / name).write_text(content)
            (tmp_path / name).chmod(0o600)
        assert check("settings.env", text) == [(1, "empty")]
        (tmp_path / "s3-secret-key").write_text("secret")
        assert check("settings.env", text) == []
        (tmp_path / "s3-access-key").chmod(0o644)
        assert check("settings.env", text) == [(1, "mode")]

    def test_a_file_that_is_no_hotkey(self, check: Check, tmp_path: Path) -> None:
        for name in dotenv.KEY_FILES:
            (tmp_path / name).write_text("no key")
            (tmp_path / name).chmod(0o600)
        assert check("settings.env", f"KEYS='{tmp_path}'\n") == [(1, "missing")]

    @given(st.text(st.characters(codec="utf-8", exclude_characters="'\n\r\x00", exclude_categories=("Cc", "Zl", "Zp"))))
    def test_a_quoted_value_is_itself(self, value: str) -> None:
        assert dotenv.values(f"A='{value}'\n") == {"A": value}


class TestRefused:
    """What is not looked at ends in one sentence."""

    def test_nothing_named(self) -> None:
        with pytest.raises(UsageError, match="name the files"):
            check_files([])

    @pytest.mark.parametrize("name", ["a.txt", "other.yaml"])
    def test_another_kind(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("a: 1\n")
        with pytest.raises(UsageError):
            check_files([tmp_path / name])

    @pytest.mark.parametrize("data", [b"a: [", b"- a\n", b"\xff", b"#" * (MAX_BYTES + 1)])
    def test_not_readable(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "a.yaml").write_bytes(data)
        with pytest.raises(ConfigError):
            check_files([tmp_path / "a.yaml"])

    def test_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot read"):
            check_files([tmp_path / "gone.yaml"])
