"""One run of the demo of the improvement cycle: from an empty folder to the report."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from simulator.demos.cloud.accuracy_plot import render_accuracy_plot
from simulator.demos.cloud.cloud_environment import WORK_NAME, CloudEnvironment, CloudOptions
from simulator.demos.cloud.cloud_line import FACTORY, MODEL
from simulator.demos.cloud.cloud_report import CloudResult, DeviceResult, headline, to_json
from simulator.demos.cloud.cloud_scenario import INVERTED_LABELS_JOB
from simulator.demos.cloud.cloud_view import CloudSnapshot, DeviceSnapshot, event_line, plain_line, screen, screen_svg
from simulator.demos.cloud.scenario_steps import plan_text
from simulator.demos.common.run_display import (
    RunDisplay,
    fast_thread_switches,
    progress_reporter,
    wait_for_arrival,
)
from simulator.demos.common.run_files import REPORT_NAME, SCREEN_NAME, log_to, write_report
from simulator.demos.common.stop_signals import stop_on_signals
from simulator.line import part_sequence
from simulator.probes.missing_verdicts import describe_missing

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from simulator.demos.cloud.device import Device

LOG_NAME: Final = "demo.log"
PLOT_NAME: Final = "accuracy.svg"
PAGE_NAME: Final = "plant.html"
_REFRESH_S: Final = 0.5
_LINE_EVERY_S: Final = 10.0  # where there is no terminal
_ARRIVAL_S: Final = 20.0  # after the drain, verdicts that the broker has must reach the subscriber within this
_CURVE: Final = 240  # seconds that the live view shows


class _Display:
    """Follows the run: takes in what arrived, and shows it on a terminal or as lines."""

    def __init__(self, environment: CloudEnvironment, console: Console) -> None:
        self._environment = environment
        self._display = RunDisplay(console, line_every_s=_LINE_EVERY_S, first_line_s=0.0)
        self.last: CloudSnapshot | None = None

    def on(self) -> AbstractContextManager[None]:
        """Use the whole terminal meanwhile."""
        return self._display.on()

    def receive(self) -> None:
        """Take in what arrived."""
        for verdict in self._environment.subscriber.received():
            self._environment.accuracy.add(verdict)

    def update(self, note: str = "") -> None:
        """Take in and show the present."""
        self.receive()
        shown = self.last = _snapshot(self._environment, note)
        self._display.show(
            shown.elapsed_s,
            screen=lambda width: screen(shown, width=width),
            line=lambda: plain_line(shown),
            events=[event_line(event) for event in shown.events],
        )


def run(options: CloudOptions, *, console: Console) -> CloudResult:
    """Run the demo and write its files. Raises a KensaError for what the operator can mend."""
    with ExitStack() as stack:
        stack.enter_context(fast_thread_switches())
        options.out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(log_to(options.out / LOG_NAME))
        console.print(plan_text(), highlight=False, soft_wrap=True)
        with console.status("Preparing the plant") as status:
            progress = progress_reporter(console, status, "Preparing the plant")
            environment = stack.enter_context(CloudEnvironment(options, progress=progress))
        display = _Display(environment, console)
        result = _run_scenario(environment, display)
        return _write_files(result, environment, display)


def _run_scenario(environment: CloudEnvironment, display: _Display) -> CloudResult:
    began = time.monotonic()
    environment.start()
    with stop_on_signals() as stop_requested, display.on():
        while not environment.scenario.is_over and not stop_requested.is_set():
            display.update()
            stop_requested.wait(_REFRESH_S)
        environment.scenario.stop()
        seconds = time.monotonic() - began
        for device in environment.devices:
            device.camera.pause()
        display.update("draining")
        models = {device.placement.thing: device.active or f"{MODEL}/{FACTORY}" for device in environment.devices}
        for device in environment.devices:
            device.agent.stop()
        inspected = sum(_inspected(device) for device in environment.devices)
        wait_for_arrival(
            display.receive, lambda: len(environment.accuracy.evaluated), inspected=inspected, timeout_s=_ARRIVAL_S
        )
    environment.subscriber.close()  # reports the final counts
    display.receive()
    environment.lake.deliver()
    scenario = environment.scenario
    result = CloudResult(
        seconds=seconds,
        prepared_s=environment.prepared_s,
        outcome=scenario.outcome,
        events=tuple(scenario.events),
        devices=tuple(_device_result(device, models[device.placement.thing]) for device in environment.devices),
        counts=environment.subscriber.counts,
        broker=environment.broker.kind,
        problem="it was ended early" if stop_requested.is_set() else scenario.problem,
        steps=tuple(scenario.timer.summary_lines()),
    )
    if not result.lost:
        return result
    arrived, broker = environment.subscriber.arrived, environment.broker.kind
    named = [
        name for device in environment.devices for name in describe_missing(device.state_dir, arrived, broker=broker)
    ]
    return replace(result, missing=tuple(named))


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


def _snapshot(environment: CloudEnvironment, note: str) -> CloudSnapshot:
    scenario, first = environment.scenario, environment.devices[0]
    elapsed_s = scenario.elapsed_s
    return CloudSnapshot(
        elapsed_s=elapsed_s,
        note=note or scenario.note,
        light=part_sequence.drift_at(first.line.config, first.camera.shown),
        accuracy=environment.accuracy.recent(),
        curve=tuple(point for point in environment.accuracy.curve(step_s=2.0) if point[0] >= elapsed_s - _CURVE),
        psi=scenario.outcome.psi,
        events=tuple(scenario.events),
        states=tuple(step.name for step in scenario.steps),
        devices=tuple(_device_snapshot(device) for device in environment.devices),
        delivered=len(environment.accuracy.evaluated),
        labels=scenario.outcome.labels + scenario.outcome.poisoned_labels,
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


def _write_files(result: CloudResult, environment: CloudEnvironment, display: _Display) -> CloudResult:
    out = environment.options.out
    files = {
        "Accuracy": out / PLOT_NAME,
        "Plant report": out / PAGE_NAME,
        "Last screen": out / SCREEN_NAME,
        "Report": out / REPORT_NAME,
        "Cloud": out / WORK_NAME,
        "Log": out / LOG_NAME,
    }
    drawn = render_accuracy_plot(
        environment.accuracy.curve(),
        result.events,
        dark=result.outcome.fading_s,
        title=headline(result),
        seconds=result.seconds,
    )
    files["Accuracy"].write_text(drawn, encoding="utf-8")
    environment.lake.ingest_labels(environment.account.data, refused=INVERTED_LABELS_JOB)
    environment.lake.write_page(files["Plant report"])
    shown = None if display.last is None else screen_svg(display.last)
    result = replace(result, files=files)
    write_report(out, to_json(result), screen_svg=shown)
    return result
