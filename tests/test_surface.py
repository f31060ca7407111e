"""What others may rely on: each promised name is there, says what it is, and takes the arguments it always took."""

from __future__ import annotations

import importlib
import inspect
import re
from types import ModuleType

import pytest

import muster.kernels
import muster.protocol

_LINE = re.compile(r"^    (?:([a-z_.]+): )?((?:\w+, )*\w+)$", re.MULTILINE)


def promised(package: ModuleType) -> list[tuple[str, str]]:
    """(module, name) of everything that a package's docstring lists."""
    lines = _LINE.findall(package.__doc__ or "")
    home = package.__name__
    return [(f"{home}.{part}" if part else home, name) for part, names in lines for name in names.split(", ")]


KERNELS, PROTOCOL = promised(muster.kernels), promised(muster.protocol)

ARGUMENTS = {
    "muster.kernels:SparseUpdate.dense": ["self"],
    "muster.kernels:clip_weights": ["updates", "amounts"],
    "muster.kernels:encode": ["update"],
    "muster.kernels:norm": ["update", "i"],
    "muster.kernels:scale_caps": ["updates", "cap"],
    "muster.protocol.identity:verify": ["public", "message", "signature"],
    "muster.protocol.incentive.pay:chain_weights": ["shares", "uids"],
    "muster.protocol.incentive.pay:incentives": ["scores", "power"],
    "muster.protocol.incentive.rating:rate": ["ratings", "scores", "beta", "tau"],
    "muster.protocol.rules.assignment:assigned": ["beacon", "uid", "data", "count"],
    "muster.protocol.rules.sampling:sample": ["beacon", "label", "population", "count"],
    "muster.protocol.rules.weighing:as_applied": ["update", "windows", "limits", "outer"],
    "muster.protocol.rules.weighing:limits_of": ["updates", "windows", "outer"],
    "muster.protocol.rules.weighing:weigh": ["updates", "windows", "outer", "ages"],
    "muster.protocol.spec.layout:layout_of": ["model"],
    "muster.protocol.spec:RunSpec.canonical": ["self"],
    "muster.protocol.spec:RunSpec.from_bytes": ["data"],
    "muster.protocol.spec:RunSpec.run_id": ["self"],
    "muster.protocol.spec:load_template": ["name"],
    "muster.protocol.wire:decode_record": ["data", "run_id", "tensors"],
    "muster.protocol.wire:decode_seal": ["data", "run_id"],
}
"""What is called from outside, by name of its arguments: a change here is a change for others."""


def test_the_lists_are_read() -> None:
    """If the docstrings changed their form, nothing below would test anything."""
    assert len(KERNELS) > 20
    assert len(PROTOCOL) > 50
    assert ("muster.kernels", "aggregate_") in KERNELS
    assert ("muster.protocol.ledger", "verify") in PROTOCOL


@pytest.mark.parametrize(("module", "name"), [*KERNELS, *PROTOCOL])
def test_a_promised_name_is_there_and_says_what_it_is(module: str, name: str) -> None:
    home = importlib.import_module(module)
    found = getattr(home, name)
    assert name in getattr(home, "__all__", [name]), "a promise is public"
    if inspect.isclass(found) or inspect.isfunction(found):
        assert inspect.getdoc(found), "what is promised is documented"


def test_what_the_kernels_export_is_promised() -> None:
    assert {name for _, name in KERNELS} == set(muster.kernels.__all__)


@pytest.mark.parametrize(("where", "arguments"), ARGUMENTS.items())
def test_a_promised_call_keeps_its_arguments(where: str, arguments: list[str]) -> None:
    module, _, path = where.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    assert list(inspect.signature(found).parameters) == arguments  # type: ignore[arg-type]
    assert (module, path.split(".", maxsplit=1)[0]) in [*KERNELS, *PROTOCOL]
