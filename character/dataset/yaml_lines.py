"""YAML as plain data with the line of every value, for error messages that name the line.

Tags construct nothing, and scalars are not converted: a number, a date or a `yes` stays distinguishable from text.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import yaml

from character.core.errors import UserError
from character.core.params import MAX_VALUES
from character.core.text_input import HALF_PAIR, read_utf8

YamlData = dict | list | str | bool | int | None  # 0: a scalar that is neither text, nor true or false, nor null
YamlPath = tuple[str | int, ...]


class YamlNode(NamedTuple):
    """A value of a YAML file: its path, such as ("traits", 3, "trait"), its line, counted from 1, and its data."""

    where: YamlPath
    line: int
    data: YamlData


def read_yaml_nodes(path: Path, depth: int) -> list[YamlNode]:
    """Return the values of a YAML file in the order of the file, beginning with the whole file.

    Args:
        path: The file.
        depth: The longest path that is read, in keys and indices. The limit also stops aliases that refer to themselves.

    Raises:
        UserError: The file cannot be read, is empty, is not YAML, or has aliases that multiply its values.
    """
    others = ", ".join(sorted(map(str, path.parent.glob("*.yaml")))) or "there is none"
    text = read_utf8(path, f"write it, or choose one that exists: {others}")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UserError(f"{path}, line {line}: unprintable character U+{error.character:04X}; delete it.") from None
    except yaml.MarkedYAMLError as error:
        line, why = error.problem_mark.line + 1, error.problem
        raise UserError(f"{path}, line {line}: not YAML ({why}); correct it, with texts in double quotes.") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; correct it.") from None
    if root is None:
        raise UserError(f"{path} is empty; fill it in or delete it.")
    if _count_values(root, depth, {}) > MAX_VALUES:
        raise UserError(f"{path}: more than {MAX_VALUES} values, with its aliases (`*name`) written out; remove them.")
    nodes = _walk_nodes(root, depth)
    for node in nodes:
        if any(isinstance(text, str) and HALF_PAIR.search(text) for text in (node.data, *node.where[-1:])):
            raise UserError(f"{path}, line {node.line}: half of a surrogate pair (`\\ud83d`); write the character itself.")
    return nodes


def duplicate_keys(nodes: list[YamlNode]) -> Iterator[tuple[YamlNode, YamlNode]]:
    """Yield the first and a later node of each key that YAML would silently overwrite, without the nodes below them."""
    first, duplicates = {}, set()
    for node in nodes:
        if first.setdefault(node.where, node) is not node:
            duplicates.add(node.where)
            if node.where[:-1] not in duplicates:
                yield first[node.where], node


def _count_values(node: yaml.Node, depth: int, counts: dict[tuple[int, int], int]) -> int:
    """Return how many values `_walk_nodes` would give; each alias is visited once at each depth, however often it is used."""
    key = (id(node), depth)
    if key not in counts:
        children = _child_nodes(node) if depth else ()
        counts[key] = 1 + sum(_count_values(child, depth - 1, counts) for _, _, child in children)
    return counts[key]


def _walk_nodes(node: yaml.Node, depth: int, where: YamlPath = (), line: int = 1) -> list[YamlNode]:
    children = _child_nodes(node) if depth else ()
    below = [_walk_nodes(child, depth - 1, (*where, word), line) for word, line, child in children]
    data = _plain_data(node, {nodes[0].where[-1]: nodes[0].data for nodes in below})
    return [YamlNode(where, line, data), *chain.from_iterable(below)]


def _child_nodes(node: yaml.Node) -> Iterator[tuple[str | int, int, yaml.Node]]:
    """Yield key or index, line and node of each child of `node`."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            word = key.value if isinstance(key, yaml.ScalarNode) else "(not a word)"
            yield word, key.start_mark.line + 1, value
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield index, item.start_mark.line + 1, item


def _plain_data(node: yaml.Node, below: dict[str | int, YamlData]) -> YamlData:
    if isinstance(node, yaml.MappingNode):
        return below
    if isinstance(node, yaml.SequenceNode):
        return list(below.values())
    known = {"str": node.value, "null": None, "bool": node.value.lower() in ("true", "yes", "on")}
    return known.get(node.tag.removeprefix("tag:yaml.org,2002:"), 0)
