"""`kensa bench cameras`: dead cameras beside good ones, and the age of frames on an overloaded line."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.bench.inspection.dead_cameras import DeadCameraResult, run_dead_cameras
from simulator.bench.inspection.frame_age import FrameAgeResult, run_frame_age

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

SECTIONS: Final = ("dead", "frame_age")
_LEAST_SHARE: Final = 0.95  # of the good cameras' frames


def to_json(dead: DeadCameraResult | None, frame_age: list[FrameAgeResult]) -> dict[str, Any]:
    """For machines."""
    figures: dict[str, Any] = {"frame_age": [asdict(result) for result in frame_age]}
    if dead is not None:
        figures["dead"] = {
            "rounds": [asdict(result) for result in dead.rounds],
            "worst_share": dead.worst_share,
            "longest_stop_s": dead.longest_stop_s,
            "stops_in_time": dead.clean_stops,
        }
    return figures


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench cameras`."""
    chosen = arguments.only or SECTIONS
    table = ResultTable("kensa bench cameras")
    dead, frame_age = None, []
    if "dead" in chosen:
        rounds, seconds = (2, 4.0) if arguments.quick else (arguments.stops, 10.0)
        dead = run_dead_cameras(release=arguments.release, rounds=rounds, seconds=seconds, report=report)
        name = "8 dead RTSP addresses beside a good camera of every kind: the good ones' frames from 5 s on, least"
        met = dead.worst_share >= _LEAST_SHARE
        table.add_result(name, f">= {100 * _LEAST_SHARE:.0f} %", f"{dead.worst_share:.1%}", met=met)
        name = f"... stops within drain_s + 1 s and with code 0 (longest {dead.longest_stop_s:.2f} s)"
        figure, met = f"{dead.clean_stops} of {rounds}", dead.clean_stops == rounds
        table.add_result(name, f"{rounds} of {rounds}", figure, met=met)
    if "frame_age" in chosen:
        frame_age = run_frame_age(seconds=5.0 if arguments.quick else arguments.seconds or 60.0, report=report)
    for result in frame_age:
        _add_frame_age(table, result)
    return BenchReport(table, to_json(dead, frame_age))


def _add_frame_age(table: ResultTable, result: FrameAgeResult) -> None:
    name = f"{result.kind} at three times what the line inspects: age at the verdict, p99 (p50, longest)"
    figure = f"{result.age_p99_ms:.0f} ms ({result.age_p50_ms:.0f}, {result.age_max_ms:.0f})"
    table.add_result(name, f"<= {result.limit_ms:.0f} ms", figure, met=result.age_p99_ms <= result.limit_ms)
    name = f"... frames older than that, of {result.inspected} inspected (after the first second)"
    table.add_shown(name, f"{result.late} ({result.late_after_1_s})")
    dropped = sum(result.dropped.values())
    name = f"... captured {result.captured} = inspected {result.inspected} + dropped {dropped}; unnumbered exposures"
    table.add_result(name, "0", str(result.unaccounted), met=result.is_exact)
