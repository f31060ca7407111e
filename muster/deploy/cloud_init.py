"""User data for cloud-init: the settings that it writes, and secrets where every process of the machine can read."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from muster.deploy import dotenv
from muster.deploy.fault import Fault
from muster.deploy.values import SETTING, judge_name, judge_text
from muster.deploy.yaml_file import YamlFile, child, items, walk

FIRST_LINE = "#cloud-config"


def check(file: YamlFile) -> Iterator[Fault]:
    """The faults of user data: what every process of the machine can read, and the provider keeps."""
    judged: set[int] = set()
    for entry in items(child(file.root, "write_files")):
        path, content = child(entry, "path"), child(entry, "content")
        if isinstance(path, yaml.ScalarNode) and path.value.endswith(".env") and isinstance(content, yaml.ScalarNode):
            # A block's text begins in the line below its mark.
            yield from dotenv.check(file.name, content.value, content.start_mark.line + 2)
            judged.add(id(content))
    for node in walk(file.root):
        if isinstance(node, yaml.ScalarNode) and id(node) not in judged:
            judged.add(id(node))
            names = sorted(set(SETTING.findall(node.value)))
            for complaint in (*(found for name in names for found in judge_name(name)), *judge_text(node.value)):
                yield complaint.at(file.name, node.start_mark.line + 1)
