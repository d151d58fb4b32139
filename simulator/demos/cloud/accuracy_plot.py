"""Accuracy over time with the events, as a self-contained SVG. Pure."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.demos.cloud.cloud_scenario import EventKind, ScenarioEvent

    Scale = Callable[[float], float]

WIDTH: Final = 1_000
HEIGHT: Final = 460
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 176, 44
_COLOURS: Final[dict[EventKind, str]] = {
    "light": "#b45309",
    "data": "#0e7490",
    "cycle": "#475569",
    "good": "#15803d",
    "bad": "#b91c1c",
}
_GRID: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_ROW_PX: Final = 17  # of the events' texts
_ROWS: Final = 7
_SHORT_S: Final = 300.0  # up to here the axis has a label every 30 s
_CHARACTER_PX: Final = 6.3  # of a text of 11.5 px, on average


def render_accuracy_plot(
    curve: Sequence[tuple[float, float]],
    events: Sequence[ScenarioEvent],
    *,
    dark: tuple[float, float] | None,
    title: str,
    seconds: float,
) -> str:
    """Return the image. `curve`: (second, accuracy); `dark`: from when to when the lamp fades, None: it does not."""
    span = max(seconds, 1.0)

    def x(at_s: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(max(at_s, 0.0), span) / span

    def y(share: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{escape(title)}" font-family="ui-sans-serif, system-ui, sans-serif" font-size="11.5">'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600" fill="#0f172a">{escape(title)}</text>',
        *([] if dark is None else _light(x, y, dark, span)),
    ]
    parts += [
        (
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#e2e8f0"/>'
            f'<text x="{_LEFT - 8}" y="{y(share) + 4:.1f}" text-anchor="end" fill="#475569">{share:.0%}</text>'
        )
        for share in _GRID
    ]
    step = 30 if span <= _SHORT_S else 60
    axis = HEIGHT - _BOTTOM + 18
    parts += [
        f'<text x="{x(second):.1f}" y="{axis}" text-anchor="middle" fill="#475569">{second} s</text>'
        for second in range(0, int(span) + 1, step)
    ]
    parts += _events(events, x, y)
    points = " ".join(f"{x(at):.1f},{y(share):.1f}" for at, share in curve)
    parts.append(
        f'<polyline points="{points}" fill="none" stroke="#1d4ed8" stroke-width="2.2" stroke-linejoin="round"/>'
    )
    parts.append(
        f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 8}" text-anchor="end" fill="#64748b">parts judged right, of the last '
        "120 parts of both lines; shaded: the lamp fades, and stays weak</text></svg>"
    )
    return "\n".join(parts) + "\n"


def _light(x: Scale, y: Scale, dark: tuple[float, float], span: float) -> list[str]:
    """The lamp's light, as shade behind the curve: deeper while it fades."""
    first, last = dark
    top, height = y(1.0), y(0.0) - y(1.0)
    return [
        (
            '<defs><linearGradient id="fade"><stop offset="0" stop-color="#f59e0b" stop-opacity="0"/>'
            '<stop offset="1" stop-color="#f59e0b" stop-opacity="0.16"/></linearGradient></defs>'
        ),
        (
            f'<rect x="{x(first):.1f}" y="{top:.1f}" width="{x(last) - x(first):.1f}" height="{height:.1f}" '
            'fill="url(#fade)"/>'
        ),
        (
            f'<rect x="{x(last):.1f}" y="{top:.1f}" width="{x(span) - x(last):.1f}" height="{height:.1f}" '
            'fill="#f59e0b" fill-opacity="0.16"/>'
        ),
    ]


def _events(events: Sequence[ScenarioEvent], x: Scale, y: Scale) -> list[str]:
    """A line down to the axis for each event, its text in the first row in which there is room."""
    found: list[str] = []
    free = [0.0] * _ROWS  # px from which a row is empty
    for event in events:
        at, colour = x(event.at_s), _COLOURS[event.kind]
        width = len(event.text) * _CHARACTER_PX + 14
        start = min(at, WIDTH - _RIGHT - width)
        row = next((i for i, end in enumerate(free) if end <= start), _ROWS - 1)
        free[row] = start + width
        text_y = 48 + row * _ROW_PX
        found.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{text_y + 4}" y2="{y(0.0):.1f}" stroke="{colour}" '
            'stroke-opacity="0.45" stroke-dasharray="3 3"/>'
            f'<circle cx="{at:.1f}" cy="{y(0.0):.1f}" r="3" fill="{colour}"/>'
            f'<text x="{start + 4:.1f}" y="{text_y}" fill="{colour}" stroke="#ffffff" stroke-width="4" '
            f'paint-order="stroke">{escape(event.text)}</text>'
        )
    return found
