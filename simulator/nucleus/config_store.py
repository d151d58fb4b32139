"""The configuration of all components: trees whose leaves carry their write time. Pure.

A leaf is anything but a map. An older write loses against a newer one, leaf by leaf; what changed is returned as the
paths of the leaves, after everything is written. Default configuration is older than everything else.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simulator.nucleus.ipc.ipc_errors import ResourceNotFoundError, ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from simulator.nucleus.limits import Limits

DEFAULT_MS: Final = 0  # when default configuration counts as written

KeyPath = tuple[str, ...]


@dataclass(slots=True)
class _Leaf:
    value: Any
    written_ms: int


_Tree = dict[str, "_Node"]
_Node = _Leaf | _Tree


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One leaf that has another value now."""

    component: str
    path: KeyPath


class ConfigStore:
    """The configuration of every component. Not thread-safe."""

    def __init__(self, *, limits: Limits, replaces: bool) -> None:
        """`replaces`: a leaf may take the place of a map and the other way round (classic), else that is refused."""
        self._limits = limits
        self._replaces = replaces
        self._components: dict[str, _Tree] = {}

    def get(self, component: str, path: Sequence[str] = ()) -> Any:
        """Return a copy of what is at `path`. Raises ResourceNotFoundError."""
        node: _Node | None = self._components.get(component)
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if node is None:
            raise ResourceNotFoundError(f"{component} has no configuration {'/'.join(path)}")
        return _value(node)

    def find(self, component: str, path: Sequence[str] = ()) -> Any:
        """Return a copy of what is at `path`, None where nothing is."""
        try:
            return self.get(component, path)
        except ResourceNotFoundError:
            return None

    def newest_ms(self, component: str, path: Sequence[str]) -> int:
        """Return when the newest leaf at or below `path` was written; 0 where there is none."""
        node: _Node | None = self._components.get(component)
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        return max((leaf.written_ms for leaf in _leaves(node)), default=0)

    def merge(self, component: str, path: Sequence[str], value: Any, *, at_ms: int) -> list[ConfigChange]:
        """Lay `value` over what is at `path` and no newer than `at_ms`. Raises ServiceError if it does not fit."""
        tree: dict[str, Any] = {}
        below = tree
        for key in path[:-1]:
            below[key] = {}
            below = below[key]
        if path:
            below[path[-1]] = value
        elif isinstance(value, dict):
            tree = value
        else:
            raise ServiceError("the whole configuration must be a map")
        root = self._components.setdefault(component, {})
        collision = None if self._replaces else _collision(root, tree)
        if collision is not None:  # before anything is written
            raise ServiceError(f"{'/'.join(collision)}: a map and a value cannot take each other's place")
        return [ConfigChange(component, changed) for changed in self._merge_into(root, tree, (), at_ms)]

    def fill(self, component: str, defaults: Mapping[str, Any]) -> None:
        """Add what `defaults` have and the component has not, and change nothing else (classic)."""
        _fill(self._components.setdefault(component, {}), defaults)

    def reset(self, component: str, paths: Sequence[Sequence[str]], defaults: Any) -> list[ConfigChange]:
        """Put each path back to its default, or away where there is none; an empty path means everything."""
        before = dict(_flatten(self._components.get(component, {})))
        for path in paths:
            self._restore_default(component, tuple(path), defaults)
        after = dict(_flatten(self._components.get(component, {})))
        changed = [path for path in {**before, **after} if before.get(path) != after.get(path)]
        return [ConfigChange(component, path) for path in changed]

    def replace_with(self, other: ConfigStore) -> None:
        """Become what `other` is."""
        self._components = other._components

    def remove(self, component: str) -> None:
        """Forget a component that is no longer deployed."""
        self._components.pop(component, None)

    def _restore_default(self, component: str, path: KeyPath, defaults: Any) -> None:
        default = defaults
        for key in path:
            default = default.get(key) if isinstance(default, dict) else None
        parent: _Node | None = self._components.setdefault(component, {})
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(parent, dict):
            return
        if not path:
            parent.clear()
            parent.update(_nodes(default or {}))
        elif default is None:
            parent.pop(path[-1], None)
        else:
            parent[path[-1]] = _node(default, DEFAULT_MS)

    def _merge_into(self, tree: _Tree, value: Mapping[str, Any], at: KeyPath, at_ms: int) -> list[KeyPath]:
        changed: list[KeyPath] = []
        for key, new in value.items():
            old = tree.get(key)
            here = (*at, key)
            if old is not None and isinstance(old, dict) != isinstance(new, dict):
                tree.pop(key)
                old = None
            if isinstance(new, dict):
                below = tree.setdefault(key, {})
                changed += self._merge_into(below, new, here, at_ms) if isinstance(below, dict) else []
            elif not isinstance(old, _Leaf) or old.written_ms <= at_ms:
                tree[key] = _Leaf(new, at_ms)
                if not isinstance(old, _Leaf) or old.value != new or type(old.value) is not type(new):
                    changed.append(here)
        return changed

    def check(self, value: Any, *, depth: int) -> None:
        """Raise ServiceError for what a component cannot write at `depth`."""
        limits = self._limits
        if limits.nesting is not None and depth > limits.nesting:
            raise ServiceError(f"the configuration is nested deeper than {limits.nesting} levels")
        match value:
            case str() if limits.string_bytes is not None and len(value.encode()) > limits.string_bytes:
                raise ServiceError(f"a string is longer than {limits.string_bytes} bytes")
            case dict():
                if limits.keys is not None and len(value) > limits.keys:
                    raise ServiceError(f"a map has more than {limits.keys} keys")
                for below in value.values():
                    self.check(below, depth=depth + 1)
            case list():
                for below in value:
                    self.check(below, depth=depth + 1)


def _collision(tree: _Tree, value: Mapping[str, Any]) -> KeyPath | None:
    """Return where `value` has a map and `tree` none, or the other way round."""
    for key, new in value.items():
        old = tree.get(key)
        if old is None:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            below = _collision(old, new)
            if below is not None:
                return (key, *below)
        elif isinstance(old, dict) or isinstance(new, dict):
            return (key,)
    return None


def _value(node: _Node) -> Any:
    return copy.deepcopy(node.value) if isinstance(node, _Leaf) else {key: _value(below) for key, below in node.items()}


def _node(value: Any, at_ms: int) -> _Node:
    if isinstance(value, dict):
        return {key: _node(below, at_ms) for key, below in value.items()}
    return _Leaf(value, at_ms)


def _nodes(value: Mapping[str, Any]) -> _Tree:
    return {key: _node(below, DEFAULT_MS) for key, below in value.items()}


def _leaves(node: _Node | None) -> Iterator[_Leaf]:
    if isinstance(node, _Leaf):
        yield node
    elif node is not None:
        for below in node.values():
            yield from _leaves(below)


def _flatten(node: _Node, at: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(node, _Leaf):
        yield at, node.value
    else:
        for key, below in node.items():
            yield from _flatten(below, (*at, key))


def _fill(tree: _Tree, defaults: Mapping[str, Any]) -> None:
    for key, value in defaults.items():
        old = tree.get(key)
        if old is None:
            tree[key] = _node(value, DEFAULT_MS)
        elif isinstance(old, dict) and isinstance(value, dict):
            _fill(old, value)
