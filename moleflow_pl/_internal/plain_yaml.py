"""YAML from untrusted files, read within limits: aliases can expand a short text without bound."""

from __future__ import annotations

from typing import Any, ClassVar

import yaml

from moleflow_pl.errors import ConfigError

LONGEST = 2**19  # characters
MOST_WRITTEN = 4 * LONGEST  # characters of the same values with all aliases expanded
DEEPEST = 64  # nested lists and mappings
LONGEST_NUMBER = 100  # characters; Python writes out no integer of more than 4,300 digits
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
SHOWN = 40  # characters of a wrong value


class Loader(yaml.SafeLoader):
    """YAML's safe loader, with limits on length, nesting, numbers and the size of expanded aliases.

    Anchors that refer to one another can double the size with every line; deep nesting takes time
    and stack.

    Raises:
        ConfigError: a limit is exceeded, or a number or a date is invalid.
    """

    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise ConfigError(f"YAML of {len(text)} characters: at most {LONGEST} are allowed")
        super().__init__(text)
        self._above = 0
        self._measures: dict[int, tuple[int, int]] = {}  # characters and levels of a node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node and its children; each is measured before it is used."""
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
            raise ConfigError("YAML with an anchor that contains itself: write the values out")
        self._require_shallow(self._measures[id(node)][1])
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Make the value of a node; Python refuses some that look like a number or a date."""
        if node.tag in NUMBERS and len(node.value) > LONGEST_NUMBER:
            raise ConfigError(
                f"YAML with a number of {len(node.value)} characters, {node.value[:SHOWN]}…: at "
                f"most {LONGEST_NUMBER} are allowed"
            )
        try:
            return super().construct_object(node, deep)
        except ConfigError:
            raise
        except (ValueError, OverflowError) as error:
            kind = node.tag.rpartition(":")[2]
            raise ConfigError(
                f"YAML with the value {str(node.value)[:SHOWN]!r}, which is no {kind}: correct it, "
                "or put quotes around a text"
            ) from error

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1 + len(node.value), 1
        pairs = node.value if isinstance(node, yaml.MappingNode) else [node.value]
        inner = [self._measures[id(item)] for items in pairs for item in items]
        count = 1 + sum(count for count, _ in inner)
        if count > MOST_WRITTEN:
            raise ConfigError(
                f"YAML whose aliases expand to more than {MOST_WRITTEN} characters: use fewer"
            )
        return count, 1 + max((levels for _, levels in inner), default=0)

    def _require_shallow(self, levels: int) -> None:
        if self._above + levels > DEEPEST:
            raise ConfigError(f"YAML nested deeper than {DEEPEST} lists and mappings")


class TextLoader(Loader):
    """A `Loader` that reads every scalar as text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}


def load_yaml(text: str) -> Any:
    """Read YAML of plain values.

    Raises:
        ConfigError: the text exceeds a limit, or a number or a date is invalid.
        yaml.YAMLError: the text is not YAML, or names a class.

    Example:
        >>> load_yaml("{a: &x [1], b: *x}")
        {'a': [1], 'b': [1]}
    """
    return yaml.load(text, Loader=Loader)
