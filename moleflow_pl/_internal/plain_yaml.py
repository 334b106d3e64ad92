"""YAML from others, read within limits: a short text can stand for more than a memory holds."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from moleflow_pl.errors import ConfigError

LONGEST = 2**19  # characters
MOST_WRITTEN = 4 * LONGEST  # of the same values without anchors
DEEPEST = 64  # lists and mappings within one another


class Loader(yaml.SafeLoader):
    """YAML's safe loader, which stops at a text that is too long, too deep or too much written out.

    Anchors that refer to one another double with every line; brackets that open again and again
    take time and stack.

    Raises:
        ConfigError: it is.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ConfigError(f"YAML of {len(text)} characters, of {LONGEST} at most")
        super().__init__(text)
        self._above = 0
        self._measures: dict[int, tuple[int, int]] = {}  # characters and levels of a node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node and all that lie within; each of them is measured before it is used."""
        again = self.check_event(yaml.AliasEvent)
        self._require_shallow(1)
        self._above += 1
        node = super().compose_node(parent, index)
        self._above -= 1
        if node is None:
            return None
        if not again:
            self._measures[id(node)] = self._measure(node)
        elif id(node) not in self._measures:
            raise ConfigError("YAML with an anchor that holds itself")
        self._require_shallow(self._measures[id(node)][1])
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value), 1
        pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
        inner = [self._measures[id(item)] for items in pairs for item in items]
        count = 1 + sum(count for count, _ in inner)
        if count > MOST_WRITTEN:
            raise ConfigError(f"YAML whose anchors stand for more than {MOST_WRITTEN} characters")
        return count, 1 + max((levels for _, levels in inner), default=0)

    def _require_shallow(self, levels: int) -> None:
        if self._above + levels > DEEPEST:
            raise ConfigError(f"YAML with more than {DEEPEST} levels of lists and mappings")


class TextLoader(Loader):
    """As `Loader`, and every scalar is text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def load_yaml(text: str) -> Any:
    """Read YAML of plain values.

    Raises:
        ConfigError: it is too long, too deep, or too much written out.
        yaml.YAMLError: it is no YAML, or names a class.

    Example:
        >>> load_yaml("{a: &x [1], b: *x}")
        {'a': [1], 'b': [1]}
    """
    return yaml.load(text, Loader=Loader)
