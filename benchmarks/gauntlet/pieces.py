"""The raw inputs of a run as one file: `<scenario>-<seed>.npz`, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from blake3 import blake3

from benchmarks.gauntlet.raw import GAINS, Raw
from benchmarks.gauntlet.scenarios import Role, Scenario
from benchmarks.gauntlet.setting import template
from muster.protocol.spec import ModelSpec
from muster.protocol.spec.layout import layout_of
from muster.validator.gauntlet.overlap import TILES

VERSION = 1
"""Counted up when the same scenario measures something else, so that older files are measured again."""


def definition(scenario: Scenario) -> dict[str, Any]:
    """All that a measurement depends on but its seed and the text."""
    whole = template(scenario.preset)
    judged = {name: getattr(whole.gauntlet, name) for name in ("eval_windows", "heldout_windows", "step_scale")}
    parts = {
        name: getattr(whole, name).model_dump(mode="json") for name in ("model", "inner", "sparse", "outer", "data")
    }
    return {"version": VERSION, "scenario": scenario.asdict(), "template": {**parts, "gauntlet": judged}}


def digest(scenario: Scenario) -> str:
    """Of the definition: a file of another one is not this scenario's."""
    return blake3(json.dumps(definition(scenario), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A scenario measured with one seed, and by which roles the arrays' P axis is ordered.

    `full` is H · batch, `entries` how many entries of an update are compared with another's.
    """

    scenario: str
    seed: int
    full: int
    entries: int
    roles: tuple[Role, ...]
    raw: Raw

    @classmethod
    def of(cls, scenario: Scenario, seed: int, raw: Raw) -> Self:
        """What has been measured of a scenario."""
        return cls._made(definition(scenario), seed, raw)

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` has written."""
        with np.load(path) as file:
            about = json.loads(str(file["about"]))
            plain = {f.name: file[f.name] for f in fields(Raw) if f.name != "gains"}
            raw = Raw(gains={name: file[name] for name in GAINS}, **plain)
        return cls._made(about, about["seed"], raw)

    @classmethod
    def _made(cls, about: Mapping[str, Any], seed: int, raw: Raw) -> Self:
        roles = tuple(Role(**{**role, "shares": tuple(role["shares"])}) for role in about["scenario"]["roles"])
        whole = about["template"]
        full = whole["inner"]["steps"] * whole["inner"]["batch"]
        kept = layout_of(ModelSpec.model_validate(whole["model"])).grid.kept(whole["sparse"]["k"])
        entries = int(kept.sum()) if len(kept) <= TILES else TILES * whole["sparse"]["k"]
        return cls(about["scenario"]["name"], seed, full, entries, roles, raw)


def path_of(folder: Path, scenario: Scenario, seed: int) -> Path:
    """Where a piece lies."""
    return folder / f"{scenario.name}-{seed}.npz"


def is_there(folder: Path, scenario: Scenario, seed: int) -> bool:
    """Whether the piece has been measured as the scenario is defined now."""
    path = path_of(folder, scenario, seed)
    if not path.exists():
        return False
    with np.load(path) as file:
        return str(file["digest"]) == digest(scenario)


def write(folder: Path, scenario: Scenario, seed: int, raw: Raw) -> None:
    """Keep a piece; a file that is there is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, scenario, seed)
    plain = {f.name: getattr(raw, f.name) for f in fields(Raw) if f.name != "gains"}
    about = json.dumps({**definition(scenario), "seed": seed})
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("wb") as file:
        arrays = {"about": np.array(about), "digest": np.array(digest(scenario)), **raw.gains, **plain}
        np.savez_compressed(file, allow_pickle=False, **arrays)
    part.replace(path)
