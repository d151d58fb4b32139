"""The charts of all pages, as inline SVG: numbers and dates in, text out.

Promise: nothing to load, no script, every text escaped, and equal bytes for equal numbers. Colours are classes of
`templates/style.css` (`c0` to `c7`, `good`, `bad`, `h0` to `h2`), so that a chart follows the reader's light or dark
screen. A chart without data is the empty string: the page explains why it has none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import date

_COLOURS: Final = 8
_ANNOTATION_ROWS: Final = (12, 25)  # baselines of the annotations' texts, in two rows
_CHARACTER_PX: Final = 6.4  # of the label's font, about
_DRIFT_LEVELS: Final = (0.1, 0.25)  # of a population stability index: moving, changed
_HISTOGRAM_BINS: Final = 40
_QUARTERS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Point:
    """A value of one day; `low` and `high` are its interval, where it has one."""

    day: date
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Annotation:
    """An event of a day, with its text."""

    day: date
    text: str


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """How values are shown: `value * factor` with `digits` and `unit`; signed, as short as can be, without digits."""

    factor: float = 1.0
    digits: int | None = 0
    unit: str = ""

    def text(self, value: float) -> str:
        """The value for a reader."""
        return f"{value * self.factor:{'+.4g' if self.digits is None else f',.{self.digits}f'}}{self.unit}"


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """A value with its interval, in a row of its own; `margin` is a tick at -margin, where there is one."""

    name: str
    value: float
    low: float
    high: float
    style: str  # class of its colour
    margin: float | None = None


@dataclass(frozen=True, slots=True)
class _PlotArea:
    """The size of a chart and the room around its values, in pixels; shares are of the plot, from its lower left."""

    width: int
    height: int
    left: int = 56
    top: int = 14
    right: int = 16
    bottom: int = 30

    def x(self, share: float) -> float:
        return self.left + share * (self.width - self.left - self.right)

    def y(self, share: float) -> float:
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)


# --- parts that all charts share --------------------------------------------------------------------------------------


def colour_class(index: int) -> str:
    """The class of a series' colour."""
    return f"c{index % _COLOURS}"


def _ticks(low: float, high: float, wanted: int = 7) -> list[float]:
    """Round values from `low` to `high`."""
    span = max(high - low, 1e-12)
    step = 10.0 ** math.floor(math.log10(span / wanted))
    step = next(step * m for m in (1, 2, 2.5, 5, 10) if span / (step * m) <= wanted)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(int((high - first * step) / step + 1e-9) + 1)]


def _svg(area: _PlotArea, parts: Iterable[str], title: str) -> str:
    return (
        f"<svg viewBox='0 0 {area.width} {area.height}' width='100%' role='img' aria-label='{escape(title)}'>"
        f"{''.join(parts)}</svg>"
    )


def _legend(keys: Iterable[tuple[str, str]]) -> str:
    """Coloured squares with names; `keys` are pairs of class and name."""
    return (
        "<p class=legend>"
        + "".join(f"<span><i class='{style}'></i>{escape(name)}</span>" for style, name in keys)
        + "</p>"
    )


def _series_legend(names: Iterable[str]) -> str:
    return _legend((colour_class(i), name) for i, name in enumerate(names))


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>" if text else ""


def _text(x: float, y: float, text: str, anchor: str = "middle", style: str = "") -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'"
    return f"<text{f' class={style}' if style else ''} {place}>{escape(text)}</text>"


def _line(style: str, start: tuple[float, float], end: tuple[float, float], title: str = "") -> str:
    places = f"x1='{start[0]:.1f}' y1='{start[1]:.1f}' x2='{end[0]:.1f}' y2='{end[1]:.1f}'"
    return f"<line class='{style}' {places}>{_title(title)}</line>"


def _dot(style: str, x: float, y: float, radius: float, title: str = "") -> str:
    return f"<circle class='fill {style}' cx='{x:.1f}' cy='{y:.1f}' r='{radius:g}'>{_title(title)}</circle>"


def _rect(style: str, x: float, y: float, size: tuple[float, float], title: str = "") -> str:
    place = f"x='{x:.1f}' y='{y:.1f}' width='{size[0]:.1f}' height='{size[1]:.1f}'"
    return f"<rect class='{style}' {place}>{_title(title)}</rect>"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _polyline(style: str, points: Sequence[tuple[float, float]]) -> str:
    return f"<polyline class='line {style}' points='{_path(points)}'/>"


def _grid(area: _PlotArea, ticks: Iterable[tuple[float, str]]) -> list[str]:
    """Horizontal lines at shares of the height, with their labels to the left."""
    parts = []
    for share, label in ticks:
        y = area.y(share)
        parts += [_line("grid", (area.x(0), y), (area.x(1), y)), _text(area.left - 8, y + 4, label, "end")]
    return parts


def _upright_grid(area: _PlotArea, ticks: Iterable[tuple[float, str]]) -> list[str]:
    """Vertical lines at shares of the width, with their labels below."""
    parts = []
    for share, label in ticks:
        x = area.x(share)
        parts += [_line("grid", (x, area.y(0)), (x, area.y(1))), _text(x, area.y(0) + 20, label)]
    return parts


def _day_labels(area: _PlotArea, first: date, last: date) -> list[str]:
    span = (last - first).days
    if not span:
        return [_text(area.x(0.5), area.height - 10, f"{first.day} {first:%b}")]
    days = [(offset, date_after(first, offset)) for offset in range(0, span + 1, max(1, round(span / 8)))]
    return [_text(area.x(offset / span), area.height - 10, f"{day.day} {day:%b}") for offset, day in days]


def date_after(first: date, days: int) -> date:
    """The day `days` after `first`."""
    return first.fromordinal(first.toordinal() + days)


# --- values over days -------------------------------------------------------------------------------------------------


def trend_chart(
    series: Mapping[str, Sequence[Point]],
    marks: Sequence[Annotation],
    axis: ValueFormat,
    title: str,
    *,
    height: int = 320,
) -> str:
    """Lines over days with their intervals as bands; `marks` are dashed lines with a text at the top."""
    area = _PlotArea(1080, height, top=32 if marks else 14)
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    first, last = min(p.day for p in points), max(p.day for p in points)
    low, high = _robust_range(
        [p.value if p.low is None else p.low for p in points], [p.value if p.high is None else p.high for p in points]
    )
    span = max(1, (last - first).days)

    def at(day: date, value: float) -> tuple[float, float]:
        share = min(1.0, max(0.0, (value - low) / (high - low)))
        return area.x((day - first).days / span if last > first else 0.5), area.y(share)

    parts = _grid(area, [((tick - low) / (high - low), axis.text(tick)) for tick in _ticks(low, high)])
    parts += _day_labels(area, first, last)
    parts += _annotations(area, marks, first, span)
    parts += [_band(at, line, colour_class(i)) for i, line in enumerate(series.values())]
    for i, line in enumerate(series.values()):
        parts.append(_polyline(colour_class(i), [at(p.day, p.value) for p in line]))
        if len(line) == 1:  # of which neither line nor band shows anything
            parts.append(_single_point(at, line[0], colour_class(i)))
    return _svg(area, parts, title) + _series_legend(series)


def _band(at: Callable[[date, float], tuple[float, float]], line: Sequence[Point], style: str) -> str:
    upper = [at(p.day, p.high) for p in line if p.high is not None]
    lower = [at(p.day, p.low) for p in reversed(line) if p.low is not None]
    return f"<polygon class='band {style}' points='{_path([*upper, *lower])}'/>" if upper and lower else ""


def _single_point(at: Callable[[date, float], tuple[float, float]], point: Point, style: str) -> str:
    """The only point of a series: a dot, with its interval as an upright line."""
    x, y = at(point.day, point.value)
    low, high = (at(point.day, point.value if end is None else end)[1] for end in (point.low, point.high))
    return _line(f"line {style}", (x, low), (x, high)) + _dot(style, x, y, 4.5)


def _robust_range(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """The axis's ends without the most extreme hundredth of the values: one bad day must not flatten the rest."""
    ordered_low, ordered_high = sorted(lows), sorted(highs)
    cut = len(lows) // 200
    low, high = ordered_low[cut], ordered_high[-1 - cut]
    room = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    return (low - room if low - room > 0 or low < 0 else 0.0), high + room


def _annotations(area: _PlotArea, marks: Sequence[Annotation], first: date, span: int) -> list[str]:
    """Dashed lines; a text that would overlap the one before it is shown only as the line's title."""
    parts, free = [], [-1e9] * len(_ANNOTATION_ROWS)
    for mark in sorted(marks, key=lambda m: m.day):
        x = area.x(min(1.0, max(0.0, (mark.day - first).days / span)))
        parts.append(_line("mark", (x, area.y(0)), (x, area.y(1)), f"{mark.day:%Y-%m-%d}: {mark.text}"))
        half = len(mark.text) * _CHARACTER_PX / 2
        centre = min(max(x, area.left + half), area.width - half - 4)
        row = next((i for i, end in enumerate(free) if centre - half > end), None)
        if row is not None:
            parts.append(_text(centre, _ANNOTATION_ROWS[row], mark.text, style="marked"))
            free[row] = centre + half + 8
    return parts


def heatmap(rows: Mapping[str, Mapping[date, float]], title: str) -> str:
    """A cell for each row and day: how far scores have drifted, in three levels."""
    days = sorted({day for cells in rows.values() for day in cells})
    if not days:
        return ""
    area = _PlotArea(1080, 44 + 18 * len(rows), left=170)
    first = days[0]
    width = (area.x(1) - area.x(0)) / max(1, (days[-1] - first).days + 1)
    parts = []
    for i, (name, cells) in enumerate(rows.items()):
        y = area.top + 18 * i
        parts.append(_text(area.left - 10, y + 13, name, "end"))
        for day, value in cells.items():
            style = f"heat h{sum(value >= level for level in _DRIFT_LEVELS)}"
            x = area.x(0) + (day - first).days * width
            parts.append(_rect(style, x, y + 1, (max(1.0, width - 1), 16), f"{name}, {day}: {value:.2f}"))
    parts += _day_labels(area, first, days[-1])
    names = ("steady, below 0.1", "moving, below 0.25", "changed")
    return _svg(area, parts, title) + _legend((f"heat h{i}", name) for i, name in enumerate(names))


# --- shares and intervals ---------------------------------------------------------------------------------------------


def pareto_chart(bars: Sequence[tuple[str, float]], title: str) -> str:
    """Bars by size, the cumulative share as a line above them."""
    area = _PlotArea(520, 300)
    whole = sum(value for _, value in bars)
    if not whole:
        return ""
    parts = _grid(area, [(tick, f"{100 * tick:.0f} %") for tick in _QUARTERS])
    slot, total, line = 1 / len(bars), 0.0, []
    for i, (name, value) in enumerate(bars):
        total += value
        left, right = area.x(i * slot) + 6, area.x((i + 1) * slot) - 6
        top = area.y(value / whole)
        line.append(((left + right) / 2, area.y(total / whole)))
        parts.append(_rect("fill c0", left, top, (right - left, area.y(0) - top), f"{name}: {value:,.0f}"))
        parts.append(_text((left + right) / 2, area.height - 10, name[:14]))
    parts.append(_polyline("c1", line))
    parts += [_dot("c1", x, y, 3.5) for x, y in line]
    return _svg(area, parts, title) + _series_legend(["share of rejected parts", "cumulative"])


def interval_chart(
    rows: Sequence[IntervalRow], axis: ValueFormat, title: str, *, is_difference: bool = False, note: str = ""
) -> str:
    """Dots with intervals, one row each: from 0 on, or symmetric about 0 when the values are differences.

    `note` stands above the names of a chart of differences.
    """
    if not rows:
        return ""
    if is_difference:
        area = _PlotArea(940, 54 + 20 * len(rows), left=330, top=24)
        high = max(0.01, *(max(abs(r.low), abs(r.high), r.margin or 0.0) for r in rows))
        low, wanted = -high, 9
    else:
        area = _PlotArea(520, 44 + 24 * len(rows), left=130)
        low, high, wanted = 0.0, 1.05 * (max(row.high for row in rows) or 1.0), 7

    def x(value: float) -> float:
        return area.x((value - low) / (high - low))

    parts = _upright_grid(area, [((t - low) / (high - low), axis.text(t)) for t in _ticks(low, high, wanted)])
    if is_difference:
        parts += [_line("zero", (x(0.0), area.y(0)), (x(0.0), area.y(1))), _text(area.left - 8, 14, note, "end")]
    step = (area.y(0) - area.y(1)) / len(rows)
    for i, row in enumerate(rows):
        y = area.top + step * (i + 0.5)
        parts.append(_text(area.left - 10, y + 4, row.name, "end"))
        parts.append(_line(f"line {row.style}", (x(row.low), y), (x(row.high), y)))
        if row.margin is not None:
            parts.append(_line("zero", (x(-row.margin), y - 6), (x(-row.margin), y + 6)))
        shown = f"{axis.text(row.value)} ({axis.text(row.low)} to {axis.text(row.high)})"
        parts.append(_dot(row.style, x(row.value), y, 4.5, shown))
    return _svg(area, parts, title)


# --- scores -----------------------------------------------------------------------------------------------------------


def _score_area(horizontal: str, vertical: str, ticks: Iterable[tuple[float, str]]) -> tuple[_PlotArea, list[str]]:
    """A chart over values in 0..1, with the names of its axes."""
    area = _PlotArea(460, 300, left=48, top=12, right=12, bottom=40)
    parts = _grid(area, ticks)
    parts += [_text(area.x(value), area.y(0) + 16, f"{value:g}") for value in _QUARTERS]
    parts.append(_text(area.x(0.5), area.height - 6, horizontal))
    turned = f"transform='translate(12 {area.y(0.5):.1f}) rotate(-90)' text-anchor='middle'"
    return area, [*parts, f"<text {turned}>{escape(vertical)}</text>"]


def precision_recall_curves(lines: Mapping[str, tuple[Iterable[float], Iterable[float]]], title: str) -> str:
    """Precision over recall as steps, one line for each name; the values are (recall, precision)."""
    if not lines:
        return ""
    area, parts = _score_area("recall", "precision", [(v, f"{v:g}") for v in _QUARTERS])
    for i, (recall, precision) in enumerate(lines.values()):
        points: list[tuple[float, float]] = []
        before = 0.0
        for r, p in zip(recall, precision, strict=True):
            points += [(area.x(before), area.y(p)), (area.x(r), area.y(p))]
            before = r
        parts.append(_polyline(colour_class(i), points))
    return _svg(area, parts, title) + _series_legend(lines)


def score_histogram(groups: Mapping[str, Iterable[float]], thresholds: Sequence[float], title: str) -> str:
    """Counts of scores in 0..1 by group on a logarithmic scale; `thresholds` are dashed lines."""
    counts = [_bin_counts(values) for values in groups.values()]
    highest = max([10, *(max(bins) for bins in counts)])
    decades = [10**k for k in range(len(str(highest))) if 10**k <= highest]
    ticks = [(0.0, "0"), *((_log_share(count, highest), str(count)) for count in decades)]
    area, parts = _score_area(title, "images (log)", ticks)
    slot = (area.x(1) - area.x(0)) / _HISTOGRAM_BINS
    for i, bins in enumerate(counts):
        width = slot / len(counts) * 0.9
        for b, count in enumerate(bins):
            if count:
                x, top = area.x(b / _HISTOGRAM_BINS) + i * slot / len(counts), area.y(_log_share(count, highest))
                parts.append(_rect(f"fill {colour_class(i)}", x, top, (width, area.y(0) - top)))
    for threshold in thresholds:
        x = area.x(threshold)
        parts.append(_line("mark", (x, area.y(0)), (x, area.y(1))))
        parts.append(_text(x + 5, area.y(0.95), f"threshold {threshold:.3f}", "start"))
    return _svg(area, parts, title) + _series_legend(groups)


def _bin_counts(values: Iterable[float]) -> list[int]:
    counts = [0] * _HISTOGRAM_BINS
    for value in values:
        if 0.0 <= value <= 1.0:
            counts[min(_HISTOGRAM_BINS - 1, int(value * _HISTOGRAM_BINS))] += 1
    return counts


def _log_share(count: int, highest: int) -> float:
    """Height of a bar: a count of 1 must be visible, so the axis starts at one half of it."""
    return math.log10(2 * count) / math.log10(2 * highest)
