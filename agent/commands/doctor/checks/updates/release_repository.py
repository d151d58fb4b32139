"""Checks the repository as the fetch child reads it: address, site, signatures, expiry.

Nothing is changed: the metadata are refreshed in a copy of the trust folder, which is deleted afterwards. A condition
that delays releases while the configuration is right (no network, nobody signs) is a warning: the line runs without.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cameras.camera_url import redact_location
from agent.children.fetch_client import FetchClient
from agent.children.fetch_protocol import FetchLimits, FetchReason
from agent.commands import model_text
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.errors import FetchError
from agent.timing.clock import NS_PER_S, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.commands.doctor.check_context import CheckContext
    from agent.config import UpdatesConfig

_ROOT_WARNING_S: Final = 60 * 86_400.0
_LIMITS: Final = FetchLimits(stall_s=5.0, attempts=2)
_TIMEOUT_S: Final = 30.0
_LOCAL_CAUSES: Final = frozenset(  # the configuration is wrong, or this is another repository than it means
    {
        FetchReason.ROOT_UNUSABLE,
        FetchReason.REQUEST,
        FetchReason.TARGET_UNKNOWN,
        FetchReason.MISSING_PACKAGE,
        FetchReason.KEY_COMPROMISE,
    }
)


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check the repository, where there are updates."""
    if context.config.updates is not None:
        yield _check(context.config.updates, context.config.state_dir / "trust")


def _check(updates: UpdatesConfig, trust_dir: Path) -> CheckResult:
    """Refresh the metadata as the agent does, in a copy of what it has accepted."""
    check, clock = "updates repository", SystemClock()
    with tempfile.TemporaryDirectory(prefix="kensa-doctor-") as scratch:
        copy = Path(scratch) / "trust"
        try:
            shutil.copytree(trust_dir, copy, symlinks=True, ignore=shutil.ignore_patterns(".lock"))
        except (OSError, shutil.Error):  # none yet, or a fetch is writing it: start from the root alone
            shutil.rmtree(copy, ignore_errors=True)
        fetcher = FetchClient(
            repository=updates.repository,
            root=updates.root,
            site=updates.site,
            trust_dir=copy,
            max_release_bytes=updates.max_release_bytes,
            timeout_s=_TIMEOUT_S,
            clock=clock,
            limits=_LIMITS,
        )
        try:
            status = fetcher.refresh(trusted_utc_s=0.0, stop=threading.Event())
        except FetchError as error:
            remedy = f"see {error.reason} in docs/operations.md, What a refusal means"
            return (fail if error.reason in _LOCAL_CAUSES else warn)(
                check, f"{redact_location(updates.repository)}: {error}", remedy
            )
    now_utc_s = clock.utc_ns() / NS_PER_S
    seen = (
        f"{redact_location(updates.repository)}: the metadata of {updates.site} verify, signed "
        f"{model_text.format_duration(now_utc_s - status.signed_utc_s)} ago; {len(status.revoked)} "
        f"releases are revoked"
    )
    until_utc_s = status.root_expires_utc_s
    if until_utc_s is not None and until_utc_s - now_utc_s < _ROOT_WARNING_S:
        return warn(
            check,
            f"{seen}; the newest root expires {model_text.format_utc(until_utc_s)}",
            "`kensa release rotate-keys root`",
        )
    return ok(check, seen)
