"""Nested structures of dicts, lists and named tuples whose leaves are arrays, as targets, weights and states are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def transform(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same structure with `function` of every leaf."""
    if isinstance(tree, Mapping):
        return {key: transform(function, item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [transform(function, item) for item in tree]
    if isinstance(tree, tuple):
        items = [transform(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return function(tree)


def leaves(tree: Any, name: str) -> dict[str, Any]:
    """Every leaf under the names that lead to it, joined with slashes: `targets/styles/0/...`."""
    found: dict[str, Any] = {}
    _walk(lambda path, leaf: found.update({path: leaf}), tree, name)
    return found


def names(tree: Any, name: str) -> Any:
    """The same structure with the names of `leaves` for leaves."""
    return _walk(lambda path, leaf: path, tree, name)


def _walk(function: Callable[[str, Any], Any], tree: Any, name: str) -> Any:
    if isinstance(tree, Mapping):
        return {key: _walk(function, item, f"{name}/{key}") for key, item in tree.items()}
    if isinstance(tree, list):
        return [_walk(function, item, f"{name}/{i}") for i, item in enumerate(tree)]
    return function(name, tree)
