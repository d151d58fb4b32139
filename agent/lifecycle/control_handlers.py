"""Handlers of the control socket for models: `cmd` -> handler over the lifecycles of one agent.

Requests name an inspection, or omit it where there is only one. Answers are plain values and bounded; an invalid
request raises ControlError (or the lifecycle's own LifecycleError), which says what to write instead.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from agent.errors import ControlError
from agent.release_records import DesiredRelease
from agent.wire import is_release_id
from agent.wire.model_report import finite_figures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agent.lifecycle.lifecycle import Lifecycle
    from agent.release_records import FailedAttempt, ModelStatus, Refusal, ReleaseRef

    Request = Mapping[str, Any]
    Answer = Mapping[str, Any]
    Handler = Callable[[Request], Answer]

_MAX_DENY_LIST: Final = 50
_MAX_HISTORY: Final = 200
_MAX_TEXT: Final = 2_000
_MAX_WORD: Final = 200


def model_handlers(lifecycles: Mapping[str, Lifecycle]) -> dict[str, Handler]:
    """Return the handlers for `agent.control.ControlServer`; without lifecycles each of them raises ControlError."""
    models = _ModelHandlers(lifecycles)
    return {
        "model.show": models.show,
        "model.history": models.history,
        "model.desire": models.desire,
        "model.rollback": models.rollback,
        "model.retry": models.retry,
        "model.continue": models.proceed,
        "model.promote": models.promote,
        "model.stop_ab": models.stop_ab,
        "model.ab_report": models.ab_report,
    }


class _ModelHandlers:
    def __init__(self, lifecycles: Mapping[str, Lifecycle]) -> None:
        self._lifecycles = lifecycles

    def show(self, request: Request) -> Answer:
        """Return the state of every inspection, or of one."""
        names = sorted(self._lifecycles) if request.get("inspection") is None else [self._requested_lifecycle(request)]
        if not names:
            raise _no_updates()
        shown = {}
        for name in names:
            shown[name] = summary_values(self._lifecycles[name].status(), self._lifecycles[name].deny_list())
        return {"inspections": shown}

    def history(self, request: Request) -> Answer:
        """Return the last transitions, oldest first."""
        name = self._requested_lifecycle(request)
        return {"inspection": name, "history": self._lifecycles[name].history()[-_MAX_HISTORY:]}

    def desire(self, request: Request) -> Answer:
        """Request a release, or an A/B test with it."""
        name = self._requested_lifecycle(request)
        mode, share = request.get("mode", "release"), request.get("share", 0.5)
        if mode != "release" and mode != "ab":  # noqa: PLR1714 - mypy narrows this form only
            raise ControlError(f"mode is {str(mode)[:40]!r}, allowed are 'release' and 'ab'")
        if type(share) not in {int, float} or not 0.0 < share <= 1.0:
            raise ControlError(f"share is {str(share)[:40]}, expected a number above 0, at most 1, such as 0.5")
        desired = DesiredRelease(requested_release_id(request), mode, float(share), "control")
        self._lifecycles[name].desire(desired)
        return {"inspection": name, "desired": desired.release_id}

    def rollback(self, request: Request) -> Answer:
        """End the rollout, or return to the previous model."""
        name = self._requested_lifecycle(request)
        self._lifecycles[name].rollback(_text(request, "why") or "no reason given")
        return {"inspection": name}

    def retry(self, request: Request) -> Answer:
        """Take a release off the deny list; without `which` only end the wait for a person."""
        name = self._requested_lifecycle(request)
        which = _text(request, "which")
        self._lifecycles[name].retry(which)
        return {"inspection": name, "which": which}

    def proceed(self, request: Request) -> Answer:
        """Let a held release continue."""
        name = self._requested_lifecycle(request)
        self._lifecycles[name].continue_held()
        return {"inspection": name}

    def promote(self, request: Request) -> Answer:
        """Make the challenger of the A/B test the active release."""
        name = self._requested_lifecycle(request)
        self._lifecycles[name].promote()
        return {"inspection": name}

    def stop_ab(self, request: Request) -> Answer:
        """End the A/B test."""
        name = self._requested_lifecycle(request)
        self._lifecycles[name].stop_ab()
        return {"inspection": name}

    def ab_report(self, request: Request) -> Answer:
        """Return the paired comparison; null before the first one."""
        name = self._requested_lifecycle(request)
        report = self._lifecycles[name].ab_report()
        if report is None:
            return {"inspection": name, "report": None}
        values = asdict(report)
        values["e_value"] = finite_figures({"e_value": report.e_value}).get("e_value")
        return {"inspection": name, "report": values}

    def _requested_lifecycle(self, request: Request) -> str:
        """Return the inspection that is meant. Raises ControlError."""
        asked = request.get("inspection")
        known = ", ".join(sorted(self._lifecycles))
        if not self._lifecycles:
            raise _no_updates()
        if asked is None and len(self._lifecycles) == 1:
            return next(iter(self._lifecycles))
        if asked is None:
            raise ControlError(f"this agent has several inspections: name one with --inspection ({known})")
        if not isinstance(asked, str) or asked not in self._lifecycles:
            raise ControlError(f"there is no inspection {str(asked)[:64]!r} here; known: {known}")
        return asked


def _no_updates() -> ControlError:
    return ControlError(
        "this agent takes no updates: its configuration has no `updates`, so each inspection runs the release that the "
        "configuration names"
    )


def requested_release_id(request: Request) -> str:
    """Return the release in a request. Raises ControlError unless it is `name/version`."""
    asked = request.get("release")
    if not isinstance(asked, str) or not is_release_id(asked):
        raise ControlError(f"{str(asked)[:80]!r} names no release: write name/version, such as surface/1.2.0")
    return asked


def _text(request: Request, key: str) -> str | None:
    value = request.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > _MAX_WORD:
        raise ControlError(f"{key} must be a text of 1 to {_MAX_WORD} characters")
    return value.strip()


# --- plain values -----------------------------------------------------------------------------------------------------


def summary_values(status: ModelStatus, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what `kensa model show` prints of one inspection; `entries` is its deny list, oldest first."""
    return {**status_values(status), "deny_list": [_deny_list_values(entry) for entry in entries[-_MAX_DENY_LIST:]]}


def status_values(status: ModelStatus) -> dict[str, Any]:
    """Return the state as it is shown; only texts of unbounded length are truncated."""
    desired = status.desired
    return {
        "inspection": status.inspection,
        "state": str(status.state),
        "since_utc_s": status.since_utc_s,
        "active": _ref_values(status.active),
        "previous": _ref_values(status.previous),
        "candidate": _ref_values(status.candidate),
        "desired": None if desired is None else asdict(desired),
        "share": status.share,
        "progress": finite_figures(status.progress),
        "refusal": _refusal_values(status.refusal),
        "refused": _ref_values(status.refused),
        "alarm": None if status.alarm is None else status.alarm[:_MAX_TEXT],
        "counter_floor": status.counter_floor,
        "last_try": _attempt_values(status.last_try),
    }


def _ref_values(ref: ReleaseRef | None) -> dict[str, Any] | None:
    return None if ref is None else {"release": ref.release_id, **asdict(ref)}


def _refusal_values(refusal: Refusal | None) -> dict[str, Any] | None:
    if refusal is None:
        return None
    return {
        "gate": str(refusal.gate),
        "reason": refusal.reason,
        "text": refusal.text[:_MAX_TEXT],
        "figures": finite_figures(refusal.figures),
        "limits": finite_figures(refusal.limits),
    }


def _attempt_values(failed: FailedAttempt | None) -> dict[str, str] | None:
    return None if failed is None else {"reason": failed.reason, "text": failed.text[:_MAX_TEXT]}


def _deny_list_values(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return one entry of the deny list, with a short refusal."""
    refusal = entry["refusal"]
    utc_s = entry["utc_s"] if math.isfinite(entry["utc_s"]) else 0.0
    return {
        "release": entry["release_id"],
        "digest": entry["digest"],
        "utc_s": utc_s,
        "gate": str(refusal["gate"]),
        "reason": refusal["reason"],
    }
