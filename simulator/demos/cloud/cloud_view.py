"""The live view of the cloud demo: a screen that fits 80x24. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.console import Group
from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from simulator.demos.common.screen_parts import BARS, count_text, framed_panel, label_value_grid, render_svg

if TYPE_CHECKING:
    from rich.console import RenderableType

    from simulator.demos.cloud.accuracy import AccuracyShare
    from simulator.demos.cloud.cloud_scenario import EventKind, ScenarioEvent

STYLES: Final[dict[EventKind, str]] = {
    "light": "yellow",
    "data": "cyan",
    "cycle": "default",
    "good": "bold green",
    "bad": "bold red",
}
_FAIR: Final = 0.97  # an accuracy from here on is shown green
_POOR: Final = 0.9
_STATES: Final = ("BuildDataset", "Train", "Choose", "Release", "Monitor", "MonitorFleet", "Notify")
_SHORT: Final = ("data", "train", "choose", "release", "canary", "fleet", "told")


@dataclass(frozen=True, slots=True)
class DeviceSnapshot:
    """One device."""

    thing: str
    model: str  # that inspects
    state: str  # of its lifecycle
    progress: str
    captured: int
    dropped: int
    uploaded: int  # frames


@dataclass(frozen=True, slots=True)
class CloudSnapshot:
    """Everything that the view shows."""

    elapsed_s: float
    note: str
    light: float  # of the lamp, 1 is nominal
    accuracy: AccuracyShare
    curve: tuple[tuple[float, float], ...]
    psi: float | None
    events: tuple[ScenarioEvent, ...]
    states: tuple[str, ...]  # that the newest execution has entered
    devices: tuple[DeviceSnapshot, ...]
    delivered: int
    labels: int


def line_chart(values: list[float], width: int) -> str:
    """Return values in [0, 1], squeezed or not into `width` bars of an eighth's steps."""
    if not values:
        return ""
    if len(values) > width:
        values = [values[int(i * len(values) / width)] for i in range(width)]
    return "".join(BARS[min(int(value * len(BARS)), len(BARS) - 1)] for value in values)


def screen(moment: CloudSnapshot, *, width: int) -> RenderableType:
    """Return the whole screen for a terminal `width` columns wide."""
    layout = Layout()
    layout.split_column(
        Layout(_header(moment), size=1),
        Layout(_accuracy(moment, width=width), size=4),
        Layout(name="middle", size=6),
        Layout(_machine(moment), size=3),
        Layout(_event_panel(moment), name="events"),
        Layout(Text(" Ctrl-C ends the demo early and writes the report", "grey50"), size=1),
    )
    layout["middle"].split_row(*(Layout(_device(device)) for device in moment.devices), Layout(_lines(moment)))
    return layout


def screen_svg(moment: CloudSnapshot, *, width: int = 100, height: int = 32) -> str:
    """Return the screen as an SVG that loads nothing from anywhere."""
    return render_svg(screen(moment, width=width), title="kensa demo --cloud", width=width, height=height)


def plain_line(moment: CloudSnapshot) -> str:
    """Return one line for an output that is no terminal."""
    devices = ", ".join(f"{one.thing} {one.model} {one.state}{one.progress}" for one in moment.devices)
    return (
        f"{moment.elapsed_s:5.0f} s  light {moment.light:.0%}  accuracy {moment.accuracy.value:.1%}  "
        f"{devices}  {moment.note}"
    )


def event_line(event: ScenarioEvent) -> str:
    """Return one line for an event."""
    return f"{event.at_s:5.0f} s  * {event.text}"


def _style(share: float) -> str:
    return "bold green" if share >= _FAIR else "bold yellow" if share >= _POOR else "bold red"


def _header(moment: CloudSnapshot) -> Table:
    row = Table.grid(expand=True, padding=(0, 1))
    row.add_column(no_wrap=True)
    row.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        Text(" KENSA ", "bold black on cyan"), Text(f"● {moment.note}", "bold cyan"), Text(f"{moment.elapsed_s:.0f} s ")
    )
    return row


def _accuracy(moment: CloudSnapshot, *, width: int) -> RenderableType:
    chart = Text(line_chart([share for _, share in moment.curve], width - 6), "cyan", no_wrap=True)
    told = Text("parts judged right ", "grey62", no_wrap=True, overflow="ellipsis")
    told.append(f"{moment.accuracy.value:.1%}", _style(moment.accuracy.value))
    told.append(f"   of the last {moment.accuracy.parts}", "grey62")
    told.append(f"   lamp {moment.light:.0%}", "yellow" if moment.light < 1.0 else "grey62")
    told.append("" if moment.psi is None else f"   drift PSI {moment.psi:.2f}", "cyan")
    return framed_panel("Accuracy", Group(chart, told))


def _device(device: DeviceSnapshot) -> RenderableType:
    return framed_panel(
        device.thing,
        label_value_grid(
            [
                ("model", Text(device.model, "bold")),
                (device.state, Text(device.progress or "-", "bold cyan")),
                ("parts", count_text(device.captured)),
                ("dropped", count_text(device.dropped, "bold red")),
            ]
        ),
    )


def _lines(moment: CloudSnapshot) -> RenderableType:
    return framed_panel(
        "Cloud",
        label_value_grid(
            [
                ("verdicts", count_text(moment.delivered)),
                ("frames collected", count_text(sum(device.uploaded for device in moment.devices))),
                ("labels", count_text(moment.labels)),
            ]
        ),
    )


def _machine(moment: CloudSnapshot) -> RenderableType:
    if not moment.states:
        return framed_panel("State machine", Text("waits for a trigger: schedule, drift, labels or a person", "grey62"))
    last = moment.states[-1]
    reached = max((i for i, state in enumerate(_STATES) if state in moment.states), default=-1)
    text = Text(no_wrap=True, overflow="ellipsis")
    for i, (state, name) in enumerate(zip(_STATES, _SHORT, strict=True)):
        if i < reached or (i == reached and last == "Done"):
            text.append(f"✓ {name}  " if state in moment.states else f"- {name}  ", "green")
        elif i == reached:
            text.append(f"● {name}  ", "bold cyan")
        else:
            text.append(f"○ {name}  ", "grey50")
    return framed_panel("State machine", text.append(f" {last}", "grey62"))


def _event_panel(moment: CloudSnapshot) -> RenderableType:
    rows = [
        Text(f"{event.at_s:5.0f} s  ", "grey62", no_wrap=True, overflow="ellipsis").append(
            event.text, STYLES[event.kind]
        )
        for event in moment.events[::-1]
    ]
    return framed_panel("What happened", Group(*rows) if rows else Text("two lines begin to work", "grey62"))
