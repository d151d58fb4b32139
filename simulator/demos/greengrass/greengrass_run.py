"""One run of the demo on Greengrass: from an empty folder to the report."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.live import Live

from agent.errors import OperatorError
from greengrass.packaging.build import INSPECTOR
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
from simulator.demos.greengrass.greengrass_snapshot import FrameRates, GreengrassSnapshot
from simulator.demos.greengrass.greengrass_view import outcome_line, plain_line, screen, screen_svg
from simulator.demos.line.line_run import log_to
from simulator.probes.missing_verdicts import describe_missing

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

LOG_NAME: Final = "demo.log"
SCREEN_NAME: Final = "screen.svg"
REPORT_NAME: Final = "report.json"
_REFRESH_S: Final = 0.25
_PLAIN_S: Final = 5.0
_SETTLE_S: Final = 20.0  # after the last part: until it is judged, and until its verdict is with the subscriber
_LOG_LINES: Final = 12  # of a component that does not start


class _Display:
    """Follows the run: takes in what arrived, and shows it on a terminal or as lines."""

    def __init__(self, *, site: GreengrassEnvironment, console: Console) -> None:
        self._site = site
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
        self._rates = FrameRates()
        self._metrics = VerdictMetrics({CAMERA: site.camera.line})
        self._began_s = time.monotonic()
        self._first_pid = site.nucleus.component(INSPECTOR.name).pid
        self._next_plain_s = _PLAIN_S
        self._reported = 0  # updates whose end was told

    def on(self) -> Live | nullcontext[None]:
        """Use the whole terminal meanwhile."""
        return self._live or nullcontext()

    @property
    def elapsed_s(self) -> float:
        """Since the component judged its first part."""
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
        reading = site.component_status()
        site.updates.advance(elapsed_s, reading)
        inspected, published = 0 if reading is None else reading.camera.inspected, site.nucleus.published
        frames_per_s, publishes_per_s = self._rates.update(elapsed_s, inspected=inspected, published=published)
        moment = GreengrassSnapshot(
            elapsed_s=elapsed_s,
            seconds=site.options.seconds,
            mode=site.options.mode,
            note=note,
            note_style=style,
            broker=site.broker.kind,
            online=site.nucleus.online,
            component=site.nucleus.component(INSPECTOR.name),
            first_pid=self._first_pid,
            status=reading,
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
        self._print(moment)
        return moment

    def _print(self, moment: GreengrassSnapshot) -> None:
        if self._live is not None:
            self._live.update(screen(moment, width=self._console.width), refresh=True)
            return
        lines = []
        ended = [update for update in moment.updates if update.ended_s is not None]
        lines += [outcome_line(update) for update in ended[self._reported :]]
        self._reported = len(ended)
        if moment.elapsed_s >= self._next_plain_s:
            self._next_plain_s += _PLAIN_S
            lines.append(plain_line(moment))
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True)


def run(options: GreengrassOptions, *, console: Console) -> GreengrassResult:
    """Run the demo and write its files. Raises a KensaError for what the operator can mend."""
    with ExitStack() as stack:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # nothing may be left running
        stack.callback(signal.signal, signal.SIGTERM, before)
        with console.status("Preparing the site") as status:

            def progress(what: str) -> None:
                status.update(f"Preparing the site: {what}")
                if not console.is_terminal:
                    console.print(what, highlight=False, soft_wrap=True)

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
    site: GreengrassEnvironment, show: _Display, install_s: float
) -> tuple[GreengrassResult, GreengrassSnapshot]:
    options = site.options
    with stop_on_signals() as asked, show.on():
        moment = show.update(note="inspecting", style="bold green")
        while not asked.is_set() and (moment.elapsed_s < options.seconds or not site.updates.is_finished):
            asked.wait(_REFRESH_S)
            late = moment.elapsed_s >= options.seconds
            moment = show.update(note="inspecting until the last update" if late else "inspecting", style="bold green")
        site.updates.cancel()
        while not site.updates.is_finished:
            time.sleep(_REFRESH_S)
            moment = show.update(note="ending the update under way", style="bold yellow")
        seconds = show.elapsed_s
        site.camera.pause()
        moment = last = _wait_until_inspected(site, show)
        refused = site.nucleus.connections_refused
        site.remove_component()
        _wait_for_arrival(show, moment)
    site.subscriber.close()  # its last word is the whole ledger
    show.receive()
    result = GreengrassResult(
        seconds=seconds,
        install_s=install_s,
        snapshot=moment,
        counts=site.subscriber.counts,
        connections=site.camera.connections,
        refused_by_nucleus=refused,
        interrupted=asked.is_set(),
    )
    problems = verify(result)
    if problems:
        problems += describe_missing(site.state_dir, site.subscriber.arrived, broker=site.broker.kind)
    return replace(result, problems=problems), last


def _wait_until_inspected(site: GreengrassEnvironment, show: _Display) -> GreengrassSnapshot:
    """Return the moment at which every part is judged; the component still runs."""
    deadline = time.monotonic() + _SETTLE_S
    while True:
        moment = show.update(note="draining", style="bold yellow")
        camera = None if moment.status is None else moment.status.camera
        all_judged = camera is not None and camera.captured == site.camera.sent and not camera.pending
        if all_judged or time.monotonic() > deadline:
            return moment
        time.sleep(_REFRESH_S / 2)


def _wait_for_arrival(show: _Display, moment: GreengrassSnapshot) -> None:
    inspected = 0 if moment.status is None else moment.status.camera.inspected
    deadline = time.monotonic() + _SETTLE_S
    show.receive()
    while show.delivered < inspected and time.monotonic() < deadline:
        time.sleep(0.02)
        show.receive()


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
    (out / SCREEN_NAME).write_text(screen_svg(last), encoding="utf-8")
    result = replace(result, files=files)
    (out / REPORT_NAME).write_text(json.dumps(to_json(result), indent=2) + "\n", encoding="utf-8")
    return result
