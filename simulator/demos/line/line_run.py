"""One run of the demo: from an empty folder to the report."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simulator.demos.common.run_display import RunDisplay, fast_thread_switches, wait_for_arrival
from simulator.demos.common.run_files import REPORT_NAME, SCREEN_NAME, log_to, write_report
from simulator.demos.common.sliding_rates import SlidingRates
from simulator.demos.common.stop_signals import stop_on_signals
from simulator.demos.common.verdict_metrics import VerdictMetrics
from simulator.demos.line.contact_sheet import write_sheet
from simulator.demos.line.line_environment import CONFIG_NAME, LineEnvironment, LineOptions
from simulator.demos.line.line_report import LineResult, headline, to_json, verify
from simulator.demos.line.line_view import LineSnapshot, plain_line, screen, screen_svg
from simulator.probes.missing_verdicts import describe_missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

LOG_NAME: Final = "agent.log"
SHEET_NAME: Final = "contact-sheet.png"
_REFRESH_S: Final = 0.25
_LINE_EVERY_S: Final = 5.0  # where there is no terminal
_ARRIVAL_S: Final = 10.0  # after the drain, verdicts that the broker has must reach the subscriber within this
_OUTAGE_AT: Final = 0.4  # of the planned time


class _Display:
    """Follows the run: receives the verdicts, and shows the state of the run."""

    def __init__(self, *, environment: LineEnvironment, console: Console) -> None:
        self.metrics = VerdictMetrics(environment.lines)
        self.last: LineSnapshot | None = None
        self._environment = environment
        self._display = RunDisplay(console, line_every_s=_LINE_EVERY_S, first_line_s=_LINE_EVERY_S)
        self._rates = SlidingRates()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Use the whole terminal meanwhile."""
        with fast_thread_switches(), self._display.on():
            yield

    def update(self, *, elapsed_s: float, note: str, style: str, kept: bool = True) -> None:
        """Receive and show the present; `kept`: as the last screen, so far."""
        self.receive()
        arrived = self.metrics.delivered
        snapshot = self._environment.agent.snapshot()
        inspected = sum(camera.accounting.inspected for camera in snapshot.cameras)
        frames_per_s, cores = self._rates.update(elapsed_s, inspected, snapshot.process.cpu_s)
        shown = LineSnapshot(
            elapsed_s=elapsed_s,
            seconds=self._environment.options.seconds,
            snapshot=snapshot,
            metrics=self.metrics,
            arrived=arrived,
            counts=self._environment.subscriber.counts,
            broker=self._environment.broker.kind,
            frames_per_s=frames_per_s,
            cores=cores,
            note=note,
            note_style=style,
            release_log=self._environment.release_log(),
        )
        if kept or self.last is None:
            self.last = shown
        self._display.show(elapsed_s, screen=lambda width: screen(shown, width=width), line=lambda: plain_line(shown))

    def receive(self) -> None:
        """Receive what arrived."""
        for verdict in self._environment.subscriber.received():
            self.metrics.add(verdict)


class _Outage:
    """Unplugs the network once, in the middle of the run."""

    def __init__(self, environment: LineEnvironment) -> None:
        self._proxy = environment.proxy
        self._from_s = environment.options.seconds * _OUTAGE_AT
        self._until_s = self._from_s + environment.options.outage_s
        self.active = False

    def update(self, elapsed_s: float) -> None:
        """Cut or restore as the time has come."""
        wanted = self._from_s <= elapsed_s < self._until_s
        if self._proxy is not None and wanted != self.active:
            (self._proxy.cut if wanted else self._proxy.restore)()
            self.active = wanted

    def end(self) -> None:
        """Plug in again, whatever the time."""
        self.update(self._until_s)


def run(options: LineOptions, *, console: Console) -> LineResult:
    """Run the demo and write its files. Raises a KensaError for what the operator can mend."""
    with ExitStack() as stack:
        with console.status("Preparing the plant") as status:
            environment = stack.enter_context(
                LineEnvironment(options, progress=lambda step: status.update(f"Preparing the plant: {step}"))
            )
        stack.enter_context(log_to(options.out / LOG_NAME))
        display = _Display(environment=environment, console=console)
        result = _inspect(environment, display)
    return _write_files(result, environment, display.last)


def _inspect(environment: LineEnvironment, display: _Display) -> LineResult:
    agent, options = environment.agent, environment.options
    outage = _Outage(environment)
    agent.start()
    began = time.monotonic()
    cpu_before = agent.snapshot().process.cpu_s
    elapsed = 0.0
    try:
        with stop_on_signals() as stop_requested, display.on():
            while elapsed < options.seconds and not stop_requested.is_set() and not agent.wait(_REFRESH_S):
                elapsed = time.monotonic() - began
                outage.update(elapsed)
                if environment.scenario is not None:
                    environment.scenario.update(elapsed, undecided=environment.has_candidate)
                note = "the network is unplugged" if outage.active else "inspecting"
                display.update(elapsed_s=elapsed, note=note, style="bold red" if outage.active else "bold green")
            elapsed = time.monotonic() - began
            outage.end()
            display.update(elapsed_s=elapsed, note="draining", style="bold yellow", kept=False)
            cpu_after = agent.snapshot().process.cpu_s
            agent.stop()
            snapshot = agent.snapshot()
            inspected = sum(camera.accounting.inspected for camera in snapshot.cameras)
            wait_for_arrival(
                display.receive, lambda: display.metrics.delivered, inspected=inspected, timeout_s=_ARRIVAL_S
            )
    finally:
        agent.stop()
    environment.subscriber.close()  # reports the final counts
    display.receive()
    counts = environment.subscriber.counts
    problems = verify(snapshot, display.metrics, counts)
    if problems:
        problems += describe_missing(
            environment.state_dir, environment.subscriber.arrived, broker=environment.broker.kind
        )
    return LineResult(
        seconds=elapsed,
        broker=environment.broker.kind,
        outage_s=options.outage_s,
        snapshot=snapshot,
        metrics=display.metrics,
        counts=counts,
        cores=(cpu_after - cpu_before) / elapsed if elapsed else 0.0,
        problems=problems,
        release_log=environment.release_log(display.metrics),
    )


def _write_files(result: LineResult, environment: LineEnvironment, last: LineSnapshot | None) -> LineResult:
    out = environment.options.out
    files = {"Report": out / REPORT_NAME, "Configuration": out / CONFIG_NAME, "Log": out / LOG_NAME}
    if last is not None:
        files = {"Last screen": out / SCREEN_NAME, **files}
    sheet = out / SHEET_NAME
    sheet.unlink(missing_ok=True)
    notable, title = list(result.metrics.notable), headline(result)
    if write_sheet(sheet, notable, state_dir=environment.state_dir, lines=environment.lines, title=title):
        files = {"Contact sheet": sheet, **files}
    shown = None if last is None else screen_svg(last)
    result = replace(result, files=files)
    write_report(out, to_json(result), screen_svg=shown)
    return result
