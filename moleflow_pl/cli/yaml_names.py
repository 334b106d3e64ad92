"""YAML in which product names stay strings, such as `01`, `1.0` and `no`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from moleflow_pl._internal import plain_yaml
from moleflow_pl.cli.arguments import replace_values

TASKS = "tasks"
STRING = "tag:yaml.org,2002:str"
FLOAT = "tag:yaml.org,2002:float"


class Loader(plain_yaml.Loader):
    """Safe YAML that also reads `1e-4` as a number, which YAML 1.1 does not."""


Loader.add_implicit_resolver(
    FLOAT, re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """Read YAML; every scalar below a key `tasks` becomes a string, and `tasks` itself a list.

    Example:
        >>> load_yaml("{data: {tasks: [01, no, [1.0, b]]}, model: {rank: 2, on: no}}")["data"]
        {'tasks': ['01', 'no', ['1.0', 'b']]}
        >>> load_yaml("1e-4"), load_yaml("tasks: washer")
        (0.0001, {'tasks': ['washer']})
    """
    loader = Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    mark_names(node)
    return loader.construct_document(node)


def mark_names(node: yaml.Node, below_tasks: bool = False) -> None:
    """Tag every scalar below a key `tasks` as a string."""
    if isinstance(node, yaml.ScalarNode) and below_tasks:
        node.tag = STRING
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            mark_names(item, below_tasks)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            mark_names(value, below_tasks or key.value == TASKS)
        node.value = [(key, listed(key, value)) for key, value in node.value]


def listed(key: yaml.Node, value: yaml.Node) -> yaml.Node:
    """Return a single name for the key `tasks` as a list."""
    if key.value != TASKS or not isinstance(value, yaml.ScalarNode):
        return value
    return yaml.SequenceNode("tag:yaml.org,2002:seq", [value] if value.value else [])


def quote_tasks(args: Sequence[str]) -> list[str]:
    """Quote the names in `--data.tasks`, since on the command line the list has no key.

    Example:
        >>> quote_tasks(["--data.tasks", "[01, no]", "--data.tasks=washer"])
        ['--data.tasks', '["01", "no"]', '--data.tasks=["washer"]']
    """
    return replace_values(args, f"--data.{TASKS}", quote_list)


def quote_list(text: str) -> str:
    """Quote the names of a YAML list or a single name; return other text unchanged."""
    try:
        value = yaml.load(text, Loader=plain_yaml.TextLoader)
    except yaml.YAMLError:
        return text
    if isinstance(value, dict) or not value:
        return text
    return json.dumps(value if isinstance(value, list) else [value])
