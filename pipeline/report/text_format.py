"""Formats numbers and names for readers: percentages, points, intervals, counts with their nouns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

HEADLINE_METRICS: Final = ("accuracy", "macro_f1", "auroc", "escape_rate", "false_reject_rate", "localisation_hit_rate")
NO_VALUE: Final = "–"
_LEVELS: Final = ("weak", "medium", "strong")


def format_percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage, or a dash where there is none."""
    return NO_VALUE if value is None else f"{100 * value:.{digits}f} %"


def signed_points(value: float | None, digits: int = 2) -> str:
    """A difference of shares in percentage points with its sign and without the unit, or a dash."""
    return NO_VALUE if value is None else f"{100 * value:+.{digits}f}"


def percentage_points(value: float) -> str:
    """A difference of shares in percentage points, with the unit."""
    return f"{signed_points(value)} points"


def percent_interval(value: Sequence[float] | None, digits: int = 2) -> str:
    """The ends of an interval of a share: `1.20 to 3.40 %`, or nothing."""
    return "" if value is None else f"{100 * value[0]:.{digits}f} to {100 * value[1]:.{digits}f} %"


def count_with_noun(count: float, noun: str) -> str:
    """A number and its noun, in the singular for one: `1 part`, `209 parts`."""
    return f"{count:,.0f} {noun}{'' if round(count) == 1 else 's'}"


def metric_name(key: str) -> str:
    """The key of a metric as text: `macro_f1` is `macro f1`."""
    return key.replace("_", " ")


def key_values(pairs: Mapping[str, object], separator: str = "=") -> str:
    """Pairs in the order of their keys: `a=1, b=2`."""
    return joined(f"{key}{separator}{value}" for key, value in sorted(pairs.items()))


def joined(texts: Iterable[str]) -> str:
    """Texts with commas between them."""
    return ", ".join(texts)


def difficulty_levels(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The difficulties that occur, the weakest first."""
    found = {level for row in kinds.values() for level in row}
    return sorted(found, key=lambda name: (_LEVELS.index(name) if name in _LEVELS else len(_LEVELS), name))
