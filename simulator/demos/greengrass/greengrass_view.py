"""The live view of the Greengrass demo: a screen that fits 80x24 and uses more. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.layout import Layout
from rich.table import Table
from rich.text import Text

from agent.records import CameraState
from simulator.demos.common.screen_parts import (
    WIDE,
    count_text,
    framed_panel,
    grade_rows,
    header,
    label_value_grid,
    latency_rows,
    render_svg,
)
from simulator.demos.greengrass.release_catalogue import POLICY_TEXT

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.panel import Panel

    from simulator.demos.greengrass.component_status import ComponentStatus
    from simulator.demos.greengrass.greengrass_snapshot import GreengrassSnapshot
    from simulator.demos.greengrass.update_schedule import ModelUpdate
    from simulator.nucleus.limits import Mode

METHOD_TEXT: Final = {
    "deployment": "a deployment's configuration",
    "shadow": "the named shadow",
    "component": "com.kensa.Model",
}
_SHORT: Final = {"deployment": "deployment", "shadow": "named shadow", "component": "com.kensa.Model"}
NUCLEUS_TEXT: Final = {"lite": "nucleus lite 2.6.0", "classic": "the classic nucleus"}
_STEPS: Final = (
    ("fetch", {"fetching", "staged"}),
    ("gates", {"verified", "selftest"}),
    ("shadow", {"shadow"}),
    ("trial", {"trial"}),
    ("commit", {"committed"}),
)
_EVENTS: Final = 30


def screen(moment: GreengrassSnapshot, *, width: int) -> RenderableType:
    """Return the whole screen for a terminal `width` columns wide."""
    layout = Layout()
    updates = len(moment.updates) + len(moment.waiting)
    layout.split_column(
        Layout(
            header(elapsed_s=moment.elapsed_s, seconds=moment.seconds, note=moment.note, style=moment.note_style),
            size=1,
        ),
        Layout(name="tiles", size=6),
        Layout(name="state", size=6),
        Layout(framed_panel("Model updates on the running line", _updates(moment)), size=updates + 3),
        Layout(_events(moment), name="events"),
        Layout(Text(" Ctrl-C ends the demo after the update under way, and writes the report", "grey50"), size=1),
    )
    layout["tiles"].split_row(
        Layout(framed_panel("Component", _component(moment))),
        Layout(framed_panel("Line", _line(moment))),
        Layout(framed_panel("Against truth", grade_rows(moment.metrics, roomy=width >= WIDE))),
        Layout(framed_panel("Latency", latency_rows(moment.metrics))),
    )
    layout["state"].split_row(
        Layout(framed_panel("No frame is lost", _accounting(moment))),
        Layout(framed_panel("Through the nucleus", _delivery(moment))),
        Layout(framed_panel("Model and machine", _model(moment))),
    )
    return layout


def screen_svg(moment: GreengrassSnapshot, *, width: int = 100, height: int = 30) -> str:
    """Return the screen as an SVG that loads nothing from anywhere."""
    title = f"kensa demo --greengrass {moment.mode}"
    return render_svg(screen(moment, width=width), title=title, width=width, height=height)


def plain_line(moment: GreengrassSnapshot) -> str:
    """Return one line for an output that is no terminal."""
    reading, tally = moment.status, moment.metrics
    counts = "does not answer"
    if reading is not None:
        camera = reading.camera
        counts = f"captured {camera.captured}  inspected {camera.inspected}  dropped {reading.dropped}"
    pid = f"pid {moment.component.pid}" + ("  PID CHANGED" if moment.pid_changed else "")
    return (
        f"{moment.elapsed_s:5.0f} s  {moment.component.state} {pid}  {moment.frames_per_s:.1f} frames/s  "
        f"{moment.publishes_per_s:.1f} publishes/s  {counts}  arrived {tally.delivered}  "
        f"p99 {tally.latency_ms(0.99) or 0.0:.1f} ms" + _current_update(moment)
    )


def outcome_line(update: ModelUpdate) -> str:
    """Return how an update ended, for an output that is no terminal."""
    mark = "as expected" if update.is_as_expected else f"EXPECTED {update.offer.expected}"
    reason = f": {update.reason}" if update.reason else ""
    return (
        f"{update.ended_s or 0.0:5.0f} s  {update.release_id} by {METHOD_TEXT[update.offer.method]}: "
        f"{update.outcome} after "
        f"{update.seconds or 0.0:.1f} s, {mark}{reason}"
    )


def _current_update(moment: GreengrassSnapshot) -> str:
    last = moment.updates[-1] if moment.updates else None
    if last is None or last.ended_s is not None:
        return ""
    return (
        f"  {last.release_id} by {METHOD_TEXT[last.offer.method]}: {moment.status.state if moment.status else 'begun'}"
    )


# --- tiles ------------------------------------------------------------------------------------------------------------


def _component(moment: GreengrassSnapshot) -> Group:
    component = moment.component
    good = component.state == "RUNNING"
    pid = Text(f"{component.pid}", "bold red" if moment.pid_changed else "bold green")
    return label_value_grid(
        [
            ("Inspector", Text(moment.component.version, "bold")),
            ("state", Text(f"{component.state} ●", "green" if good else "bold red")),
            ("pid", pid),
            ("starts", count_text(component.starts, "bold" if component.starts == 1 else "bold red")),
        ]
    )


def _line(moment: GreengrassSnapshot) -> Group:
    running = moment.status is not None and moment.status.camera.state is CameraState.RUNNING
    return label_value_grid(
        [
            ("camera", Text("MJPEG ●", "green" if running else "red")),
            ("frames/s", Text(f"{moment.frames_per_s:.1f}", "bold cyan")),
            ("publishes/s", Text(f"{moment.publishes_per_s:.1f}", "bold cyan")),
            ("publishes", count_text(moment.published)),
        ]
    )


def _accounting(moment: GreengrassSnapshot) -> Group:
    reading = moment.status
    if reading is None:
        return label_value_grid([("camera took", count_text(moment.sent, "bold cyan"))])
    camera = reading.camera
    why = ", ".join(f"{reason} {number}" for reason, number in sorted(camera.dropped.items()) if number)
    return label_value_grid(
        [
            ("camera took", count_text(moment.sent, "bold cyan")),
            ("captured", count_text(camera.captured)),
            ("inspected", count_text(camera.inspected)),
            ("dropped", Text(f"{reading.dropped:,}: {why}" if why else "0", "bold red" if why else "grey50")),
        ]
    )


def _delivery(moment: GreengrassSnapshot) -> Group:
    waiting = 0 if moment.status is None else moment.status.heartbeat.outbox.verdicts
    return label_value_grid(
        [
            (moment.broker, Text("up ●" if moment.online else "away ●", "green" if moment.online else "bold red")),
            ("in the outbox", count_text(waiting, "bold yellow")),
            ("arrived", count_text(moment.metrics.delivered, "bold green")),
            ("duplicates", count_text(moment.counts.duplicates)),
        ]
    )


def _model(moment: GreengrassSnapshot) -> Group:
    reading = moment.status
    if reading is None:
        return label_value_grid([("", Text("the component does not answer", "magenta"))])
    model, beat = reading.heartbeat.inspections[0], reading.heartbeat
    name = Text("no usable model", "magenta") if model.model is None else Text(f"{model.model} {model.version}", "bold")
    return label_value_grid(
        [
            ("judges", name),
            ("sha256", Text((model.sha256 or "-")[:12], "grey62")),
            ("trust", Text("signed", "green") if model.trusted else Text("factory release", "yellow")),
            ("uses", Text(f"{beat.cpu:.2f} cpu, {beat.rss_bytes / 1e6:.0f} MB", "bold")),
        ]
    )


# --- updates ----------------------------------------------------------------------------------------------------------


def _updates(moment: GreengrassSnapshot) -> Table:
    table = Table.grid(expand=True, padding=(0, 1))
    for ratio in (None, None, None, 1):
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=ratio)
    for update in moment.updates:
        table.add_row(
            Text(f"{update.began_s:3.0f} s", "grey62"),
            Text(_SHORT[update.offer.method]),
            Text(update.offer.version, "bold"),
            _update_line(update, moment.status, moment.mode),
        )
    for offer, due_s in moment.waiting:
        table.add_row(
            Text(f"{due_s:3.0f} s", "grey50"),
            Text(_SHORT[offer.method], "grey50"),
            Text(offer.version, "grey50"),
            Text(f"○ {offer.what}", "grey50"),
        )
    rows = Table.grid(expand=True)
    rows.add_row(Text(POLICY_TEXT, "grey50", no_wrap=True, overflow="ellipsis"))
    rows.add_row(table)
    return rows


def _update_line(update: ModelUpdate, reading: ComponentStatus | None, mode: Mode) -> Text:
    """Return one line: the steps while it is under way, the end after it."""
    if update.outcome is not None:
        style = "green" if update.is_as_expected else "bold red"
        text = Text(f"{'✓' if update.is_as_expected else '✗'} {update.offer.what}: {update.outcome}", style)
        text.append(f" after {update.seconds or 0.0:.1f} s", "grey62")
        return text.append(f"  {update.reason}", "grey62") if update.reason else text
    text = Text()
    if reading is None or reading.candidate != update.release_id:
        return text.append(f"● {update.offer.what}: {_delivery_steps(update, mode)}", "bold cyan")
    now = next((i for i, (_, states) in enumerate(_STEPS) if reading.state in states), 0)
    for index, (name, _) in enumerate(_STEPS):
        if index < now:
            text.append(f"✓ {name}  ", "green")
        elif index == now:
            text.append(f"● {name}{_progress(reading)}  ", "bold cyan")
        else:
            text.append(f"○ {name}  ", "grey50")
    return text


def _delivery_steps(update: ModelUpdate, mode: Mode) -> str:
    """Return what happens before the agent's own steps."""
    if update.offer.method == "shadow":
        return "wanted, and on its way to the device"
    if update.deployment is None or update.deployment.done():
        return "deployed"
    if update.offer.method == "component":
        return "the nucleus installs the component"
    return "deployed" if mode == "lite" else "the nucleus asks, the agent fetches and examines it before it answers"


def _progress(reading: ComponentStatus) -> str:
    done, wanted = reading.progress.get("phase_pairs"), reading.progress.get("phase_pairs_wanted")
    share = f" {reading.share:.0%}" if reading.state == "trial" else ""
    return share if done is None or not wanted else f"{share} {done:.0f}/{wanted:.0f}"


def _events(moment: GreengrassSnapshot) -> Panel:
    """What the nucleus did with its components, the newest first."""
    table = Table.grid(padding=(0, 1))
    for _ in range(3):
        table.add_column(no_wrap=True, overflow="ellipsis")
    told = [event for event in moment.events if event.what != "install"]  # the next one names the process, too
    for event in reversed(told[-_EVENTS:]):
        table.add_row(
            Text(f"{round(event.at_s - moment.began_s, 1) + 0.0:+6.1f} s", "grey62"),  # + 0.0: no "-0.0"
            Text(event.component, "grey62"),
            Text(event.what, "green" if event.what == "RUNNING" else "red" if event.what == "BROKEN" else "default"),
        )
    return framed_panel(f"What {NUCLEUS_TEXT[moment.mode]} did", table)
