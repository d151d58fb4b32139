"""Where new releases come from: the trust anchor, the repository as the fetch child sees it, and what the journals say.

Nothing is changed: the metadata are brought up to date in a copy of the trust folder, which goes afterwards. What keeps
releases from coming while the configuration is right (no network, nobody signs) is a warning: the line runs without.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.cameras.camera_url import redact_location
from agent.children.fetch_client import FetchClient
from agent.children.fetch_protocol import FetchLimits, FetchReason
from agent.commands import model_text
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.errors import FetchError, StateDirError
from agent.lifecycle.state.model_status import last_status
from agent.lifecycle.state.transitions import LifecycleState
from agent.timing.clock import NS_PER_S, SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.config import Config, UpdatesConfig

_MAX_ROOT_BYTES: Final = 512 * 1024
_EXPIRES: Final = "%Y-%m-%dT%H:%M:%SZ"
_ROOT_WARNING_S: Final = 60 * 86_400.0
_LIMITS: Final = FetchLimits(stall_s=5.0, attempts=2)
_TIMEOUT_S: Final = 30.0
_LOCAL_CAUSES: Final = frozenset(  # the configuration is wrong, or it is not the repository that it means
    {
        FetchReason.ROOT_UNUSABLE,
        FetchReason.REQUEST,
        FetchReason.TARGET_UNKNOWN,
        FetchReason.MISSING_PACKAGE,
        FetchReason.KEY_COMPROMISE,
    }
)


def run_checks(config: Config, *, running: bool) -> Iterator[CheckResult]:
    """Everything about `updates`; nothing where there are none. A `running` agent is asked for its models' state."""
    updates = config.updates
    if updates is None:
        return
    yield check_root(updates.root)
    trust_dir = config.state_dir / "trust"
    yield _trust_dir(trust_dir)
    yield _repository(updates, trust_dir)
    if not running:
        for name in config.inspections:
            yield _model(config.state_dir, name)


def check_root(path: Path) -> CheckResult:
    """The trust anchor: there, a root, and until when it is signed."""
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
            "updates root", f"{seen}, which is over", "it leads to newer roots still; new devices get a newer one"
        )
    return ok("updates root", seen)


def _trust_dir(trust_dir: Path) -> CheckResult:
    if not trust_dir.exists():
        return ok("updates trust", f"{trust_dir} does not exist yet; the first look at the repository makes it")
    locked = [trust_dir] if not os.access(trust_dir, os.R_OK | os.W_OK | os.X_OK) else []
    if locked := locked or [path for path in trust_dir.iterdir() if not os.access(path, os.R_OK | os.W_OK)]:
        return fail(
            "updates trust",
            f"{locked[0]} may not be written by this user",
            "ask as the user who runs Kensa; if it is that one, give the folder back to it",
        )
    return ok("updates trust", f"{trust_dir} is writable")


def _repository(updates: UpdatesConfig, trust_dir: Path) -> CheckResult:
    """Look as the agent does, in a copy of what it has accepted."""
    check, clock = "updates repository", SystemClock()
    with tempfile.TemporaryDirectory(prefix="kensa-doctor-") as scratch:
        copy = Path(scratch) / "trust"
        try:
            shutil.copytree(trust_dir, copy, symlinks=True, ignore=shutil.ignore_patterns(".lock"))
        except (OSError, shutil.Error):  # none yet, or a fetch is at work in it: judged from the root alone
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
            looked = fetcher.refresh(trusted_utc_s=0.0, stop=threading.Event())
        except FetchError as error:
            remedy = f"see {error.reason} in docs/operations.md, What a refusal means"
            return (fail if error.reason in _LOCAL_CAUSES else warn)(
                check, f"{redact_location(updates.repository)}: {error}", remedy
            )
    now_utc_s = clock.utc_ns() / NS_PER_S
    seen = (
        f"{redact_location(updates.repository)}: the metadata of {updates.site} verify, signed "
        f"{model_text.format_duration(now_utc_s - looked.signed_utc_s)} ago; {len(looked.revoked)} "
        f"releases were taken back"
    )
    until_utc_s = looked.root_expires_utc_s
    if until_utc_s is not None and until_utc_s - now_utc_s < _ROOT_WARNING_S:
        return warn(
            check,
            f"{seen}; the newest root expires {model_text.format_utc(until_utc_s)}",
            "`kensa release rotate-keys root`",
        )
    return ok(check, seen)


def _model(state_dir: Path, name: str) -> CheckResult:
    check = f"model {name}"
    try:
        status, _ = last_status(state_dir, name)
    except StateDirError as error:
        return fail(check, str(error), "ask as the user who runs Kensa")
    active = "none" if status.state == LifecycleState.NO_MODEL else "the factory release"
    if status.active is not None:
        active = status.active.release_id
    wish = "nothing" if status.desired is None else status.desired.release_id
    seen = f"as the last agent left it: {status.state}, active {active}, desired {wish}"
    if status.alarm is not None:
        return warn(check, f"{seen}. {status.alarm}", "`kensa model show` tells more; docs/operations.md, Watch it")
    return ok(check, seen)
