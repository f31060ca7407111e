"""The run spec: what all participants of a run must agree on, section by section."""

from muster.protocol.spec.gauntlet import GauntletSpec
from muster.protocol.spec.inner import InnerSpec, MuonSpec
from muster.protocol.spec.outer import MOST_AGE, OuterSpec
from muster.protocol.spec.section import Natural, Positive, Rate, Share
from muster.protocol.spec.sections import (
    HEX32,
    PROTOCOL,
    ChainSpec,
    ClockSpec,
    DataSpec,
    GenesisSpec,
    ModelSpec,
    RunSpec,
    SparseSpec,
    Template,
    first_problem,
    load_template,
    preset_names,
)

__all__ = [
    "HEX32",
    "MOST_AGE",
    "PROTOCOL",
    "ChainSpec",
    "ClockSpec",
    "DataSpec",
    "GauntletSpec",
    "GenesisSpec",
    "InnerSpec",
    "ModelSpec",
    "MuonSpec",
    "Natural",
    "OuterSpec",
    "Positive",
    "Rate",
    "RunSpec",
    "Share",
    "SparseSpec",
    "Template",
    "first_problem",
    "load_template",
    "preset_names",
]
