"""Strict records in JSON: validates trees, parses texts and writes canonical bytes.

An unknown key, a wrong type or a number that is not finite is refused with a sentence that names the key.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import ConfigDict, ValidationError

from agent.errors import OperatorError
from agent.strict import Strict


class PlanError(OperatorError):
    """A plan, a search file or a choice cannot be read; the text names the key and what is allowed."""


class StrictJson(Strict):
    """A strict record whose numbers are finite, as JSON has them."""

    model_config = ConfigDict(allow_inf_nan=False)


T = TypeVar("T", bound=StrictJson)


def json_or_text(text: str) -> Any:
    """The JSON value of a hyperparameter, or the text itself: people may write either in a console."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def validate(kind: type[T], tree: object, source: str) -> T:
    """Validate a tree of JSON or YAML. Raises PlanError naming `source` and every wrong key."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(whole)'}: {e['msg']}" for e in error.errors()]
        raise PlanError(f"{source} cannot be used:\n" + "\n".join(lines)) from error


def parse_json(kind: type[T], data: bytes | str, source: str) -> T:
    """Parse and validate JSON. Raises PlanError."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PlanError(f"{source} is not JSON: {error}.") from error
    return validate(kind, tree, source)


def to_json(value: StrictJson) -> bytes:
    """Canonical bytes for files: sorted keys, two spaces, newline at the end."""
    return (json.dumps(value.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
