"""Checks that an optional extra is installed before a command uses it."""

from __future__ import annotations

import importlib.util

from agent.errors import MissingExtraError


def require_extra(extra: str, *modules: str) -> None:
    """Raise MissingExtraError, naming the remedy, when one of `modules` is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"{', '.join(missing)} is not installed. Install the extra `{extra}`: in the checkout, "
            f"pip install -e '.[{extra}]'."
        )
