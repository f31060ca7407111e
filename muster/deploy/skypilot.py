"""A SkyPilot task: what its loader (0.14) takes in silence, such as a GPU or a strategy that does not exist.

Everything that the loader itself refuses is left to it: an unknown key, an image that cannot be, an `envs` entry that
nobody gave at launch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from muster.deploy.fault import Fault
from muster.deploy.yaml_file import YamlFile, child, items, pairs

STRATEGIES = frozenset({"EAGER_NEXT_REGION", "FAILOVER"})
"""What `job_recovery` may name (sky/jobs/recovery_strategy.py of 0.14)."""

GPUS = frozenset({
    "A10", "A100", "A100-80GB", "A100-80GB-SXM", "A10G", "A30", "A40", "A4000", "A6000", "A800", "B200", "GH200",
    "H100", "H100-MEGA", "H100-NVL", "H100-NVLINK", "H100-SXM", "H200", "H200-SXM", "L4", "L40", "L40S", "RTX3060",
    "RTX3070", "RTX3080", "RTX3090", "RTX4000-Ada", "RTX4090", "RTX5060", "RTX5090", "RTX6000", "RTX6000-Ada",
    "RTX6000Ada", "RTXA4000", "RTXA4500", "RTXA5000", "RTXA6000", "RTXPRO6000S", "RTXPRO6000WS", "T4", "T4g",
    "V100", "V100-32GB",
})  # fmt: skip
"""NVIDIA's cards of compute capability 7 and more, by the names of SkyPilot's catalogue
(skypilot-catalog/catalogs/v8/common/accelerators.csv, 2026); the loader compares them without regard to case."""

_KNOWN = frozenset(name.lower() for name in GPUS)
_VARIABLE = re.compile(r"\$\{?(\w+)\}?")
_CLOUD = re.compile(r"^[a-z0-9]+://")


def check(file: YamlFile, given: frozenset[str]) -> Iterator[Fault]:
    """The faults of a task; `given` are the variables that settings files checked with it give at launch."""
    root = file.root
    for section in ("envs", "secrets"):
        node = child(root, section)
        yield from file.faults_of_variables(node, section, may_be_given=section == "envs")
    for key, value in pairs(child(root, "envs")):
        if given and value.tag == "tag:yaml.org,2002:null" and key not in given:
            text = f"nobody gives envs.{key} a value"
            yield file.fault(value, "empty", text, "set it in the settings, or with --env")
    for resources in _choices(child(root, "resources")):
        yield from _gpus(file, child(resources, "accelerators"))
        yield from _recovery(file, child(resources, "job_recovery"))
    yield from _mounts(file)


def _choices(resources: Any) -> Iterator[Any]:
    """`resources` itself and its alternatives."""
    yield resources
    for name in ("any_of", "ordered"):
        yield from items(child(resources, name))


def _gpus(file: YamlFile, node: Any) -> Iterator[Fault]:
    names: list[tuple[str, Any]] = []
    if isinstance(node, yaml.ScalarNode):
        names = [(node.value, node)]
    elif isinstance(node, yaml.MappingNode):
        names = [(key.value, key) for key, _ in node.value]
    names += [(item.value, item) for item in items(node) if isinstance(item, yaml.ScalarNode)]
    for text, place in names:
        name = text.partition(":")[0]
        if name.lower() not in _KNOWN:
            fix = f"take one of {', '.join(sorted(GPUS))}"
            yield file.fault(place, "gpu", f"{name} is no NVIDIA GPU of SkyPilot's catalogue", fix)


def _recovery(file: YamlFile, node: Any) -> Iterator[Fault]:
    named = node if isinstance(node, yaml.ScalarNode) else child(node, "strategy")
    if isinstance(named, yaml.ScalarNode) and named.value.upper() not in STRATEGIES | {"NONE", "NULL", ""}:
        fix = f"take one of {', '.join(sorted(STRATEGIES))}"
        yield file.fault(named, "strategy", f"{named.value} is no recovery strategy of SkyPilot", fix)


def _mounts(file: YamlFile) -> Iterator[Fault]:
    """Local files that are not there, and variables that a mount names and nobody sets."""
    known = {name for section in ("envs", "secrets") for name, _ in pairs(child(file.root, section))}
    workdir = child(file.root, "workdir")
    mounted = [("workdir", workdir)] if isinstance(workdir, yaml.ScalarNode) else []
    mounted += [(key, value) for key, value in pairs(child(file.root, "file_mounts"))]
    for target, node in mounted:
        source = node if isinstance(node, yaml.ScalarNode) else child(node, "source")
        if not isinstance(source, yaml.ScalarNode):
            continue
        unset = [name for name in _VARIABLE.findall(target + source.value) if name not in known]
        if unset:
            text = f"the mount {target} names {unset[0]}, which is neither in envs nor in secrets"
            yield file.fault(source, "variable", text, f"add {unset[0]} to envs")
        elif _is_local(source.value) and not Path(source.value).expanduser().exists():
            text = f"{source.value}, mounted at {target}, is not there (seen from this folder)"
            yield file.fault(source, "missing", text, "correct the path, or run it where the path leads there")


def _is_local(source: str) -> bool:
    """Whether it names a file of this machine, known before the launch."""
    return not _VARIABLE.search(source) and not _CLOUD.match(source)
