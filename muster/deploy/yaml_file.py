"""A YAML file with its places: what YAML 1.1 makes of a value that is not quoted, and of a key that is there twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from muster.deploy.fault import Fault
from muster.deploy.values import judge_variable
from muster.protocol.errors import ConfigError

_STRING, _NULL, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_WORDS = frozenset({"true", "false", "null", "~", ""})
"""What means what it looks like in every version of YAML."""


class YamlFile:
    """One document as nodes that know their lines (1-based)."""

    def __init__(self, name: str, text: str) -> None:
        """Read it.

        Raises:
            ConfigError: it is not YAML, or not a mapping.
        """
        self.name = name
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name} is no mapping of keys to values")
        self.root = node

    def fault(self, node: Any, kind: str, text: str, fix: str) -> Fault:
        """A fault where a node is."""
        return Fault(self.name, node.start_mark.line + 1, kind, text, fix)

    def faults_of_form(self) -> Iterator[Fault]:
        """Keys that are there twice, and values that mean something else than they look like."""
        seen: set[int] = set()
        for node in walk(self.root):
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, yaml.MappingNode):
                yield from self._twice(node)
            elif isinstance(node, yaml.ScalarNode) and node.style is None:
                yield from self._ambiguous(node)

    def faults_of_variables(self, node: Any, where: str, *, may_be_given: bool = False) -> Iterator[Fault]:
        """What is wrong with a mapping of variables; with `may_be_given` null means that it is given at launch."""
        for key, value in pairs(node):
            if not isinstance(value, yaml.ScalarNode):
                yield self.fault(value, "value", f"{where}.{key} is no single value", "write it as text in quotes")
                continue
            null = value.tag == _NULL
            if (null and not may_be_given) or (not null and not value.value):
                text = f"{where}.{key} has no value, and may be left out without a word"
                yield self.fault(value, "empty", text, "give it a value, or take the line out")
            if value.style is None and not null and reads_as(value) == value.value:
                fix = f'write "{value.value}"'
                yield self.fault(value, "unquoted", f"{where}.{key} is not quoted", fix)
            for complaint in judge_variable(key, value.value):
                yield complaint.at(self.name, value.start_mark.line + 1)

    def _twice(self, node: yaml.MappingNode) -> Iterator[Fault]:
        keys: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in keys:
                    text = f"{key.value} is there twice, and the first one is dropped without a word"
                    yield self.fault(key, "twice", text, "keep one of them")
                keys.add(key.value)

    def _ambiguous(self, node: yaml.ScalarNode) -> Iterator[Fault]:
        found = reads_as(node)
        if found != node.value and node.value.lower() not in _WORDS:
            text = f"{node.value} is not quoted, and is read as {found}"
            yield self.fault(node, "unquoted", text, f'write "{node.value}"')


def reads_as(node: yaml.ScalarNode) -> str:
    """What SafeLoader makes of a scalar, as text: `010` is 8, `12:30:45` is 45045."""
    if node.tag in (_STRING, _MERGE):
        return str(node.value)
    return str(yaml.SafeLoader("").construct_object(node))


def walk(node: Any) -> Iterator[Any]:
    """A node and all below it; what an alias names comes again."""
    yield node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from walk(key)
            yield from walk(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from walk(item)


def pairs(node: Any) -> Iterator[tuple[str, Any]]:
    """The keys of a mapping with their values' nodes, merged ones (`<<`) first; nothing for another node."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from pairs(value)
    for key, value in node.value:
        if key.tag != _MERGE and isinstance(key, yaml.ScalarNode):
            yield key.value, value


def child(node: Any, *path: str) -> Any:
    """The node at a path of keys; None where there is none."""
    for name in path:
        node = dict(pairs(node)).get(name)
    return node


def items(node: Any) -> list[Any]:
    """The nodes of a sequence; nothing for another node."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
