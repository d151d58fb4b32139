"""One run of the demo: from an empty folder to the report."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections import deque
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from rich.live import Live

from simulator.demos.common.verdict_metrics import VerdictMetrics
from simulator.demos.line.contact_sheet import write_sheet
from simulator.demos.line.line_environment import CONFIG_NAME, LineEnvironment, LineOptions
from simulator.demos.line.line_report import LineResult, headline, to_json, verify
from simulator.demos.line.line_view import LineSnapshot, plain_line, screen, screen_svg
from simulator.probes.missing_verdicts import describe_missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from rich.console import Console

    from agent.app import Agent
    from agent.health.snapshot import AgentSnapshot

LOG_NAME: Final = "agent.log"
SCREEN_NAME: Final = "screen.svg"
SHEET_NAME: Final = "contact-sheet.png"
REPORT_NAME: Final = "report.json"
_REFRESH_S: Final = 0.25
_PLAIN_S: Final = 5.0
# Drawing is pure Python and shares the interpreter's lock with the line, which needs it several times a frame. At the
# default of 5 ms the view raised the p99 latency from 3 to 18 ms; at 0.1 ms to 4 ms.
_SWITCH_S: Final = 1e-4
_RATE_S: Final = 3.0  # frames/s and processor use are those of so many seconds
_ARRIVAL_S: Final = 10.0  # after the drain, verdicts that the broker has must reach the subscriber within this
_OUTAGE_AT: Final = 0.4  # of the planned time


@dataclass(frozen=True, slots=True)
class _Sample:
    at_s: float
    inspected: int
    cpu_s: float


class _Rates:
    """Frames and processor seconds a second, over the last few seconds."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def update(self, at_s: float, snapshot: AgentSnapshot) -> tuple[float, float]:
        """Return (judged frames a second, processor cores)."""
        inspected = sum(camera.accounting.inspected for camera in snapshot.cameras)
        self._samples.append(_Sample(at_s, inspected, snapshot.process.cpu_s))
        while len(self._samples) > 2 and at_s - self._samples[0].at_s > _RATE_S:  # noqa: PLR2004 - a difference needs two
            self._samples.popleft()
        first, last = self._samples[0], self._samples[-1]
        span = last.at_s - first.at_s
        if span <= 0.0:
            return 0.0, 0.0
        return (last.inspected - first.inspected) / span, (last.cpu_s - first.cpu_s) / span


class _Display:
    """Follows the run: takes in what arrived, and shows it on a terminal or as lines."""

    def __init__(self, *, plant: LineEnvironment, console: Console) -> None:
        self.metrics = VerdictMetrics(plant.lines)
        self.last: LineSnapshot | None = None
        self._plant = plant
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
        self._rates = _Rates()
        self._next_plain_s = _PLAIN_S

    @contextmanager
    def on(self) -> Iterator[None]:
        """Use the whole terminal meanwhile."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            with self._live or nullcontext():
                yield
        finally:
            sys.setswitchinterval(before)

    def update(self, *, elapsed_s: float, note: str, style: str, kept: bool = True) -> None:
        """Take in and show the present; `kept`: as the last screen, so far."""
        self.receive()
        arrived = self.metrics.delivered
        snapshot = self._plant.agent.snapshot()
        frames_per_s, cores = self._rates.update(elapsed_s, snapshot)
        moment = LineSnapshot(
            elapsed_s=elapsed_s,
            seconds=self._plant.options.seconds,
            snapshot=snapshot,
            metrics=self.metrics,
            arrived=arrived,
            counts=self._plant.subscriber.counts,
            broker=self._plant.broker.kind,
            frames_per_s=frames_per_s,
            cores=cores,
            note=note,
            note_style=style,
            release_log=self._plant.release_log(),
        )
        if kept or self.last is None:
            self.last = moment
        if self._live is not None:
            self._live.update(screen(moment, width=self._console.width), refresh=True)
        elif elapsed_s >= self._next_plain_s:
            self._next_plain_s += _PLAIN_S
            self._console.print(plain_line(moment), highlight=False, soft_wrap=True)

    def receive(self) -> None:
        """Take in what arrived."""
        for verdict in self._plant.subscriber.received():
            self.metrics.add(verdict)


class _Outage:
    """Unplugs the network once, in the middle of the run."""

    def __init__(self, plant: LineEnvironment) -> None:
        self._proxy = plant.proxy
        self._from_s = plant.options.seconds * _OUTAGE_AT
        self._until_s = self._from_s + plant.options.outage_s
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


@contextmanager
def _stop_on_signals(agent: Agent) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the run in good order; a second Ctrl-C is as impatient as ever."""

    def ask(_number: int, _frame: FrameType | None) -> None:
        agent.request_stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the log to a file meanwhile: on the terminal it would tear the view."""
    root = logging.getLogger()
    before = root.handlers[:]
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = before
        handler.close()


def run(options: LineOptions, *, console: Console) -> LineResult:
    """Run the demo and write its files. Raises a KensaError for what the operator can mend."""
    with ExitStack() as stack:
        with console.status("Preparing the plant") as status:
            plant = LineEnvironment(options, progress=lambda what: status.update(f"Preparing the plant: {what}"))
            stack.enter_context(plant)
        stack.enter_context(log_to(options.out / LOG_NAME))
        show = _Display(plant=plant, console=console)
        result = _inspect(plant, show)
    return _write_files(result, plant, show.last)


def _inspect(plant: LineEnvironment, show: _Display) -> LineResult:
    agent, options = plant.agent, plant.options
    outage = _Outage(plant)
    agent.start()
    began = time.monotonic()
    cpu_before = agent.snapshot().process.cpu_s
    elapsed = 0.0
    try:
        with _stop_on_signals(agent), show.on():
            while elapsed < options.seconds and not agent.wait(_REFRESH_S):
                elapsed = time.monotonic() - began
                outage.update(elapsed)
                if plant.scenario is not None:
                    plant.scenario.update(elapsed, undecided=plant.has_candidate)
                note = "the network is unplugged" if outage.active else "inspecting"
                show.update(elapsed_s=elapsed, note=note, style="bold red" if outage.active else "bold green")
            elapsed = time.monotonic() - began
            outage.end()
            show.update(elapsed_s=elapsed, note="draining", style="bold yellow", kept=False)
            cpu_after = agent.snapshot().process.cpu_s
            agent.stop()
            snapshot = agent.snapshot()
            _wait_for_arrival(show, sum(camera.accounting.inspected for camera in snapshot.cameras))
    finally:
        agent.stop()
    plant.subscriber.close()  # its last word is the whole ledger
    show.receive()
    counts = plant.subscriber.counts
    problems = verify(snapshot, show.metrics, counts)
    if problems:
        problems += describe_missing(plant.state_dir, plant.subscriber.arrived, broker=plant.broker.kind)
    return LineResult(
        seconds=elapsed,
        broker=plant.broker.kind,
        outage_s=options.outage_s,
        snapshot=snapshot,
        metrics=show.metrics,
        counts=counts,
        cores=(cpu_after - cpu_before) / elapsed if elapsed else 0.0,
        problems=problems,
        release_log=plant.release_log(show.metrics),
    )


def _wait_for_arrival(show: _Display, inspected: int) -> None:
    deadline = time.monotonic() + _ARRIVAL_S
    show.receive()
    while show.metrics.delivered < inspected and time.monotonic() < deadline:
        time.sleep(0.02)
        show.receive()


def _write_files(result: LineResult, plant: LineEnvironment, last: LineSnapshot | None) -> LineResult:
    out = plant.options.out
    files = {"Report": out / REPORT_NAME, "Configuration": out / CONFIG_NAME, "Log": out / LOG_NAME}
    if last is not None:
        files = {"Last screen": out / SCREEN_NAME, **files}
        (out / SCREEN_NAME).write_text(screen_svg(last), encoding="utf-8")
    sheet = out / SHEET_NAME
    sheet.unlink(missing_ok=True)
    if write_sheet(
        sheet, list(result.metrics.notable), state_dir=plant.state_dir, lines=plant.lines, title=headline(result)
    ):
        files = {"Contact sheet": sheet, **files}
    result = replace(result, files=files)
    (out / REPORT_NAME).write_text(json.dumps(to_json(result), indent=2) + "\n", encoding="utf-8")
    return result
