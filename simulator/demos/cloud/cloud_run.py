"""One run of the demo of the improvement cycle: from an empty folder to the report."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.live import Live

from simulator.demos.cloud.accuracy_plot import render_accuracy_plot
from simulator.demos.cloud.cloud_environment import WORK_NAME, CloudEnvironment, CloudOptions
from simulator.demos.cloud.cloud_line import FACTORY, MODEL
from simulator.demos.cloud.cloud_report import CloudResult, DeviceResult, headline, to_json
from simulator.demos.cloud.cloud_scenario import INVERTED_LABELS_JOB
from simulator.demos.cloud.cloud_view import CloudSnapshot, DeviceSnapshot, event_line, plain_line, screen, screen_svg
from simulator.demos.cloud.scenario_steps import plan_text
from simulator.demos.common.stop_signals import stop_on_signals
from simulator.demos.line.line_run import log_to
from simulator.line import part_sequence
from simulator.probes.missing_verdicts import describe_missing

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.demos.cloud.device import Device

LOG_NAME: Final = "demo.log"
SCREEN_NAME: Final = "screen.svg"
PLOT_NAME: Final = "accuracy.svg"
PAGE_NAME: Final = "plant.html"
REPORT_NAME: Final = "report.json"
_REFRESH_S: Final = 0.5
_PLAIN_S: Final = 10.0
_ARRIVAL_S: Final = 20.0  # after the drain, verdicts that the broker has must reach the subscriber within this
# Client and server of every request share the interpreter's lock with the lines, and hand it over several times.
_SWITCH_S: Final = 1e-4
_CURVE: Final = 240  # seconds that the live view shows


class _Display:
    """Follows the run: takes in what arrived, and shows it on a terminal or as lines."""

    def __init__(self, plant: CloudEnvironment, console: Console) -> None:
        self._plant = plant
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
        self._next_plain_s = 0.0
        self._reported = 0
        self.last: CloudSnapshot | None = None

    def on(self) -> Live | nullcontext[None]:
        """Use the whole terminal meanwhile."""
        return self._live or nullcontext()

    def receive(self) -> None:
        """Take in what arrived."""
        for verdict in self._plant.subscriber.received():
            self._plant.accuracy.add(verdict)

    def update(self, note: str = "") -> None:
        """Take in and show the present."""
        self.receive()
        moment = self.last = _snapshot(self._plant, note)
        if self._live is not None:
            self._live.update(screen(moment, width=self._console.width), refresh=True)
            return
        lines = [event_line(chapter) for chapter in moment.events[self._reported :]]
        self._reported = len(moment.events)
        if moment.elapsed_s >= self._next_plain_s:
            self._next_plain_s = moment.elapsed_s + _PLAIN_S
            lines.append(plain_line(moment))
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True)


def run(options: CloudOptions, *, console: Console) -> CloudResult:
    """Run the demo and write its files. Raises a KensaError for what the operator can mend."""
    with ExitStack() as stack:
        stack.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(_SWITCH_S)
        options.out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(log_to(options.out / LOG_NAME))
        console.print(plan_text(), highlight=False, soft_wrap=True)
        with console.status("Preparing the plant") as status:

            def progress(what: str) -> None:
                status.update(f"Preparing the plant: {what}")
                if not console.is_terminal:
                    console.print(what, highlight=False, soft_wrap=True)

            plant = stack.enter_context(CloudEnvironment(options, progress=progress))
        show = _Display(plant, console)
        result = _run_scenario(plant, show)
        return _write_files(result, plant, show)


def _run_scenario(plant: CloudEnvironment, show: _Display) -> CloudResult:
    began = time.monotonic()
    plant.start()
    with stop_on_signals() as asked, show.on():
        while not plant.scenario.is_over and not asked.is_set():
            show.update()
            asked.wait(_REFRESH_S)
        plant.scenario.stop()
        seconds = time.monotonic() - began
        for device in plant.devices:
            device.camera.pause()
        show.update("draining")
        models = {device.placement.thing: device.active or f"{MODEL}/{FACTORY}" for device in plant.devices}
        for device in plant.devices:
            device.agent.stop()
        _wait_for_arrival(plant, show)
    plant.subscriber.close()  # its last word is the whole ledger
    show.receive()
    plant.lake.deliver()
    story = plant.scenario
    result = CloudResult(
        seconds=seconds,
        prepared_s=plant.prepared_s,
        outcome=story.outcome,
        events=tuple(story.events),
        devices=tuple(_device_result(device, models[device.placement.thing]) for device in plant.devices),
        counts=plant.subscriber.counts,
        broker=plant.broker.kind,
        problem="it was ended early" if asked.is_set() else story.problem,
        steps=tuple(story.timer.summary_lines()),
    )
    if not result.lost:
        return result
    arrived, broker = plant.subscriber.arrived, plant.broker.kind
    named = [name for device in plant.devices for name in describe_missing(device.state_dir, arrived, broker=broker)]
    return replace(result, missing=tuple(named))


def _wait_for_arrival(plant: CloudEnvironment, show: _Display) -> None:
    inspected = sum(_inspected(device) for device in plant.devices)
    deadline = time.monotonic() + _ARRIVAL_S
    show.receive()
    while len(plant.accuracy.evaluated) < inspected and time.monotonic() < deadline:
        time.sleep(0.02)
        show.receive()


def _inspected(device: Device) -> int:
    return sum(camera.accounting.inspected for camera in device.agent.snapshot().cameras)


def _device_result(device: Device, model: str) -> DeviceResult:
    snapshot = device.agent.snapshot()
    accounting = snapshot.cameras[0].accounting
    return DeviceResult(
        thing=device.placement.thing,
        shown=device.camera.shown,
        captured=accounting.captured,
        inspected=accounting.inspected,
        dropped=accounting.dropped_total,
        model=model,
        collected=0 if snapshot.collection is None else snapshot.collection.uploaded,
    )


def _snapshot(plant: CloudEnvironment, note: str) -> CloudSnapshot:
    story, first = plant.scenario, plant.devices[0]
    elapsed_s = story.elapsed_s
    return CloudSnapshot(
        elapsed_s=elapsed_s,
        note=note or story.note,
        light=part_sequence.drift_at(first.line.config, first.camera.shown),
        accuracy=plant.accuracy.recent(),
        curve=tuple(point for point in plant.accuracy.curve(step_s=2.0) if point[0] >= elapsed_s - _CURVE),
        psi=story.outcome.psi,
        events=tuple(story.events),
        states=tuple(step.name for step in story.steps),
        devices=tuple(_device_snapshot(device) for device in plant.devices),
        delivered=len(plant.accuracy.evaluated),
        labels=story.outcome.labels + story.outcome.poisoned_labels,
    )


def _device_snapshot(device: Device) -> DeviceSnapshot:
    snapshot, status = device.agent.snapshot(), device.status
    accounting = snapshot.cameras[0].accounting
    progress = ""
    if status is not None and status.progress.get("phase_pairs_wanted"):
        progress = f" {status.progress['phase_pairs']:.0f}/{status.progress['phase_pairs_wanted']:.0f}"
    return DeviceSnapshot(
        thing=device.placement.thing,
        model=(device.active or f"{MODEL}/{FACTORY}").partition("/")[2],
        state="" if status is None else str(status.state),
        progress=progress,
        captured=accounting.captured,
        dropped=accounting.dropped_total,
        uploaded=0 if snapshot.collection is None else snapshot.collection.uploaded,
    )


def _write_files(result: CloudResult, plant: CloudEnvironment, show: _Display) -> CloudResult:
    out = plant.options.out
    files = {
        "Accuracy": out / PLOT_NAME,
        "Plant report": out / PAGE_NAME,
        "Last screen": out / SCREEN_NAME,
        "Report": out / REPORT_NAME,
        "Cloud": out / WORK_NAME,
        "Log": out / LOG_NAME,
    }
    drawn = render_accuracy_plot(
        plant.accuracy.curve(),
        result.events,
        dark=result.outcome.fading_s,
        title=headline(result),
        seconds=result.seconds,
    )
    files["Accuracy"].write_text(drawn, encoding="utf-8")
    plant.lake.ingest_labels(plant.account.data, refused=INVERTED_LABELS_JOB)
    plant.lake.write_page(files["Plant report"])
    if show.last is not None:
        files["Last screen"].write_text(screen_svg(show.last), encoding="utf-8")
    result = replace(result, files=files)
    files["Report"].write_text(json.dumps(to_json(result), indent=2) + "\n", encoding="utf-8")
    return result
