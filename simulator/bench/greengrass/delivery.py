"""Rows `cuts` and `rate`: delivery through nucleus lite under failures, and at sixteen cameras."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.records import Outcome
from simulator.bench.greengrass.greengrass_testbed import GreengrassTestbed
from simulator.bench.greengrass.result_row import GreengrassBenchSettings, RequirementRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CUTS_S: Final = 600.0
_CUTS_AT: Final = (0.15, 0.35, 0.55)  # of the time
_RESTART_AT: Final = 0.75
_LONGEST_CUT_S: Final = 12.0  # as the one that was measured on the real nucleus
_RATE_S: Final = 60.0
_WARM_S: Final = 5.0  # connection, first verdicts, the backlog of the start
_LATENCY_S: Final = 0.02  # each way, as to a cloud: without it nothing is ever on the way when a cut comes
_SETTLED_S: Final = 90.0  # longest wait for the nucleus to reach its broker again, and for the backlog
_MOST_PER_S: Final = 40
_MOST_MS: Final = 250.0
_NS_PER_S: Final = 1_000_000_000


def measure_cuts(settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Cut the broker off three times, restart the nucleus, and count what arrived."""
    seconds = settings.seconds or _CUTS_S
    cut_s = min(_LONGEST_CUT_S, 0.05 * seconds)
    with GreengrassTestbed("lite") as site:
        site.write_inspector()
        site.network.latency_s = _LATENCY_S
        outcome = site.deploy()
        report(f"30 frames/s for {seconds:g} s, three cuts of {cut_s:g} s, one restart of the nucleus")
        _disturb(site, seconds, cut_s, report)
        is_back = site.listener.wait(site.is_drained, _SETTLED_S)
        site.remove_components()
        listener = site.listener
        listener.wait(lambda: listener.lost == 0, _SETTLED_S if is_back else 1.0)
        defects = sum(j.outcome is Outcome.DEFECT for s in listener.streams.values() for j in s.inspected.values())
        figures: dict[str, Any] = {
            "seconds": seconds,
            "deployed": outcome.status,
            "frames": listener.unique,
            "defects": defects,
            "starts": len(listener.streams),
            "lost": listener.lost,
            "dropped_by_the_device": listener.dropped,
            "duplicates": listener.double_counted,
            "delivered_again": listener.duplicates,
            "gaps": len(listener.gaps),
            "refused_messages": listener.refused,
            "connections_closed_by_the_nucleus": site.nucleus.connections_refused,
        }
    closed = figures["connections_closed_by_the_nucleus"]
    enough = listener.unique >= 0.8 * 30.0 * seconds  # less: something stood still, whatever was lost
    return [
        RequirementRow(
            "cuts",
            f"lite, 30 frames/s, 2 % defects, {seconds:g} s, three cuts of the broker, one restart of the nucleus: "
            f"lost, duplicated after de-duplication, connections closed over size; of {listener.unique:,} frames",
            "0, 0, 0",
            f"{listener.lost}, {listener.double_counted}, {closed} ({listener.duplicates} came again)",
            met=enough and listener.lost == listener.double_counted == closed == listener.refused == 0,
            figures=figures,
        )
    ]


def _disturb(site: GreengrassTestbed, seconds: float, cut_s: float, report: Callable[[str], None]) -> None:
    """Let `seconds` pass, with three cuts of the broker and one restart of the nucleus."""
    began = time.monotonic()
    for number, share in enumerate(_CUTS_AT, 1):
        _until(began + share * seconds)
        report(f"cut {number}")
        site.network.reset()  # what is on the way is lost
        site.network.cut()
        time.sleep(cut_s)
        site.network.restore()
    _until(began + _RESTART_AT * seconds)
    report("restart of the nucleus")
    site.nucleus.restart()
    _until(began + seconds)


def _until(moment: float) -> None:
    time.sleep(max(0.0, moment - time.monotonic()))


def measure_rate(settings: GreengrassBenchSettings, report: Callable[[str], None]) -> list[RequirementRow]:
    """Let sixteen cameras deliver, and look at the broker's side."""
    seconds = settings.seconds or _RATE_S
    with GreengrassTestbed("lite", cameras=16) as site:
        site.write_inspector()
        outcome = site.deploy()
        report(f"16 cameras of 30 frames/s for {seconds:g} s")
        time.sleep(_WARM_S)
        began_ns, published = time.time_ns(), site.nucleus.published
        time.sleep(seconds)
        ended_ns, published = time.time_ns(), site.nucleus.published - published
        arrivals = [a.utc_ns for a in site.listener.arrivals if began_ns <= a.utc_ns < ended_ns]
        is_drained = site.listener.wait(site.is_drained, _SETTLED_S)
        site.remove_components()
        site.listener.wait(lambda: site.listener.lost == 0, _SETTLED_S if is_drained else 1.0)
    more = {
        "seconds": seconds,
        "deployed": outcome.status,
        "publishes_per_s": published / seconds,
        "most_publishes_in_a_second": most_in_a_second(arrivals),
    }
    return _rate_rows(site, began_ns=began_ns, ended_ns=ended_ns, figures=more)


def _rate_rows(
    site: GreengrassTestbed, *, began_ns: int, ended_ns: int, figures: dict[str, Any]
) -> list[RequirementRow]:
    """Judge what was captured from `began_ns` to `ended_ns`, UTC; `figures` are those of the publishes."""
    seconds, most = figures["seconds"], figures["most_publishes_in_a_second"]
    streams = site.listener.streams.values()  # what came late, too
    window = [j for s in streams for j in s.inspected.values() if began_ns <= j.captured_utc_ns < ended_ns]
    defects = [(j.arrived_utc_ns - j.captured_utc_ns) / 1e6 for j in window if j.outcome is Outcome.DEFECT]
    decided = [
        (j.arrived_utc_ns - j.captured_utc_ns) / 1e6 - j.latency_us / 1e3 for j in window if j.outcome is Outcome.DEFECT
    ]
    others = [(j.arrived_utc_ns - j.captured_utc_ns) / 1e6 for j in window if j.outcome is Outcome.OK]
    fps = len(window) / seconds
    p50, p99 = (float(np.percentile(defects, q)) if defects else float("inf") for q in (50, 99))
    figures |= {
        "fps": fps,
        "defects": len(defects),
        "defect_p50_ms": p50,
        "defect_p99_ms": p99,
        "decision_to_broker_p99_ms": float(np.percentile(decided, 99)) if decided else None,
        "defect_max_ms": max(defects, default=float("inf")),
        "unknown": sum(j.outcome is Outcome.UNKNOWN for j in window),  # the machine was too slow for the cameras
        "ok_p99_ms": float(np.percentile(others, 99)) if others else None,
        "lost": site.listener.lost,
        "dropped_by_the_device": site.listener.dropped,
        "connections_closed_by_the_nucleus": site.nucleus.connections_refused,
    }
    what = f"lite, {fps:.0f} frames/s, 16 cameras, {len(defects)} defects in {seconds:g} s"
    return [
        RequirementRow(
            "rate",
            f"{what}: QoS 1 publishes a second, mean (most in any second)",
            f"<= {_MOST_PER_S}",
            f"{figures['publishes_per_s']:.1f} ({most})",
            met=most <= _MOST_PER_S and site.listener.lost == 0,
            figures=figures,
        ),
        RequirementRow(
            "latency",
            f"{what}: p99 from a defect's capture to the broker's subscriber (p50 {p50:.0f} ms)",
            f"<= {_MOST_MS:.0f} ms",
            f"{p99:.0f} ms",
            met=p99 <= _MOST_MS,
            figures={"defect_p99_ms": p99},
        ),
    ]


def most_in_a_second(utc_ns: Sequence[int]) -> int:
    """The most messages in any window of one second."""
    most = first = 0
    for last, moment in enumerate(utc_ns):
        while utc_ns[first] <= moment - _NS_PER_S:
            first += 1
        most = max(most, last + 1 - first)
    return most
