"""A setting has one declaration: flag, variable, key of the file and documentation follow from it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from muster.node.wished import Wished
from muster.protocol.errors import ConfigError
from muster.run.settings import CONFIG_VARIABLE, NODE_VARIABLES, SETTINGS, NodeConfig, load_config

DOCS = Path(__file__).parents[3] / "docs"

FILE_ONLY = {"run": "RUN", "name": "miner-0"}
SPECIAL: dict[str, Any] = {
    "log_level": "debug",
    "device": "cpu",
    "precision": "fp32",
    "compile": True,
    "keep_gb": 2.5,
    "moments": "8bit",
    "recompute": True,
}
"""A value where the type alone does not say one."""


def another(name: str) -> Any:
    """A valid value of a setting that is not its default."""
    kind = str(NodeConfig.model_fields[name].annotation)
    return SPECIAL.get(name, Path("/other/place") if "Path" in kind else 3 if "int" in kind else f"other-{name}")


def test_the_page_has_the_table_that_follows_from_the_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change run `make pages`, which writes it again."""
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    maker = importlib.import_module("make_settings")
    page = (DOCS / "operations.md").read_text()
    assert maker.with_table(page) == page
    assert all(f"| `{setting.name}` | `{setting.flag}` |" in page for setting in SETTINGS.values())
    assert maker.with_table(page.replace("| `threads` |", "| `treads` |")) == page


def test_every_setting_says_what_it_is() -> None:
    assert list(SETTINGS) == list(NodeConfig.model_fields)
    for setting in SETTINGS.values():
        assert setting.meaning.endswith("."), setting.name
        assert setting.default, setting.name
        assert setting.variable in NODE_VARIABLES


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("way", ["flag", "variable", "file"])
def test_every_setting_comes_every_way(name: str, way: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A flag wins over a variable, and a variable over the file."""
    value, others = another(name), {key: other for key, other in FILE_ONLY.items() if key != name}
    text = "".join(f'{key} = "{other}"\n' for key, other in others.items())
    if way == "file":
        text += f"{name} = {str(value).lower()}\n" if isinstance(value, int) else f'{name} = "{value}"\n'
    path = tmp_path / "muster.toml"
    path.write_text(text)
    environment = {CONFIG_VARIABLE: str(path)}
    if way == "variable":
        environment[SETTINGS[name].variable] = str(value)
    for variable, content in environment.items():
        monkeypatch.setenv(variable, content)
    flags = {name: str(value)} if way == "flag" else {name: None}
    assert getattr(load_config(flags, environment), name) == value


def test_flags_win_over_variables_and_those_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "muster.toml"
    path.write_text('run = "RUN"\nname = "in-file"\nservice = "in-file"\nchain = "in-file"\n')
    environment = {CONFIG_VARIABLE: str(path), "MUSTER_NAME": "in-variable", "MUSTER_SERVICE": "in-variable"}
    for variable, content in environment.items():
        monkeypatch.setenv(variable, content)
    config = load_config({"name": "in-flag"}, environment)
    assert (config.name, config.service, config.chain) == ("in-flag", "in-variable", "in-file")


def test_what_is_not_valid_is_named() -> None:
    with pytest.raises(ConfigError, match="threads"):
        load_config({**FILE_ONLY, "threads": "0"}, {})


def test_how_to_compute_is_handed_on_as_one_value() -> None:
    config = NodeConfig(**FILE_ONLY, device="cpu", precision="bf16", compile=True, moments="factored", micro_batch=2)
    assert config.wished == Wished("cpu", "bf16", True, "factored", 2, False)
