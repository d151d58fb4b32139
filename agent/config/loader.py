"""Loads the configuration file and reports errors with the key's path, the value and what is allowed."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Final, get_args

import yaml
from pydantic import BaseModel, ValidationError

from agent.config.config_schema import Config
from agent.config.config_section import REDACTED, redacted, redacted_key
from agent.errors import ConfigError

_QUOTED: Final = re.compile(r"'[^']{2,}'|\"[^\"]{2,}\"")  # except single characters, which YAML reports
MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_VALUES: Final = 100_000  # with every YAML alias followed: ten lines of aliases can stand for ten thousand million


class _InvalidKey(yaml.constructor.ConstructorError):
    """An invalid key."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe YAML loader that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _InvalidKey(None, None, f"key {redacted(key)} is not text", key_node.start_mark)
            if key in seen:
                raise _InvalidKey(None, None, f"key {redacted_key(key)!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union (or of Annotated), else the single type."""
    if getattr(annotation, "__origin__", None) is dict or isinstance(annotation, type):
        return (annotation,)
    return tuple(a for a in getattr(annotation, "__args__", ()) if a is not type(None))


def _tag(member: Any) -> str | None:
    """Return the discriminator `kind` by which pydantic names this member of a union in its paths."""
    kind = member.model_fields.get("kind") if isinstance(member, type) and issubclass(member, BaseModel) else None
    return None if kind is None else str(get_args(kind.annotation)[0])


def _follow(path: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Return `path` as the file has it (without the unions' tags) and the type that holds its last key."""
    keys: list[str] = []
    current: Any = Config
    holder: Any = None
    for part in path:
        options = [m for outer in _members(current) for m in (_members(outer) if outer is not current else (outer,))]
        if tagged := [m for m in options if len(options) > 1 and _tag(m) == part]:
            current = tagged[0]
            continue
        holder = options[0] if len(options) == 1 else None
        keys.append(str(part))
        if isinstance(holder, type) and issubclass(holder, BaseModel):
            field = holder.model_fields.get(str(part))
            current = None if field is None else field.annotation
        else:
            arguments = getattr(holder, "__args__", ())
            current = arguments[-1] if arguments else None
    return keys, holder


def _allowed_keys(holder: Any) -> list[str]:
    return sorted(holder.model_fields) if isinstance(holder, type) and issubclass(holder, BaseModel) else []


def _explain(error: Any) -> str:
    """Return one line for one of pydantic's errors."""
    keys, holder = _follow(error["loc"])
    path = ".".join(map(redacted_key, keys)) or "(whole file)"
    kind: str = error["type"]
    if kind == "extra_forbidden":
        key, allowed = keys[-1], _allowed_keys(holder)
        near = difflib.get_close_matches(key, allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"{path}: unknown key.{hint} Allowed here: {', '.join(allowed)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    given, context = redacted(error["input"], key=keys[-1] if keys else None), error.get("ctx", {})
    said = {
        "missing": ": is required",
        "value_error": f": {message}",
        "union_tag_invalid": f".kind: given {redacted(context.get('tag'))}, allowed: {context.get('expected_tags')}",
        "union_tag_not_found": ".kind: is required",
        "path_type": f": given {given}, expected a path",
        "string_pattern_mismatch": f": given {given}, must match {context.get('pattern')}",
    }
    return path + said.get(kind, f": given {given}; {message[0].lower()}{message[1:]}")


def _absolute(config: Config, base: Path) -> Config:
    """Resolve every relative path against the file's folder."""

    def walk(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: walk(getattr(value, name)) for name in type(value).model_fields})
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return value

    resolved: Config = walk(config)
    return resolved


def parse(tree: object, *, source: str, base: Path) -> Config:
    """Validate an already parsed tree; relative paths are resolved against `base`. Raises ConfigError."""
    if not isinstance(tree, dict):
        msg = (
            f"{source}: expected a mapping of keys at the top, got {type(tree).__name__}. See docs/config.example.yaml"
        )
        raise ConfigError(msg)
    try:
        return _absolute(Config.model_validate(tree), base)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
    raise ConfigError(f"{source} is refused:\n" + "\n".join(f"  {line}" for line in lines))


def load(path: Path) -> Config:
    """Read and validate a YAML file. Raises ConfigError naming the file, the key, what was given, what is allowed."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror}. Start from docs/config.example.yaml"
        raise ConfigError(msg) from error
    if len(data) > MAX_CONFIG_BYTES:
        msg = f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no configuration file"
        raise ConfigError(msg)
    try:
        tree = yaml.load(data, Loader=_UniqueKeyLoader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, RecursionError, UnicodeDecodeError) as error:
        msg = f"{path} is not valid YAML: {_yaml_problem(error)}"
        raise ConfigError(msg) from None  # its own text quotes the line, which may hold a password
    _check_size(tree, path)
    return parse(tree, source=str(path), base=path.resolve().parent)


def _yaml_problem(error: Exception) -> str:
    """Return what is wrong and where, without the text at that place."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return "it is nested too deep" if isinstance(error, RecursionError) else str(error)
    problem = error.problem or error.context or "it cannot be read"
    if not isinstance(error, _InvalidKey):
        problem = _QUOTED.sub(f"'{REDACTED}'", problem)
    mark = error.problem_mark or error.context_mark
    return problem if mark is None else f"{problem} (line {mark.line + 1}, column {mark.column + 1})"


def _check_size(tree: object, path: Path) -> None:
    """Refuse a tree that is far larger than its text. Raises ConfigError."""
    waiting, seen = [tree], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            msg = f"{path}: holds more than {MAX_VALUES:,} values; check its aliases (*name)"
            raise ConfigError(msg)
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
