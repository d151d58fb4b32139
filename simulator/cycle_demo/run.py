"""One run of the demo of the improvement cycle: from an empty folder to the report."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.live import Live

from simulator.cycle_demo.plant import WORK_NAME, Options, Plant
from simulator.cycle_demo.plot import plot
from simulator.cycle_demo.report import DeviceEnd, Result, headline, to_json
from simulator.cycle_demo.scene import FACTORY, MODEL
from simulator.cycle_demo.steps import plan_text
from simulator.cycle_demo.story import HURRIED
from simulator.cycle_demo.view import DeviceNow, Moment, chapter_line, picture, plain_line, screen
from simulator.demo.run import log_to
from simulator.demo.stopping import asked_to_stop
from simulator.line import plan
from simulator.missing import name_missing

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.cycle_demo.device import Device

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


class _Show:
    """Follows the run: takes in what arrived, and shows it on a terminal or as lines."""

    def __init__(self, plant: Plant, console: Console) -> None:
        self._plant = plant
        self._console = console
        self._live = Live(console=console, screen=True, auto_refresh=False) if console.is_terminal else None
        self._next_plain_s = 0.0
        self._told = 0
        self.last: Moment | None = None

    def on(self) -> Live | nullcontext[None]:
        """Use the whole terminal meanwhile."""
        return self._live or nullcontext()

    def take_in(self) -> None:
        """Take in what arrived."""
        for verdict in self._plant.subscriber.received():
            self._plant.accuracy.take(verdict)

    def update(self, note: str = "") -> None:
        """Take in and show the present."""
        self.take_in()
        moment = self.last = _moment(self._plant, note)
        if self._live is not None:
            self._live.update(screen(moment, width=self._console.width), refresh=True)
            return
        lines = [chapter_line(chapter) for chapter in moment.chapters[self._told :]]
        self._told = len(moment.chapters)
        if moment.elapsed_s >= self._next_plain_s:
            self._next_plain_s = moment.elapsed_s + _PLAIN_S
            lines.append(plain_line(moment))
        for line in lines:
            self._console.print(line, highlight=False, soft_wrap=True)


def run(options: Options, *, console: Console) -> Result:
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

            plant = stack.enter_context(Plant(options, progress=progress))
        show = _Show(plant, console)
        result = _watched(plant, show)
        return _write_files(result, plant, show)


def _watched(plant: Plant, show: _Show) -> Result:
    began = time.monotonic()
    plant.start()
    with asked_to_stop() as asked, show.on():
        while not plant.story.over and not asked.is_set():
            show.update()
            asked.wait(_REFRESH_S)
        plant.story.stop()
        seconds = time.monotonic() - began
        for device in plant.devices:
            device.camera.hold()
        show.update("draining")
        models = {device.place.thing: device.active or f"{MODEL}/{FACTORY}" for device in plant.devices}
        for device in plant.devices:
            device.agent.stop()
        _await_arrival(plant, show)
    plant.subscriber.close()  # its last word is the whole ledger
    show.take_in()
    plant.lake.deliver()
    story = plant.story
    result = Result(
        seconds=seconds,
        prepared_s=plant.prepared_s,
        findings=story.findings,
        chapters=tuple(story.chapters),
        devices=tuple(_end_of(device, models[device.place.thing]) for device in plant.devices),
        counts=plant.subscriber.counts,
        broker=plant.broker.kind,
        problem="it was ended early" if asked.is_set() else story.problem,
        steps=tuple(story.pace.lines()),
    )
    if not result.lost:
        return result
    arrived, broker = plant.subscriber.arrived, plant.broker.kind
    named = [name for device in plant.devices for name in name_missing(device.state_dir, arrived, broker=broker)]
    return replace(result, missing=tuple(named))


def _await_arrival(plant: Plant, show: _Show) -> None:
    judged = sum(_judged(device) for device in plant.devices)
    deadline = time.monotonic() + _ARRIVAL_S
    show.take_in()
    while len(plant.accuracy.judged) < judged and time.monotonic() < deadline:
        time.sleep(0.02)
        show.take_in()


def _judged(device: Device) -> int:
    return sum(camera.accounting.judged for camera in device.agent.snapshot().cameras)


def _end_of(device: Device, model: str) -> DeviceEnd:
    snapshot = device.agent.snapshot()
    accounting = snapshot.cameras[0].accounting
    return DeviceEnd(
        thing=device.place.thing,
        shown=device.camera.shown,
        captured=accounting.captured,
        judged=accounting.judged,
        dropped=accounting.dropped_total,
        model=model,
        collected=0 if snapshot.collection is None else snapshot.collection.uploaded,
    )


def _moment(plant: Plant, note: str) -> Moment:
    story, first = plant.story, plant.devices[0]
    elapsed_s = story.elapsed_s
    return Moment(
        elapsed_s=elapsed_s,
        note=note or story.note,
        light=plan.drift_at(first.line.config, first.camera.shown),
        accuracy=plant.accuracy.now(),
        curve=tuple(point for point in plant.accuracy.curve(step_s=2.0) if point[0] >= elapsed_s - _CURVE),
        psi=story.findings.psi,
        chapters=tuple(story.chapters),
        states=tuple(step.name for step in story.steps),
        devices=tuple(_now_of(device) for device in plant.devices),
        delivered=len(plant.accuracy.judged),
        labels=story.findings.labels + story.findings.poisoned_labels,
    )


def _now_of(device: Device) -> DeviceNow:
    snapshot, status = device.agent.snapshot(), device.status
    accounting = snapshot.cameras[0].accounting
    progress = ""
    if status is not None and status.progress.get("phase_pairs_wanted"):
        progress = f" {status.progress['phase_pairs']:.0f}/{status.progress['phase_pairs_wanted']:.0f}"
    return DeviceNow(
        thing=device.place.thing,
        model=(device.active or f"{MODEL}/{FACTORY}").partition("/")[2],
        state="" if status is None else str(status.state),
        progress=progress,
        captured=accounting.captured,
        dropped=accounting.dropped_total,
        uploaded=0 if snapshot.collection is None else snapshot.collection.uploaded,
    )


def _write_files(result: Result, plant: Plant, show: _Show) -> Result:
    out = plant.options.out
    files = {
        "Accuracy": out / PLOT_NAME,
        "Plant report": out / PAGE_NAME,
        "Last screen": out / SCREEN_NAME,
        "Report": out / REPORT_NAME,
        "Cloud": out / WORK_NAME,
        "Log": out / LOG_NAME,
    }
    drawn = plot(
        plant.accuracy.curve(),
        result.chapters,
        dark=result.findings.fading_s,
        title=headline(result),
        seconds=result.seconds,
    )
    files["Accuracy"].write_text(drawn, encoding="utf-8")
    plant.lake.label(plant.account.data, refused=HURRIED)
    plant.lake.write_page(files["Plant report"])
    if show.last is not None:
        files["Last screen"].write_text(picture(show.last), encoding="utf-8")
    result = replace(result, files=files)
    files["Report"].write_text(json.dumps(to_json(result), indent=2) + "\n", encoding="utf-8")
    return result
