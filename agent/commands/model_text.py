"""Formats the answers of `kensa model` and `kensa status` as text for operators."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from agent.lifecycle.remedies import SELF_EXPLANATORY, remedy
from agent.lifecycle.state.transitions import EVENT_MEANING, STATE_MEANING, LifecycleEvent, LifecycleState

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Values = Mapping[str, Any]
    Rows = list[tuple[str, ...]]

_MINUTE_S: Final = 60.0
_HOUR_S: Final = 3_600.0
_DAY_S: Final = 86_400.0
_DIGEST: Final = 12
_LABEL: Final = 11
_TEXT: Final = 96
_FIGURES_A_LINE: Final = 4


def format_status(values: Values, *, now_utc_s: float) -> list[str]:
    """Format everything about one inspection's model."""
    state = values["state"]
    since_s = values["since_utc_s"]
    since = (
        f" since {format_utc(since_s)} ({format_duration(now_utc_s - since_s)})" if since_s else " since it was set up"
    )
    lines = [
        f"{values['inspection']}: {state.upper()}{since}",
        _row("", f"{_state_meaning(state)}."),
    ]
    active = values["active"]
    fallback = "none can be loaded" if state == LifecycleState.NO_MODEL else "the factory release"
    lines.append(_row("active", format_release(active) if active else fallback))
    if values["previous"]:
        lines.append(_row("before", f"{format_release(values['previous'])}; {_rollback_target(values)}"))
    if values["candidate"]:
        lines.append(_row("candidate", format_release(values["candidate"])))
    if values["share"]:
        lines.append(_row("", f"inspects {values['share']:.0%} of the parts beside the active one"))
    if values["desired"]:
        lines.append(_row("desired", _desired(values)))
    if values["progress"]:
        lines += _figures("progress", values["progress"])
    if failed := values.get("last_try"):  # an older agent does not report it
        lines += _wrapped("last try", f"{failed['reason']}: {failed['text']}")
        if what_to_do := remedy("", failed["reason"]):
            lines += _wrapped("", f"what to do: {what_to_do}")
    lines += format_refusal(values)
    if values["deny_list"]:
        named = ", ".join(f"{bad['release']} ({_blocked_releases(bad)})" for bad in values["deny_list"][-5:])
        lines += _wrapped("not again", f"{named}; `kensa model retry` removes one from this list")
    if values["alarm"]:
        lines += _wrapped("ALARM", values["alarm"])
    return lines


def format_refusal(values: Values) -> list[str]:
    """Format the last refusal with its figures and limits side by side, and the remedy."""
    refused = values["refusal"]
    if not refused:
        return []
    what = _named(values, "refused") if values["refused"] else "the desired release"
    lines = [
        _row("refused", f"{what}, by the gate {refused['gate']} ({refused['reason']})"),
        *_wrapped("", refused["text"]),
    ]
    names = [*refused["figures"], *(name for name in refused["limits"] if name not in refused["figures"])]
    rows = [
        (name, format_number(refused["figures"].get(name)), format_number(refused["limits"].get(name)))
        for name in sorted(names, key=lambda name: name not in refused["limits"])
    ]
    if rows:
        lines += [_row("", line) for line in format_table([("figure", "measured", "limit"), *rows])]
    if refused["reason"] not in SELF_EXPLANATORY and (what_to_do := remedy(refused["gate"], refused["reason"])):
        lines += _wrapped("what to do", what_to_do)
    return lines


def format_history(entries: Iterable[Values]) -> list[str]:
    """Format one line for each transition, oldest first."""
    rows: Rows = [("when (UTC)", "release", "from", "to", "why")]
    for entry in entries:
        reason = entry["note"] or _event_text(entry["event"])
        rows.append(
            (format_utc(entry["utc_s"]), entry["release_id"] or "-", str(entry["state"]), str(entry["after"]), reason)
        )
    return format_table(rows) if len(rows) > 1 else ["nothing has happened yet: the factory release is active"]


def format_comparison(report: Values) -> list[str]:
    """Format the paired comparison of an A/B test."""
    differ = report["let_through"] + report["rejected"]
    interval = f"95 % interval {report['disagreement_low']:.2%} to {report['disagreement_high']:.2%}"
    pairs = f"{report['pairs']} parts inspected by both"
    lines = [
        f"{pairs}; they disagree on {differ} ({report['disagreement']:.2%}, {interval})",
        "",
        *format_table(
            [
                ("", "challenger: ok", "challenger: not ok"),
                ("champion: ok", str(report["both_ok"]), str(report["rejected"])),
                ("champion: not ok", str(report["let_through"]), str(report["both_not_ok"])),
            ]
        ),
        "",
        "evidence that the disagreements lean to one side:",
        f"  e-value    {format_number(report['e_value'])}  (valid at any time; 20 is some, 1000 is strong)",
        f"  McNemar p  {report['mcnemar_p']:.4g}  (valid once, at the end)",
        "",
    ]
    rows: Rows = [("", "ok", "defect", "unsure", "unknown", "p50 ms", "p99 ms")]
    for arm in ("champion", "challenger"):
        seen = report[arm]
        counts = [str(seen[outcome]) for outcome in ("ok", "defect", "unsure", "unknown")]
        rows.append((arm, *counts, format_milliseconds(seen["p50_us"]), format_milliseconds(seen["p99_us"])))
    lines += format_table(rows)
    if report["disagreements"]:
        lines += ["", "the last disagreements:"]
        lines += format_table(
            [
                ("part", "champion", "challenger", "frame"),
                *(
                    (d["key"], d["champion"], d["challenger"], d["image"] or "not kept")
                    for d in report["disagreements"]
                ),
            ]
        )
    return lines


def format_summary(values: Values) -> str:
    """Format one line for `kensa status`, and one more each for an alarm and for a refusal."""
    active = _named(values, "active") if values["active"] else "factory release"
    text = f"model {values['inspection']}: {values['state']}, {active}"
    if values["candidate"]:
        text += f", candidate {_named(values, 'candidate')}"
        text += f" at {values['share']:.0%}" if values["share"] else ""
    if values["refusal"]:
        what = _named(values, "refused") if values["refused"] else "the desired release"
        text += f", refused {what} ({values['refusal']['gate']}: {values['refusal']['reason']})"
    text += f"\n  ALARM {values['alarm']}" if values["alarm"] else ""
    return text + (f"\n  refused: {values['refusal']['text']}" if values["refusal"] else "")


def _blocked_releases(bad: Values) -> str:
    return f"{bad['gate']}, manifest {bad['digest'][:_DIGEST]}" if bad["digest"] else str(bad["gate"])


def _named(values: Values, role: str) -> str:
    """Return `name/version` of a release; with its digest where another one here has the same but other bytes."""
    ref = values[role]
    others = [values[other] for other in ("active", "previous", "candidate", "refused") if values[other]]
    alike = any(other["release"] == ref["release"] and other["digest"] != ref["digest"] for other in others)
    return f"{ref['release']} (manifest {ref['digest'][:_DIGEST]})" if alike else str(ref["release"])


# --- values -------------------------------------------------------------------------------------------------------


def format_release(ref: Values) -> str:
    """Format a release with its counter and digest."""
    return f"{ref['release']}  counter {ref['counter']}, manifest {ref['digest'][:_DIGEST]}"


def format_utc(utc_s: float) -> str:
    """Format a time, to the second, UTC."""
    try:
        return datetime.fromtimestamp(utc_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "unknown"


def format_duration(seconds: float) -> str:
    """Format a duration in its natural unit."""
    if seconds < _MINUTE_S:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    return f"{seconds / _HOUR_S:.1f} h" if seconds < _DAY_S else f"{seconds / _DAY_S:.1f} days"


def format_number(value: float | None) -> str:
    """Format a figure in few digits; `-` for none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:.4g}"  # noqa: PLR2004


def format_milliseconds(microseconds: int | None) -> str:
    """Format a latency; `-` without parts."""
    return "-" if microseconds is None else f"{microseconds / 1_000:.2f}"


def format_table(rows: Rows) -> list[str]:
    """Align columns below the first row, their heads: numbers to the right, text to the left."""
    columns = []
    for column in zip(*rows, strict=True):
        width = max(map(len, column))
        numbers = all(cell == "-" or cell.lstrip("-")[:1].isdigit() for cell in column[1:])
        columns.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in column])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _row(label: str, text: str) -> str:
    return f"  {label:<{_LABEL}} {text}".rstrip()


def _wrapped(label: str, text: str) -> list[str]:
    pieces = textwrap.wrap(text, _TEXT) or [""]
    return [_row("" if index else label, piece) for index, piece in enumerate(pieces)]


def _figures(label: str, figures: Values) -> list[str]:
    shown = [f"{name} {format_number(value)}" for name, value in figures.items()]
    starts = range(0, len(shown), _FIGURES_A_LINE)
    return [_row("" if start else label, ", ".join(shown[start : start + _FIGURES_A_LINE])) for start in starts]


def _desired(values: Values) -> str:
    desired, active = values["desired"], values["active"]
    mode = f", in an A/B test with {desired['share']:.0%} of the parts" if desired["mode"] == "ab" else ""
    reached = active is not None and active["release"] == desired["release_id"] and desired["mode"] == "release"
    return f"{desired['release_id']}{mode}, requested by {desired['source']}{' (reached)' if reached else ''}"


def _rollback_target(values: Values) -> str:
    """Describe where a rollback leads: never to a release on the deny list."""
    if all(bad["digest"] != values["previous"]["digest"] for bad in values["deny_list"]):
        return "`kensa model rollback` goes back to it"
    return "refused, so a rollback leads to the factory release" if values["active"] else "refused"


def _state_meaning(state: str) -> str:
    try:
        return STATE_MEANING[LifecycleState(state)]
    except ValueError:
        return "This command is older than the agent and does not know this state"


def _event_text(event: str) -> str:
    try:
        return EVENT_MEANING[LifecycleEvent(event)]
    except ValueError:
        return event
