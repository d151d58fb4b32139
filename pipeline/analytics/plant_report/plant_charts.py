"""Inline SVG for the plant's report: nothing to load, the same bytes from the same numbers.

Colours are classes that plant.css knows (`c0` to `c7`), so that a chart follows the reader's light or dark screen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

_LEFT, _TOP, _RIGHT, _BOTTOM = 56, 14, 16, 30
_ANNOTATION_ROWS: Final = (12, 25)  # baselines of the marks' texts, in two rows
_CHARACTER_PX: Final = 6.4  # of the label's font, about
_LEVELS: Final = (0.1, 0.25)  # of a population stability index: look, changed


@dataclass(frozen=True, slots=True)
class Point:
    """A value of one day; `low` and `high` are its interval, where it has one."""

    day: date
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """Something that happened."""

    day: date
    text: str


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """How values are shown: `value * factor` with `digits` and `unit`."""

    factor: float = 1.0
    digits: int = 0
    unit: str = ""

    def text(self, value: float) -> str:
        """The value for a reader."""
        return f"{value * self.factor:,.{self.digits}f}{self.unit}"


@dataclass(frozen=True, slots=True)
class _PlotArea:
    """Where a chart's values lie, in pixels."""

    width: int
    height: int
    left: int = _LEFT
    top: int = _TOP

    def x(self, share: float) -> float:
        return self.left + share * (self.width - self.left - _RIGHT)

    def y(self, share: float) -> float:
        return self.height - _BOTTOM - share * (self.height - self.top - _BOTTOM)


def _ticks(low: float, high: float, wanted: int = 7) -> list[float]:
    """Round values from `low` to `high`."""
    span = max(high - low, 1e-12)
    step = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _svg(area: _PlotArea, content: str, title: str) -> str:
    return (
        f"<svg viewBox='0 0 {area.width} {area.height}' width='100%' role='img' aria-label='{escape(title)}'>"
        f"{content}</svg>"
    )


def legend(names: Sequence[str]) -> str:
    """Coloured squares and names, in the charts' order of colours."""
    return (
        "<p class=legend>"
        + "".join(f"<span><i class='c{i % 8}'></i>{escape(name)}</span>" for i, name in enumerate(names))
        + "</p>"
    )


def _days(area: _PlotArea, first: date, last: date) -> str:
    span = max(1, (last - first).days)
    step = max(1, round(span / 8))
    if first == last:
        x, y = area.x(0.5), area.height - 10
        return f"<text x='{x:.1f}' y='{y}' text-anchor='middle'>{first.day} {first:%b}</text>"
    parts = []
    for offset in range(0, span + 1, step):
        day = date_after(first, offset)
        x, y = area.x(offset / span), area.height - 10
        parts.append(f"<text x='{x:.1f}' y='{y}' text-anchor='middle'>{day.day} {day:%b}</text>")
    return "".join(parts)


def date_after(first: date, days: int) -> date:
    """The day `days` after `first`."""
    return first.fromordinal(first.toordinal() + days)


def trend_chart(
    series: Mapping[str, Sequence[Point]],
    marks: Sequence[Annotation],
    axis: ValueFormat,
    title: str,
    *,
    height: int = 320,
) -> str:
    """Lines over days with their intervals as bands; `marks` are dashed lines with a text at the top."""
    area = _PlotArea(1080, height, top=32 if marks else _TOP)
    points = [point for line in series.values() for point in line]
    if not points:
        return "<p class=note>No data.</p>"
    first, last = min(p.day for p in points), max(p.day for p in points)
    lows = [p.value if p.low is None else p.low for p in points]
    highs = [p.value if p.high is None else p.high for p in points]
    low, high = _robust_range(lows, highs)
    span = max(1, (last - first).days)

    def at(day: date, value: float) -> tuple[float, float]:
        return area.x((day - first).days / span if last > first else 0.5), area.y(
            min(1.0, max(0.0, (value - low) / (high - low)))
        )

    parts = [
        f"<line class=grid x1='{area.x(0):.1f}' x2='{area.x(1):.1f}' y1='{at(first, tick)[1]:.1f}' "
        f"y2='{at(first, tick)[1]:.1f}'/><text x='{area.left - 8}' y='{at(first, tick)[1] + 4:.1f}' "
        f"text-anchor='end'>{axis.text(tick)}</text>"
        for tick in _ticks(low, high)
    ]
    parts.append(_days(area, first, last))
    parts += _annotations(area, marks, first, span)
    for i, line in enumerate(series.values()):
        upper = [at(p.day, p.high) for p in line if p.high is not None]
        lower = [at(p.day, p.low) for p in reversed(line) if p.low is not None]
        if upper and lower:
            parts.append(f"<polygon class='band c{i % 8}' points='{_points([*upper, *lower])}'/>")
    for i, line in enumerate(series.values()):
        parts.append(f"<polyline class='line c{i % 8}' points='{_points([at(p.day, p.value) for p in line])}'/>")
        if len(line) == 1:  # of which neither line nor band shows anything
            parts.append(_single_point(at, line[0], i % 8))
    return _svg(area, "".join(parts), title) + legend(list(series))


def _single_point(at: Callable[[date, float], tuple[float, float]], point: Point, colour: int) -> str:
    """The only point of a series: a dot, with its interval as an upright line."""
    x, y = at(point.day, point.value)
    low, high = (at(point.day, point.value if end is None else end)[1] for end in (point.low, point.high))
    upright = f"<line class='line c{colour}' x1='{x:.1f}' x2='{x:.1f}' y1='{low:.1f}' y2='{high:.1f}'/>"
    return f"{upright}<circle class='fill c{colour}' cx='{x:.1f}' cy='{y:.1f}' r='4.5'/>"


def _robust_range(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """The axis's ends: all but the wildest hundredth of the values, so that one bad day does not flatten the rest."""
    ordered_low, ordered_high = sorted(lows), sorted(highs)
    cut = len(lows) // 200
    low, high = ordered_low[cut], ordered_high[-1 - cut]
    room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return (low - room if low - room > 0 or low < 0 else 0.0), high + room


def _points(found: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in found)


def _annotations(area: _PlotArea, marks: Sequence[Annotation], first: date, span: int) -> list[str]:
    """Dashed lines; a text that would run into the one before is left to the lines' titles."""
    parts, free = [], [-1e9] * len(_ANNOTATION_ROWS)
    for mark in sorted(marks, key=lambda m: m.day):
        x = area.x(min(1.0, max(0.0, (mark.day - first).days / span)))
        parts.append(
            f"<line class=mark x1='{x:.1f}' x2='{x:.1f}' y1='{area.y(0):.1f}' y2='{area.y(1):.1f}'>"
            f"<title>{escape(f'{mark.day:%Y-%m-%d}: {mark.text}')}</title></line>"
        )
        half = len(mark.text) * _CHARACTER_PX / 2
        centre = min(max(x, area.left + half), area.width - half - 4)
        row = next((i for i, end in enumerate(free) if centre - half > end), None)
        if row is not None:
            place = f"x='{centre:.1f}' y='{_ANNOTATION_ROWS[row]}' text-anchor='middle'"
            parts.append(f"<text class=marked {place}>{escape(mark.text)}</text>")
            free[row] = centre + half + 8
    return parts


def pareto_chart(bars: Sequence[tuple[str, float]], title: str) -> str:
    """Bars by size, the cumulative share as a line above them."""
    area = _PlotArea(520, 300)
    whole = sum(value for _, value in bars)
    if not whole:
        return "<p class=note>Nothing was rejected.</p>"
    parts = [
        f"<line class=grid x1='{area.x(0):.1f}' x2='{area.x(1):.1f}' y1='{area.y(tick):.1f}' y2='{area.y(tick):.1f}'/>"
        f"<text x='{area.left - 8}' y='{area.y(tick) + 4:.1f}' text-anchor='end'>{100 * tick:.0f} %</text>"
        for tick in (0, 0.25, 0.5, 0.75, 1.0)
    ]
    slot, total, line = 1 / len(bars), 0.0, []
    for i, (name, value) in enumerate(bars):
        total += value
        left, right = area.x(i * slot) + 6, area.x((i + 1) * slot) - 6
        top = area.y(value / whole)
        line.append(((left + right) / 2, area.y(total / whole)))
        parts.append(
            f"<rect class='fill c0' x='{left:.1f}' y='{top:.1f}' width='{right - left:.1f}' "
            f"height='{area.y(0) - top:.1f}' rx='2'><title>{escape(name)}: {value:,.0f}</title></rect>"
            f"<text x='{(left + right) / 2:.1f}' y='{area.height - 10}' text-anchor='middle'>{escape(name[:14])}</text>"
        )
    parts.append(f"<polyline class='line c1' points='{_points(line)}'/>")
    parts += [f"<circle class='fill c1' cx='{x:.1f}' cy='{y:.1f}' r='3.5'/>" for x, y in line]
    return _svg(area, "".join(parts), title) + legend(["share of rejected parts", "cumulative"])


@dataclass(frozen=True, slots=True)
class Whisker:
    """A value with its interval, in a row of its own."""

    name: str
    value: float
    low: float
    high: float
    colour: int


def whisker_chart(rows: Sequence[Whisker], axis: ValueFormat, title: str) -> str:
    """Dots with intervals, from 0 on."""
    if not rows:
        return "<p class=note>No labels have come back yet.</p>"
    area = _PlotArea(520, _TOP + _BOTTOM + 24 * len(rows), left=130)
    high = 1.05 * (max(row.high for row in rows) or 1.0)
    parts = [
        f"<line class=grid x1='{area.x(t / high):.1f}' x2='{area.x(t / high):.1f}' y1='{area.y(0):.1f}' "
        f"y2='{area.y(1):.1f}'/><text x='{area.x(t / high):.1f}' y='{area.height - 10}' text-anchor='middle'>"
        f"{axis.text(t)}</text>"
        for t in _ticks(0.0, high)
    ]
    for i, row in enumerate(rows):
        y = _TOP + 24 * i + 12
        parts.append(
            f"<text x='{area.left - 10}' y='{y + 4}' text-anchor='end'>{escape(row.name)}</text>"
            f"<line class='line c{row.colour % 8}' x1='{area.x(row.low / high):.1f}' "
            f"x2='{area.x(row.high / high):.1f}' y1='{y}' y2='{y}'/>"
            f"<circle class='fill c{row.colour % 8}' cx='{area.x(row.value / high):.1f}' cy='{y}' r='4.5'><title>"
            f"{axis.text(row.value)} ({axis.text(row.low)} to {axis.text(row.high)})</title></circle>"
        )
    return _svg(area, "".join(parts), title)


def heatmap(rows: Mapping[str, Mapping[date, float]], title: str) -> str:
    """A cell for each row and day: how much scores have moved, steady, to look at, or changed."""
    days = sorted({day for cells in rows.values() for day in cells})
    if not days:
        return "<p class=note>Too few days to compare.</p>"
    area = _PlotArea(1080, _TOP + _BOTTOM + 18 * len(rows), left=170)
    first, span = days[0], max(1, (days[-1] - days[0]).days + 1)
    width = (area.x(1) - area.x(0)) / span
    parts = []
    for i, (name, cells) in enumerate(rows.items()):
        y = _TOP + 18 * i
        parts.append(f"<text x='{area.left - 10}' y='{y + 13}' text-anchor='end'>{escape(name)}</text>")
        parts += [
            f"<rect class='heat h{sum(value >= level for level in _LEVELS)}' "
            f"x='{area.x(0) + (day - first).days * width:.1f}' y='{y + 1}' width='{max(1.0, width - 1):.1f}' "
            f"height='16'><title>{escape(name)}, {day}: {value:.2f}</title></rect>"
            for day, value in cells.items()
        ]
    parts.append(_days(area, first, days[-1]))
    keys = "".join(
        f"<span><i class='heat h{i}'></i>{text}</span>"
        for i, text in enumerate(("steady, below 0.1", "look, below 0.25", "changed"))
    )
    return _svg(area, "".join(parts), title) + f"<p class=legend>{keys}</p>"
