"""Checks the trust anchor: the repository's root metadata that this device was given."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from agent.commands.doctor.check_result import CheckResult, fail, ok, warn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.commands.doctor.check_context import CheckContext

_MAX_ROOT_BYTES: Final = 512 * 1024
_EXPIRES: Final = "%Y-%m-%dT%H:%M:%SZ"


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check `updates.root`, where there are updates."""
    if context.config.updates is not None:
        yield check_root(context.config.updates.root)


def check_root(path: Path) -> CheckResult:
    """Return whether `path` is root metadata, and when its signature expires."""
    remedy = "bring the repository's 1.root.json here by hand or with the component (`kensa release init` made it)"
    try:
        with path.open("rb") as file:
            signed = json.loads(file.read(_MAX_ROOT_BYTES))["signed"]
        kind, version = signed["_type"], int(signed["version"])
        expires = datetime.strptime(signed["expires"], _EXPIRES).replace(tzinfo=UTC)
    except OSError as error:
        return fail("updates root", f"{path}: {error.strerror}", remedy)
    except (ValueError, KeyError, TypeError, RecursionError):
        return fail("updates root", f"{path} is no root metadata", remedy)
    if kind != "root":
        return fail("updates root", f"{path} is metadata of the role {str(kind)[:40]}, not root", remedy)
    seen = f"{path}: version {version}, expires {expires:%Y-%m-%d}"
    if expires < datetime.now(UTC):
        return warn(
            "updates root", f"{seen}, which is over", "it still leads to newer roots; give new devices a newer one"
        )
    return ok("updates root", seen)
