"""A release's figures as a short Markdown page for the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agent.release.manifest import Manifest

HEADLINE_METRICS: Final = ("accuracy", "macro_f1", "auroc", "escape_rate", "false_reject_rate", "localisation_hit_rate")
_LEVELS: Final = ("weak", "medium", "strong")


def format_percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def difficulty_levels(kinds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The difficulties that occur, the weakest first."""
    found = {level for row in kinds.values() for level in row}
    return sorted(found, key=lambda name: (_LEVELS.index(name) if name in _LEVELS else len(_LEVELS), name))


def render_markdown(manifest: Manifest, figures: Mapping[str, Any], split: str) -> str:
    """Return the page. `figures` are those of `kensa evaluate --json`."""
    model, fp32 = manifest.files["model.onnx"], figures.get("fp32", {})
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"`model.onnx`: {model.length_bytes:,} bytes, sha256 `{model.sha256}`.",
        f"Judged on {figures['images']:,} pictures of split `{split}`. Written by `kensa evaluate --markdown`.",
        "",
        "| figure | int8 | fp32 |",
        "|---|---|---|",
    ]
    lines += [
        f"| {key.replace('_', ' ')} | {format_percent(figures[key])} | {format_percent(fp32.get(key))} |"
        for key in HEADLINE_METRICS
        if figures.get(key) is not None
    ]
    lines += [
        f"| recall {name} | {format_percent(value)} | {format_percent(fp32.get('recall', {}).get(name))} |"
        for name, value in figures["recall"].items()
    ]
    lines += [f"| agreement of int8 with fp32 | {format_percent(figures.get('int8_agreement'))} | |", ""]
    return "\n".join([*lines, *_kinds(figures.get("recall_by_kind", {}))])


def _kinds(kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterable[str]:
    if not kinds:
        return
    columns = difficulty_levels(kinds)
    yield f"| recall by kind | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for kind, row in kinds.items():
        cells = [f"{format_percent(row[x]['recall'], 1)} of {row[x]['parts']}" if x in row else "–" for x in columns]
        yield f"| {kind} | {' | '.join(cells)} |"
    yield ""
