"""A forest plot as inline SVG: each slice's difference, its interval, and how far down it may reach."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.comparison.comparison_result import SliceResult

_WIDTH: Final = 940
_LEFT: Final = 330  # of the plot; names stand before it
_RIGHT: Final = 20
_ROW: Final = 20
_MAX_NAME: Final = 40  # characters that fit
_TOP: Final = 24
_GOOD, _BAD, _SOFT, _GRID = "#14795a", "#b8331f", "#5c6b7a", "#dfe5eb"
_STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the axis, shares


def forest_plot(slices: Sequence[SliceResult]) -> str:
    """The chart; "" without slices."""
    if not slices:
        return ""
    reach = max(0.01, *(max(abs(s.low), abs(s.high), s.margin) for s in slices))
    step = next((s for s in _STEPS if reach / s <= 4), 1.0)  # noqa: PLR2004 - four ticks a side can be read
    height = _TOP + _ROW * len(slices) + 26

    def x(value: float) -> float:
        return _LEFT + (value + reach) / (2 * reach) * (_WIDTH - _LEFT - _RIGHT)

    bottom = _TOP + _ROW * len(slices)
    ticks = [i * step for i in range(-int(reach / step), int(reach / step) + 1)]
    parts = [
        f"<line x1='{x(t):.1f}' x2='{x(t):.1f}' y1='{_TOP - 6}' y2='{bottom}' stroke='{_GRID if t else _SOFT}'/>"
        f"<text x='{x(t):.1f}' y='{bottom + 16}' text-anchor='middle'>{100 * t:+g}</text>"
        for t in ticks
    ]
    parts.append(
        f"<text x='{_LEFT - 8}' y='{_TOP - 10}' text-anchor='end'>points against the champion; | is the margin</text>"
    )
    for row, result in enumerate(slices):
        y = _TOP + _ROW * row + _ROW / 2
        colour = _GOOD if result.passed else _BAD
        parts.append(
            f"<text x='{_LEFT - 8}' y='{y + 4:.1f}' text-anchor='end'>{escape(_short(result.slice))}, "
            f"{result.of}, {result.pictures}</text>"
            f"<line x1='{x(result.low):.1f}' x2='{x(result.high):.1f}' y1='{y:.1f}' y2='{y:.1f}' stroke='{colour}' "
            f"stroke-width='2'/><circle cx='{x(result.difference):.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>"
            f"<line x1='{x(-result.margin):.1f}' x2='{x(-result.margin):.1f}' y1='{y - 6:.1f}' y2='{y + 6:.1f}' "
            f"stroke='{_SOFT}' stroke-width='1.5'/>"
        )
    return f"<svg viewBox='0 0 {_WIDTH} {height}' width='100%' role='img'>{''.join(parts)}</svg>"


def _short(name: str) -> str:
    return name if len(name) <= _MAX_NAME else f"{name[: _MAX_NAME - 3]}..."
