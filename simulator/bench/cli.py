"""`kensa bench ...`: tables for people, JSON for machines.

`simulator.bench.bench_options` has the names and options.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from agent.errors import MissingExtraError
from simulator.bench.bench_options import make_parser

if TYPE_CHECKING:
    import argparse

    from simulator.bench.inspection.model_swap import SwapResult
    from simulator.bench.inspection.throughput import LoopResult

_QUICK_SHARE = 0.1  # of the faults


def _report_progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _add_row(table: Table, name: str, target: str, figure: str, *, met: bool) -> None:
    table.add_row(name, target, figure, "[green]met[/]" if met else "[yellow]not met[/]")


def _loop_table(result: LoopResult) -> Table:
    figures = result.summary()
    fps = figures["fps"]
    table = Table(title=f"kensa bench loop · {result.model} · {result.cpu}, {result.cores} cores · {result.broker}")
    for column in ("what", "target", "median", ""):
        table.add_column(column)
    _add_row(
        table,
        f"agent, 1080p whole frame: {fps['loop']:.0f} frames/s of its floor",
        ">= 95 %",
        f"{figures['floor_ratio_full']:.1%}",
        met=figures["floor_ratio_full"] >= 0.95,  # noqa: PLR2004 - the target beside it
    )
    _add_row(
        table,
        f"agent, ROI: {fps['loop_roi']:.0f} frames/s of its floor",
        ">= 93 %",
        f"{figures['floor_ratio_roi']:.1%}",
        met=figures["floor_ratio_roi"] >= 0.93,  # noqa: PLR2004
    )
    _add_row(
        table,
        f"agent against the samples' loop ({fps['naive']:.0f} frames/s)",
        ">= 3.5 x",
        f"{figures['naive_ratio']:.2f} x",
        met=figures["naive_ratio"] >= 3.5,  # noqa: PLR2004
    )
    _add_row(
        table,
        f"preprocessing against direct INTER_AREA; RMSE {result.rmse_against_area:.2f} "
        f"grey levels on whole frames, {result.rmse_against_area_roi:.2f} on the ROI",
        ">= 7 x, <= 2",
        f"{figures['preprocess_ratio']:.1f} x",
        met=figures["preprocess_ratio"] >= 7 and result.rmse_against_area <= 2,  # noqa: PLR2004
    )
    for paced, limit in zip(result.paced, (5.0, 10.0), strict=True):
        commit = "none seen" if paced.commit_p99_ms is None else f"{paced.commit_p99_ms:.1f} ms"
        _add_row(
            table,
            f"{paced.cameras} camera(s), {paced.fps:.0f} fps: p99 due time to decision (p50 {paced.p50_ms:.1f} ms); "
            f"defects to commit {commit}; {paced.dropped} drops",
            f"<= {limit:.0f} ms, 0",
            f"{paced.p99_ms:.1f} ms",
            met=paced.p99_ms <= limit and paced.dropped == 0,
        )
    cores, rss, first = figures["cpu_cores_30fps"], result.rss_mb, result.first_verdict_s
    _add_row(table, "CPU at 30 fps", "<= 0.12 core", f"{cores:.3f} core", met=cores <= 0.12)  # noqa: PLR2004
    memory = f"memory of kensa run, one camera (peak {result.rss_peak_mb:.0f} MB)"
    _add_row(table, memory, "<= 110 MB", f"{rss:.0f} MB", met=rss <= 110)  # noqa: PLR2004
    _add_row(table, "process start to first verdict", "<= 1.5 s", f"{first:.2f} s", met=first <= 1.5)  # noqa: PLR2004
    return table


def _loop(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.inspection.throughput import LoopSettings, run_loop  # noqa: PLC0415 - each benchmark needs packages of its own

    settings = LoopSettings(
        release=arguments.release, rounds=arguments.rounds, calls=arguments.calls, paced_s=arguments.paced_seconds
    )
    result = run_loop(settings, say=_report_progress)
    Console(stderr=arguments.json).print(_loop_table(result))
    return result.summary()


def _swap_table(result: SwapResult) -> Table:
    table = Table(title=f"kensa bench swap · {result.cpu}, {result.cores} cores")
    for column in ("what", "target", "measured", ""):
        table.add_column(column)
    for rate in result.rates:
        text, limit = f"{rate.fps} frames/s", 1.5 if rate.fps > 120 else 1.2  # noqa: PLR2004 - the issue's own border
        name = (
            f"{text}: frames lost over {rate.swaps} swaps, a shadow, two trials and {2 * len(rate.reverts)} rollbacks"
        )
        _add_row(table, name, "0", f"{rate.lost} of {rate.frames:,}", met=not rate.lost)
        _add_row(
            table,
            f"{text}: p99 due time to decision within 1 s of a switch ({rate.near_ms[1]:.1f} ms) "
            f"against all others ({rate.other_ms[1]:.1f} ms)",
            f"<= {limit} x",
            f"{rate.ratio:.2f} x",
            met=rate.ratio <= limit,
        )
        figure = f"{rate.shadow_ms[1]:.1f}, {rate.trial_quarter_ms[1]:.1f}, {rate.trial_all_ms[1]:.1f} ms"
        table.add_row(f"{text}: p99 in a shadow, a trial of 25 %, of 100 %", "shown", figure, "")
        batches, workers = max((r.batches for r in (*rate.reverts, *rate.trial_ends)), default=0), rate.workers
        name = f"{text}: batches still judged by the old choice after a rollback: those in work ({workers} workers)"
        _add_row(table, name, f"<= {workers}", str(batches), met=batches <= workers)
    mb = result.second_model_mb
    _add_row(table, "memory of the second model", "<= 10 MB", f"{mb:.1f} MB", met=mb <= 10)  # noqa: PLR2004
    return table


def _swap(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.inspection.model_swap import SwapSettings, run_swap  # noqa: PLC0415 - as above

    settings = SwapSettings(release=arguments.release, swaps=arguments.swaps)
    if arguments.quick:
        settings = SwapSettings(release=arguments.release, swaps=2, cycle_s=1.2, window_s=0.5, phase_s=1.0, rollbacks=2)
    result = run_swap(settings, say=_report_progress)
    Console(stderr=arguments.json).print(_swap_table(result))
    return result.to_json()


def _collect(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.inspection.collection_overhead import CollectSettings, run_collect  # noqa: PLC0415 - as above

    settings = CollectSettings(release=arguments.release, rounds=arguments.rounds, format=arguments.format)
    if arguments.quick:
        settings = CollectSettings(release=arguments.release, rounds=1, calls=300, paced_s=1.5, format=arguments.format)
    figures = run_collect(settings, say=_report_progress).summary()
    table = Table(title=f"kensa bench collect · {figures['cpu']}, {figures['cores']} cores · {figures['format']}")
    for column in ("what", "target", "median", ""):
        table.add_column(column)
    for what, loss, plain, collecting in (
        ("480 frames/s offered", "loss_480fps", "fps_480", "fps_480_collecting"),
        ("saturated", "loss_saturated", "fps_saturated", "fps_saturated_collecting"),
    ):
        name = f"{what}: throughput lost to collecting ({figures[plain]:.0f} and {figures[collecting]:.0f} frames/s)"
        _add_row(table, name, "<= 2 %", f"{figures[loss]:.2%}", met=figures[loss] <= 0.02)  # noqa: PLR2004 - beside it
    table.add_row(
        f"480 frames/s offered: p99 due time to decision ({figures['kept']} kept, {figures['left_out']} left out)",
        "shown",
        f"{figures['p99_ms']:.1f}, {figures['p99_ms_collecting']:.1f} ms",
        "",
    )
    budget = figures["budget"]
    name = f"bytes beyond a budget of {budget['limit_bytes']:,} ({budget['frames']} kept, {budget['refused']} refused)"
    beyond = max(0, max(budget["booked_bytes"], budget["counted_bytes"]) - budget["limit_bytes"])
    _add_row(table, name, "0", f"{beyond:,}", met=not beyond)
    Console(stderr=arguments.json).print(table)
    return figures


def _outbox(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.messaging.outbox_throughput import run_outbox  # noqa: PLC0415 - as above

    _report_progress("ok verdicts with a few defects, SQLite with synchronous=FULL, a broker in memory")
    result = run_outbox(rounds=arguments.rounds)
    table = Table(title="kensa bench outbox")
    for column in ("what", "target", "median", ""):
        table.add_column(column)
    met = result.verdicts_per_s >= 5_000  # noqa: PLR2004 - the target beside it
    _add_row(
        table, "sustained verdicts/s, committed and delivered", ">= 5,000", f"{result.verdicts_per_s:,.0f}", met=met
    )
    Console(stderr=arguments.json).print(table)
    return result.to_json()


def _replay(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.messaging.backlog_replay import ROWS, TARGET, run_replay  # noqa: PLC0415 - as above

    rows = ROWS // 10 if arguments.quick else ROWS
    result = run_replay(rounds=arguments.rounds, rows=rows, say=_report_progress)
    table = Table(title=f"kensa bench replay · {rows:,} rows to mosquitto")
    for column in ("what", "target", "measured", ""):
        table.add_column(column)
    for bound in result.bounds:
        ours, plain = statistics.median(bound.agent_per_s), statistics.median(bound.paho_per_s)
        name = f"max_inflight_messages {bound.max_inflight}: {ours:,.0f} rows/s against {plain:,.0f} of a paho loop"
        _add_row(table, name, f">= {TARGET:.0%}", f"{bound.ratio:.0%}", met=bound.ratio >= TARGET)
        _add_row(table, "... lines at WARNING and above", "0", str(bound.warnings), met=not bound.warnings)
    Console(stderr=arguments.json).print(table)
    return result.to_json()


def _faults(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.fault_campaigns import NAMES, run_faults  # noqa: PLC0415 - as above

    log = logging.getLogger("agent")
    before = log.level
    log.setLevel(logging.CRITICAL)  # ordered faults are no news
    try:
        result = run_faults(
            only=arguments.only or NAMES,
            share=_QUICK_SHARE if arguments.quick else 1.0,
            seed=arguments.seed,
            say=_report_progress,
        )
    finally:
        log.setLevel(before)
    table = Table(title="kensa bench faults")
    for column in ("what", "target", "counted", ""):
        table.add_column(column)
    for campaign in result.campaigns:
        if campaign.outcome is None:
            table.add_row(campaign.what, campaign.target, f"not done: {campaign.unavailable_reason}", "")
        else:
            _add_row(table, campaign.what, campaign.target, campaign.outcome.text, met=campaign.outcome.met)
    Console(stderr=arguments.json).print(table)
    return result.to_json()


def _greengrass(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.greengrass import GreengrassBenchSettings, run_greengrass  # noqa: PLC0415 - as above: the SDK of Greengrass

    log = logging.getLogger()
    before = log.level
    log.setLevel(logging.CRITICAL)  # cut connections and refused configurations are what is ordered here
    settings = GreengrassBenchSettings(seconds=arguments.seconds, repeats=arguments.updates)
    try:
        rows = run_greengrass(only=arguments.only or (), settings=settings, say=_report_progress)
    finally:
        log.setLevel(before)
    table = Table(title="kensa bench greengrass · simulated nucleus, real SDK, processes and mosquitto")
    for column in ("what", "target", "measured", ""):
        table.add_column(column)
    for row in rows:
        _add_row(table, row.what, row.target, row.figure, met=row.met)
    Console(stderr=arguments.json).print(table)
    return {row.name: row.to_json() for row in rows}


def _analytics(arguments: argparse.Namespace) -> dict[str, Any]:
    from pipeline.analytics.duckdb_engine import EngineLimits  # noqa: PLC0415 - DuckDB, which the other benchmarks do not need
    from simulator.bench.query_cost import TARGET_S, AnalyticsSettings, run_analytics  # noqa: PLC0415

    rows = arguments.rows // 100 if arguments.quick else arguments.rows
    result = run_analytics(
        AnalyticsSettings(
            rows=rows,
            days=12 if arguments.quick else 90,
            rounds=arguments.rounds,
            limits=EngineLimits(threads=arguments.threads, memory_mb=arguments.memory_mb),
            data=arguments.data,
        ),
        say=_report_progress,
    )
    title = f"kensa bench analytics · {result.rows:,} verdicts, {result.threads} threads, {result.memory_limit_mb} MB"
    table = Table(title=title)
    for column in ("query", "target", "median", ""):
        table.add_column(column)
    for cost in result.queries:
        figure = f"{cost.seconds:.2f} s ({cost.cpu_s:.1f} s of CPU, {cost.peak_mb:,.0f} MB)"
        _add_row(table, cost.query, f"<= {TARGET_S:g} s", figure, met=cost.seconds <= TARGET_S)
    Console(stderr=arguments.json).print(table)
    return result.to_json()


def _mjpeg(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.inspection.mjpeg_readers import PICTURES, run_mjpeg  # noqa: PLC0415 - OpenCV, which the others need in children

    result = run_mjpeg(say=_report_progress)
    table = Table(title=f"kensa bench mjpeg · pictures delivered of {PICTURES}")
    for column in ("a server that sends", "as do", "OpenCV", "Kensa", "or says"):
        table.add_column(column)
    for row in result.rows:
        said = row.said.partition(": ")[2] if row.is_refused else ""
        table.add_row(row.name, row.seen, str(row.opencv), str(row.agent), said)
    Console(stderr=arguments.json).print(table)
    return result.to_json()


def _trials(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.refusal_rates import run_refusal_rates, to_json  # noqa: PLC0415 - as above

    rollouts = arguments.rollouts // 10 if arguments.quick else arguments.rollouts
    rows = run_refusal_rates(
        rollouts=rollouts, seed=arguments.seed, processes=arguments.processes, say=_report_progress
    )
    table = Table(title=f"kensa bench trials · {rollouts:,} rollouts a kind, {rows[0].counts.parts:,} parts each")
    for column in ("true disagreement", "target", "counted", ""):
        table.add_column(column)
    for row in rows:
        if row.met is None:
            table.add_row(row.counts.kind, row.target, row.figure, "")
        else:
            _add_row(table, row.counts.kind, row.target, row.figure, met=row.met)
    Console(stderr=arguments.json).print(table)
    return to_json(rows)


def _publish(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.messaging.publish_latency import TARGET_MS, run_publish  # noqa: PLC0415 - as above

    result = run_publish(release=arguments.release, seconds=6.0 if arguments.quick else 60.0, say=_report_progress)
    table = Table(title=f"kensa bench publish · {result.fps:g} frames/s, {result.broker} on the loopback")
    for column in ("from exposure to subscriber", "target", "p99", ""):
        table.add_column(column)
    for age in result.ages:
        name = f"{age.publish}: {age.outcome} ({age.verdicts:,} verdicts, p50 {age.p50_ms:.1f} ms)"
        if age.publish == "at_once":
            _add_row(table, name, f"<= {TARGET_MS:g} ms", f"{age.p99_ms:.1f} ms", met=age.p99_ms <= TARGET_MS)
        else:
            table.add_row(name, "", f"{age.p99_ms:.1f} ms", "")
    Console(stderr=arguments.json).print(table)
    return result.to_json()


def _cameras(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.inspection import live_cameras as bench  # noqa: PLC0415 - as above

    chosen = arguments.only or bench.SECTIONS
    table = Table(title="kensa bench cameras")
    for column in ("what", "target", "measured", ""):
        table.add_column(column)
    dead, fresh = None, []
    if "dead" in chosen:
        rounds, seconds = (2, 4.0) if arguments.quick else (arguments.stops, 10.0)
        dead = bench.run_dead_cameras(release=arguments.release, rounds=rounds, seconds=seconds, say=_report_progress)
        name = "8 dead RTSP addresses beside a good camera of every kind: the good ones' frames from 5 s on, least"
        _add_row(table, name, ">= 95 %", f"{dead.worst_share:.1%}", met=dead.worst_share >= 0.95)  # noqa: PLR2004
        name = f"... stops within drain_s + 1 s and with code 0 (longest {dead.longest_stop_s:.2f} s)"
        figure, met = f"{dead.clean_stops} of {rounds}", dead.clean_stops == rounds
        _add_row(table, name, f"{rounds} of {rounds}", figure, met=met)
    if "fresh" in chosen:
        fresh = bench.run_frame_age(seconds=5.0 if arguments.quick else arguments.seconds or 60.0, say=_report_progress)
    for result in fresh:
        name = f"{result.kind} at three times what the line judges: age at the verdict, p99 (p50, longest)"
        figure = f"{result.age_p99_ms:.0f} ms ({result.age_p50_ms:.0f}, {result.age_max_ms:.0f})"
        _add_row(table, name, f"<= {result.limit_ms:.0f} ms", figure, met=result.age_p99_ms <= result.limit_ms)
        name = f"... frames older than that, of {result.inspected} judged (after the first second)"
        table.add_row(name, "shown", f"{result.late} ({result.late_after_1_s})", "")
        dropped = sum(result.dropped.values())
        name = (
            f"... captured {result.captured} = judged {result.inspected} + dropped {dropped}; exposures without number"
        )
        _add_row(table, name, "0", str(result.unaccounted), met=result.is_exact)
    Console(stderr=arguments.json).print(table)
    return bench.to_json(dead, fresh)


def _demo(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.demo_runs import run_demo_bench  # noqa: PLC0415 - as above

    return run_demo_bench(arguments, say=_report_progress, row=_add_row)


def _forbidden(arguments: argparse.Namespace) -> dict[str, Any]:
    from simulator.bench.messaging.denied_topic import CAMERAS, TARGET_S, run_denied_topic  # noqa: PLC0415 - as above

    logging.getLogger("agent").setLevel(logging.CRITICAL)  # refusals are what is ordered here
    cameras = CAMERAS[:1] if arguments.quick else CAMERAS
    results = run_denied_topic(seconds=5.0 if arguments.quick else 20.0, cameras=cameras, say=_report_progress)
    table = Table(title="kensa bench forbidden · one topic of six")
    for column in ("age of verdicts on the five allowed topics", "target", "the slowest", ""):
        table.add_column(column)
    for result in results:
        name = f"MQTT {result.protocol}, {result.forbidden} forbidden: {result.lost} of {result.allowed} lost"
        met = result.longest_s <= TARGET_S and not result.lost
        _add_row(table, name, f"<= {TARGET_S:g} s, 0 lost", f"{result.longest_s:.2f} s", met=met)
    Console(stderr=arguments.json).print(table)
    return {"runs": [result.to_json() for result in results]}


_COMMANDS = {
    "forbidden": _forbidden,
    "publish": _publish,
    "cameras": _cameras,
    "demo": _demo,
    "loop": _loop,
    "swap": _swap,
    "outbox": _outbox,
    "replay": _replay,
    "collect": _collect,
    "faults": _faults,
    "trials": _trials,
    "greengrass": _greengrass,
    "analytics": _analytics,
    "mjpeg": _mjpeg,
}


def _section_names(what: str) -> tuple[str, ...]:
    """The names of `--only`."""
    if what == "faults":
        from simulator.bench.fault_campaigns import NAMES  # noqa: PLC0415 - as above

        return NAMES
    if what == "cameras":
        from simulator.bench.inspection.live_cameras import SECTIONS  # noqa: PLC0415 - as above

        return SECTIONS
    if what == "greengrass":
        from simulator.bench.greengrass import ROWS  # noqa: PLC0415 - as above

        return tuple(ROWS)
    return ()


def main(argv: list[str]) -> int:
    """Run one benchmark; 0 when it ran, whatever it measured."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    try:
        known = _section_names(arguments.what) if arguments.only else ()
        if unknown := [name for name in arguments.only or () if name not in known]:
            parser.error(f"--only {unknown[0]}: {arguments.what} has {', '.join(known) or 'no such parts'}")
        figures = _COMMANDS[arguments.what](arguments)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"kensa bench {arguments.what} cannot run here: the package {error.name!r} is missing. "
            f"Run scripts/bench {arguments.what}, which installs it"
        ) from error
    if arguments.json:
        print(json.dumps(figures))
    return 0
