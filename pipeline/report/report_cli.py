"""The command `kensa cloud report`: arguments in, exit code out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import OperatorError
from pipeline.analytics.analytics_cli import add_limit_options, open_engine
from pipeline.report.plant_report.plant_data import collect_plant_data
from pipeline.report.plant_report.plant_page import render_plant_report

if TYPE_CHECKING:
    from collections.abc import Sequence


def report(argv: Sequence[str]) -> int:
    """Run `kensa cloud report`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="kensa cloud report", description="Write the plant's report: one self-contained HTML page."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the tables")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    parser.add_argument("--site", default="*", help="only this site")
    parser.add_argument("--from", dest="first", metavar="DAY", help="first day (default: the data's)")
    parser.add_argument("--to", dest="last", metavar="DAY", help="last day (default: the data's)")
    add_limit_options(parser)
    return _report(parser.parse_args(argv))


def _report(arguments: argparse.Namespace) -> int:
    window = {"first_day": arguments.first, "last_day": arguments.last, "site": arguments.site}
    with open_engine(arguments) as lake:
        plant = collect_plant_data(lake, {key: value for key, value in window.items() if value is not None})
    page = render_plant_report(plant)
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{arguments.out} cannot be written: {error.strerror}.") from error
    print(f"{arguments.out}: {len(page) / 1000:.0f} kB")
    return 0
