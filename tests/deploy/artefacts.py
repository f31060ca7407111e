"""The files of deploy/ as tests read them: with a reader's settings put in, and a place of their own to run in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from muster.deploy import dotenv

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ROLES = ("miner", "validator", "aggregator")
TASKS = ("miner", "validator")
SETTINGS = dict(dotenv.values((DEPLOY / "settings.env").read_text()))

_REQUIRED = re.compile(r"\$\{(\w+):\?[^}]*\}")


def compose_document(settings: dict[str, str]) -> dict[str, Any]:
    """compose.yml as an engine takes it, with the settings in place."""
    text = _REQUIRED.sub(lambda found: settings[found[1]], (DEPLOY / "compose" / "compose.yml").read_text())
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def task_text(role: str) -> str:
    """A SkyPilot task as it is written."""
    return (DEPLOY / "skypilot" / f"{role}.yaml").read_text()


def unit_path(role: str) -> Path:
    """The unit of a role."""
    return DEPLOY / "systemd" / f"muster-{role}.service"
