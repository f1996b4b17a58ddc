"""Reads YAML files with bounded size, depth and time; their text has one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from segnext.one_line import is_one_line, one_line

# A data set of 255 classes with colours has 10 kB; a label map of 65,536 ids has 1 MB, and reads in three seconds.
LARGEST_FILE = 2 * 2**20
LONGEST_TEXT = 4096
DEEPEST = 20
# Aliases (`*name`) repeat what was written once: nine levels of nine make a billion values of 300 letters.
MOST_VALUES = 200_000

_INTEGER = "tag:yaml.org,2002:int"
_EQUAL = (_INTEGER, "tag:yaml.org,2002:float", "tag:yaml.org,2002:bool")

# libyaml, where PyYAML was built with it, is ten times as fast.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file: dictionaries, lists, text, numbers, dates.

    Raises:
        ValueError: not YAML, or larger, deeper or longer than a description of a data set; a key is there twice, or a
            whole number is not decimal.
        OSError: the file cannot be read.
    """
    shown = one_line(path, 240)
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise ValueError(
            f"{shown} must have at most {LARGEST_FILE:,} bytes, got {size:,}; is it a data YAML?"
        )
    try:
        text = path.read_text(encoding="utf-8")
        _expect_plain(text)
        node = yaml.compose(text, _Loader)
        if node is None:
            return None
        _expect_few(node)
        return yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = one_line(" ".join(str(error).split()), 300)
        raise ValueError(f"{shown} must be YAML; {reason}") from None


def _expect_plain(text: str) -> None:
    """Raise unless nothing is too deep or too long: composing recurses, and some numbers take quadratic time."""
    depth = 0
    for number, event in enumerate(yaml.parse(text, _Loader)):
        if number > 2 * MOST_VALUES:  # a collection has two events
            raise ValueError(f"it must have at most {MOST_VALUES:,} values, got more")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.ScalarEvent):
            if len(event.value) > LONGEST_TEXT:
                raise ValueError(f"text must have at most {LONGEST_TEXT} letters, got {len(event.value):,}")
            if not is_one_line(event.value):
                raise ValueError(f"text must have one line, got {one_line(event.value, 60)}")
        if depth > DEEPEST:
            raise ValueError(f"lists and mappings must be at most {DEEPEST} deep, got more")


def _expect_few(root: yaml.Node) -> None:
    """Raise if the aliases make too much of it, or a key is there twice."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            _expect_decimal(node)
            sizes[id(node)] = MOST_VALUES + 1  # stays so for a node that holds itself
            sizes[id(node)] = 1 + sum(map(size, _children(node)))
        return sizes[id(node)]

    if size(root) > MOST_VALUES:
        raise ValueError(f"it must have at most {MOST_VALUES:,} values, aliases (*name) counted, got more")


def _expect_decimal(node: yaml.Node) -> None:
    """Raise for a whole number that YAML reads otherwise than most people: 010 is 8, 1:30 is 90."""
    if node.tag == _INTEGER and re.fullmatch("0|-?[1-9][0-9]*", node.value) is None:
        cure = "put a space behind the colon of a key" if ":" in node.value else "quote it if it is text"
        raise ValueError(
            f"whole numbers must be decimal, without leading zeros, got {one_line(node.value, 60)}; {cure}"
        )


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            name: object = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)
            if key.tag in _EQUAL:  # 1, 1.0 and true are one key of a dictionary
                name = yaml.constructor.SafeConstructor().construct_object(key)
            if name in keys:
                raise ValueError(f"each key must be there once, got {one_line(key.value, 60)} twice")
            keys.add(name)
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
