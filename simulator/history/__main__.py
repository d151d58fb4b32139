"""`python -m simulator.history --out DIR`: writes a plant's history as tables of the data lake."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from pipeline.progress import ProgressDisplay
from simulator.history.generate import generate_history
from simulator.history.timeline import HistorySettings


def main() -> int:
    """Write one history; returns the exit code."""
    default = HistorySettings()
    parser = argparse.ArgumentParser(prog="python -m simulator.history", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the tables")
    parser.add_argument("--rows", type=int, default=default.rows, help="verdicts, about (default 100,000)")
    parser.add_argument("--days", type=int, default=default.days)
    parser.add_argument("--first-day", type=date.fromisoformat, default=default.first_day)
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    try:
        settings = HistorySettings(rows=given.rows, days=given.days, first_day=given.first_day, seed=given.seed)
        with ProgressDisplay() as display:
            history = generate_history(
                given.out, settings, threads=given.threads, progress=lambda done, total: display("days", done, total)
            )
    except (FileExistsError, ValueError) as error:
        print(f"kensa: {error}", file=sys.stderr)
        return 2
    print(f"{given.out}: {history.verdicts:,} verdicts, {history.labels:,} labels, {history.defects:,} real defects")
    return 0


if __name__ == "__main__":
    sys.exit(main())
