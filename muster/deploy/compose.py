"""A compose file: values not quoted, variables that would be blank, files that are not there, secrets in the clear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from muster.deploy.fault import Fault
from muster.deploy.values import judge_variable
from muster.deploy.yaml_file import YamlFile, child, items, pairs, walk

_BLANK = re.compile(r"(?<!\$)\$(?:\{(\w+)\}|(\w+))")
"""A variable that is blank where nobody sets it; `${NAME:-default}` and `${NAME:?what is missing}` are not."""


def check(file: YamlFile, given: frozenset[str]) -> Iterator[Fault]:
    """The faults of a compose file; `given` are the variables that settings files checked with it set."""
    seen: set[int] = set()
    for name, service in pairs(child(file.root, "services")):
        node = child(service, "environment")
        if isinstance(node, yaml.SequenceNode):
            yield from _listed(file, node, name)
        else:
            yield from file.faults_of_variables(node, f"{name}.environment")
        for place in (*items(child(service, "env_file")), *_single(child(service, "env_file"))):
            yield from _there(file, place, place.value)
        for volume in items(child(service, "volumes")):
            if isinstance(volume, yaml.ScalarNode) and volume.value.startswith((".", "/", "~")):
                yield from _there(file, volume, volume.value.partition(":")[0])
    for _, secret in pairs(child(file.root, "secrets")):
        for source in _single(child(secret, "file")):
            yield from _there(file, source, source.value)
    for node in walk(file.root):
        if isinstance(node, yaml.ScalarNode) and id(node) not in seen:
            seen.add(id(node))
            for names in _BLANK.findall(node.value):
                name = names[0] or names[1]
                if name not in given:
                    text = f"{name} is blank where nobody sets it"
                    yield file.fault(node, "empty", text, f"write ${{{name}:?what it is}}")


def _listed(file: YamlFile, node: yaml.SequenceNode, service: str) -> Iterator[Fault]:
    """`environment` as a list of NAME=VALUE."""
    for item in items(node):
        name, equals, value = str(item.value).partition("=")
        if equals and not value:
            text = f"{service}.environment.{name} has no value"
            yield file.fault(item, "empty", text, "give it a value, or take the line out")
        for complaint in judge_variable(name, value):
            yield complaint.at(file.name, item.start_mark.line + 1)


def _there(file: YamlFile, node: Any, path: str) -> Iterator[Fault]:
    """A local file must be there, seen from the compose file."""
    if "$" not in path and not (Path(file.name).parent / Path(path).expanduser()).exists():
        yield file.fault(node, "missing", f"{path} is not there", "correct the path, or make the file")


def _single(node: Any) -> list[Any]:
    return [node] if isinstance(node, yaml.ScalarNode) else []
