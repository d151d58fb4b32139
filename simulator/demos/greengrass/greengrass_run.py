"""One run of the demo on Greengrass: from an empty folder to the report."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from agent.errors import OperatorError
from greengrass.packaging.build import INSPECTOR
from simulator.demos.common.run_display import RunDisplay, progress_reporter, wait_for_arrival
from simulator.demos.common.run_files import REPORT_NAME, SCREEN_NAME, log_to, write_report
from simulator.demos.common.sliding_rates import SlidingRates
from simulator.demos.common.stop_signals import stop_on_signals
from simulator.demos.common.verdict_metrics import VerdictMetrics
from simulator.demos.greengrass.greengrass_environment import (
    CAMERA,
    CONFIG_NAME,
    NUCLEUS_NAME,
    GreengrassEnvironment,
    GreengrassOptions,
)
from simulator.demos.greengrass.greengrass_report import GreengrassResult, to_json, verify
from simulator.demos.greengrass.greengrass_snapshot import GreengrassSnapshot
from simulator.demos.greengrass.greengrass_view import outcome_line, plain_line, screen, screen_svg
from simulator.probes.missing_verdicts import describe_missing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rich.console import Console

LOG_NAME: Final = "demo.log"
_REFRESH_S: Final = 0.25
_LINE_EVERY_S: Final = 5.0  # where there is no terminal
_SETTLE_S: Final = 20.0  # after the last part: until it is inspected, and until its verdict is with the subscriber
_LOG_LINES: Final = 12  # of a component that does not start


class _Display:
    """Follows the run: takes in what arrived, and shows it on a terminal or as lines."""

    def __init__(self, *, site: GreengrassEnvironment, console: Console) -> None:
        self._site = site
        self._display = RunDisplay(console, line_every_s=_LINE_EVERY_S, first_line_s=_LINE_EVERY_S)
        self._rates = SlidingRates()
        self._metrics = VerdictMetrics({CAMERA: site.camera.line})
        self._began_s = time.monotonic()
        self._first_pid = site.nucleus.component(INSPECTOR.name).pid

    def on(self) -> AbstractContextManager[None]:
        """Use the whole terminal meanwhile."""
        return self._display.on()

    @property
    def elapsed_s(self) -> float:
        """Since the component inspected its first part."""
        return time.monotonic() - self._began_s

    @property
    def delivered(self) -> int:
        """Verdicts that arrived, each once."""
        return self._metrics.delivered

    def receive(self) -> None:
        """Take in what arrived."""
        for verdict in self._site.subscriber.received():
            self._metrics.add(verdict)

    def update(self, *, note: str, style: str) -> GreengrassSnapshot:
        """Take in and show the present."""
        self.receive()
        site, elapsed_s = self._site, self.elapsed_s
        status = site.component_status()
        site.updates.advance(elapsed_s, status)
        inspected, published = 0 if status is None else status.camera.inspected, site.nucleus.published
        frames_per_s, publishes_per_s = self._rates.update(elapsed_s, inspected, published)
        shown = GreengrassSnapshot(
            elapsed_s=elapsed_s,
            seconds=site.options.seconds,
            mode=site.options.mode,
            note=note,
            note_style=style,
            broker=site.broker.kind,
            online=site.nucleus.online,
            component=site.nucleus.component(INSPECTOR.name),
            first_pid=self._first_pid,
            status=status,
            sent=site.camera.sent,
            published=published,
            frames_per_s=frames_per_s,
            publishes_per_s=publishes_per_s,
            metrics=self._metrics,
            counts=site.subscriber.counts,
            updates=tuple(site.updates.started),
            waiting=site.updates.waiting,
            events=site.nucleus.events(),
            began_s=self._began_s,
        )
        self._display.show(
            elapsed_s,
            screen=lambda width: screen(shown, width=width),
            line=lambda: plain_line(shown),
            events=[outcome_line(update) for update in shown.updates if update.ended_s is not None],
        )
        return shown


def run(options: GreengrassOptions, *, console: Console) -> GreengrassResult:
    """Run the demo and write its files. Raises a KensaError for what the operator can mend."""
    with ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left running
        stack.callback(signal.signal, signal.SIGTERM, before)
        with console.status("Preparing the site") as status:
            progress = progress_reporter(console, status, "Preparing the site")
            site = stack.enter_context(GreengrassEnvironment(options, progress=progress))
            stack.enter_context(log_to(options.out / LOG_NAME))
            progress(f"deploying {INSPECTOR.name}: the nucleus installs it into a virtual environment and starts it")
            install_s = _deploy(site)
        result, last = _inspect(site, _Display(site=site, console=console), install_s)
        logs = _keep_logs(site)
    return _write_files(result, last, options.out, logs)


def _deploy(site: GreengrassEnvironment) -> float:
    """Deploy and return what it took, seconds. Raises OperatorError where the component does not come up."""
    began = time.monotonic()
    outcome = site.deploy()
    if not outcome.succeeded:
        lines = site.nucleus.log(INSPECTOR.name).strip().splitlines()[-_LOG_LINES:]
        raise OperatorError(
            "\n  ".join([f"the deployment ended {outcome.status}: {outcome.reason}. The component's log ends:", *lines])
        )
    return time.monotonic() - began


def _inspect(
    site: GreengrassEnvironment, display: _Display, install_s: float
) -> tuple[GreengrassResult, GreengrassSnapshot]:
    options = site.options
    with stop_on_signals() as stop_requested, display.on():
        snapshot = display.update(note="inspecting", style="bold green")
        while not stop_requested.is_set() and (snapshot.elapsed_s < options.seconds or not site.updates.is_finished):
            stop_requested.wait(_REFRESH_S)
            late = snapshot.elapsed_s >= options.seconds
            snapshot = display.update(
                note="inspecting until the last update" if late else "inspecting", style="bold green"
            )
        site.updates.cancel()
        while not site.updates.is_finished:
            time.sleep(_REFRESH_S)
            snapshot = display.update(note="ending the update under way", style="bold yellow")
        seconds = display.elapsed_s
        site.camera.pause()
        snapshot = last = _wait_until_inspected(site, display)
        refused = site.nucleus.connections_refused
        site.remove_component()
        inspected = 0 if last.status is None else last.status.camera.inspected
        wait_for_arrival(display.receive, lambda: display.delivered, inspected=inspected, timeout_s=_SETTLE_S)
    site.subscriber.close()  # reports the final counts
    display.receive()
    result = GreengrassResult(
        seconds=seconds,
        install_s=install_s,
        snapshot=snapshot,
        counts=site.subscriber.counts,
        connections=site.camera.connections,
        refused_by_nucleus=refused,
        interrupted=stop_requested.is_set(),
    )
    problems = verify(result)
    if problems:
        problems += describe_missing(site.state_dir, site.subscriber.arrived, broker=site.broker.kind)
    return replace(result, problems=problems), last


def _wait_until_inspected(site: GreengrassEnvironment, display: _Display) -> GreengrassSnapshot:
    """Return the state in which every part is inspected; the component still runs."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        snapshot = display.update(note="draining", style="bold yellow")
        camera = None if snapshot.status is None else snapshot.status.camera
        all_inspected = camera is not None and camera.captured == site.camera.sent and not camera.pending
        if all_inspected or time.monotonic() > deadline:
            return snapshot
        time.sleep(_REFRESH_S / 2)


def _keep_logs(site: GreengrassEnvironment) -> dict[str, Path]:
    folder = site.options.out / NUCLEUS_NAME / "logs"
    return {f"Log of {path.stem.rpartition('.')[2]}": path for path in sorted(folder.glob("*.log"))}


def _write_files(
    result: GreengrassResult, last: GreengrassSnapshot, out: Path, logs: dict[str, Path]
) -> GreengrassResult:
    files = {
        "Last screen": out / SCREEN_NAME,
        "Report": out / REPORT_NAME,
        "Deployed": out / CONFIG_NAME,
        "Recipes": out / "components" / "recipes",
        **logs,
    }
    result = replace(result, files=files)
    write_report(out, to_json(result), screen_svg=screen_svg(last))
    return result
