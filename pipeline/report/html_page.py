"""Renders the templates of the reports as HTML or Markdown, with outside text escaped.

Promise: equal contexts give equal bytes; a name that the context lacks is an error. A page loads nothing: style, charts
and images are part of it. The only markup that enters a page unescaped are the charts of `pipeline.report.charts`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_LOADER: Final = FileSystemLoader(Path(__file__).parent / "templates")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: `small` stands in grey after `text`; `is_code` sets the text in a fixed-width font."""

    text: str
    small: str = ""
    is_code: bool = False


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A table; without rows the page shows the note `empty` in its place."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    empty: str = ""


@dataclass(frozen=True, slots=True)
class Tile:
    """A number of the page's first row, with the line of text below it."""

    value: str
    name: str


def escape_markdown(text: str) -> str:
    """Text from outside cannot break a table or a page of Markdown."""
    return text.replace("|", "/").replace("\n", " ").replace("<", "&lt;")


_HTML: Final = Environment(
    loader=_LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_MARKDOWN: Final = Environment(
    loader=_LOADER,
    autoescape=False,  # noqa: S701 - no HTML: texts from outside go through the filter `md`
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_MARKDOWN.filters["md"] = escape_markdown


def render_html(template: str, **context: object) -> str:
    """Render NAME.html.j2; the page ends with a newline."""
    return _HTML.get_template(template).render(context) + "\n"


def render_markdown(template: str, **context: object) -> str:
    """Render NAME.md.j2; the page ends with a newline."""
    return _MARKDOWN.get_template(template).render(context).rstrip("\n") + "\n"
