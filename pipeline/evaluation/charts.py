"""Inline SVG charts: nothing to load, the same bytes from the same numbers."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    Values = npt.NDArray[np.float64]

WIDTH: Final = 460
HEIGHT: Final = 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 46, 12, 12, 40
_COLOURS: Final = ("#1f5fa8", "#b8331f", "#14795a", "#8a4fb0", "#c07a00", "#3a8fa3", "#7a5a3c", "#d1477a")
_BINS: Final = 40
_QUARTERS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)


def _x(share: float) -> float:
    return _LEFT + share * (WIDTH - _LEFT - _RIGHT)


def _y(share: float) -> float:
    return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def _frame(horizontal: str, vertical: str, ticks: Sequence[tuple[float, str]]) -> str:
    parts = [
        f"<line x1='{_x(0):.1f}' x2='{_x(1):.1f}' y1='{_y(share):.1f}' y2='{_y(share):.1f}' stroke='#dfe5eb'/>"
        f"<text x='{_LEFT - 6}' y='{_y(share) + 4:.1f}' text-anchor='end'>{escape(name)}</text>"
        for share, name in ticks
    ]
    parts += [
        f"<text x='{_x(v):.1f}' y='{HEIGHT - _BOTTOM + 16}' text-anchor='middle'>{v:g}</text>"
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    parts.append(f"<text x='{_x(0.5):.1f}' y='{HEIGHT - 6}' text-anchor='middle'>{escape(horizontal)}</text>")
    parts.append(
        f"<text transform='translate(12 {_y(0.5):.1f}) rotate(-90)' text-anchor='middle'>{escape(vertical)}</text>"
    )
    return "".join(parts)


def _svg(content: str, names: Sequence[str]) -> str:
    legend = "".join(
        f"<span style='margin-right:14px;white-space:nowrap;font-size:13px'><i style='display:inline-block;width:12px;"
        f"height:12px;border-radius:3px;background:{_COLOURS[i % len(_COLOURS)]};margin-right:5px'></i>"
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    )
    return f"<svg viewBox='0 0 {WIDTH} {HEIGHT}' width='100%' role='img'>{content}</svg><div>{legend}</div>"


def precision_recall_curves(lines: Mapping[str, tuple[Values, Values]]) -> str:
    """Precision over recall as steps, one line for each name; the values are (recall, precision)."""
    parts = [_frame("recall", "precision", [(v, f"{v:g}") for v in (0, 0.25, 0.5, 0.75, 1)])]
    for i, (recall, precision) in enumerate(lines.values()):
        points = [f"{_x(0):.1f},{_y(float(precision[0])):.1f}"]
        before = 0.0
        for r, p in zip(recall, precision, strict=True):
            points += [f"{_x(before):.1f},{_y(float(p)):.1f}", f"{_x(float(r)):.1f},{_y(float(p)):.1f}"]
            before = float(r)
        colour = _COLOURS[i % len(_COLOURS)]
        parts.append(f"<polyline points='{' '.join(points)}' fill='none' stroke='{colour}' stroke-width='2'/>")
    return _svg("".join(parts), list(lines))


def score_histogram(groups: Mapping[str, Values], marks: Sequence[float], title: str) -> str:
    """Counts of scores in 0..1 by group, on a logarithmic scale; `marks` are thresholds, drawn as dashed lines."""
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    counts = {name: np.histogram(values, edges)[0] for name, values in groups.items()}
    highest = max([10, *(int(c.max()) for c in counts.values())])
    decades = int(np.ceil(np.log10(highest)))
    ticks = [(0.0, "0"), *((_log_share(10**k, highest), str(10**k)) for k in range(decades + 1) if 10**k <= highest)]
    parts = [_frame(title, "pictures (log)", ticks)]
    slot = (_x(1) - _x(0)) / _BINS
    for i, found in enumerate(counts.values()):
        width = slot / len(counts) * 0.9
        for b, count in enumerate(found):
            if count:
                top = _y(_log_share(int(count), highest))
                x = _x(edges[b]) + i * slot / len(counts)
                parts.append(
                    f"<rect x='{x:.1f}' y='{top:.1f}' width='{width:.1f}' height='{_y(0) - top:.1f}' "
                    f"fill='{_COLOURS[i % len(_COLOURS)]}'/>"
                )
    parts += [
        f"<line x1='{_x(mark):.1f}' x2='{_x(mark):.1f}' y1='{_y(0):.1f}' y2='{_y(1):.1f}' stroke='#1d2733' "
        f"stroke-dasharray='5 4'/><text x='{_x(mark) + 5:.1f}' y='{_y(0.95):.1f}'>threshold {mark:.3f}</text>"
        for mark in marks
    ]
    return _svg("".join(parts), list(groups))


def _log_share(count: int, highest: int) -> float:
    """Height of a bar: a count of 1 must be visible, so the axis starts at one half of it."""
    return float(np.log10(2 * count) / np.log10(2 * highest))
