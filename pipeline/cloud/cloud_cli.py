"""`kensa cloud`: dispatches the commands of the cloud side, one for each step of the cycle.

The Lambda handlers of pipeline/cycle call the same functions, so their work can also be done by hand.
A command's module is imported on demand: `kensa cloud query` needs no torch, `kensa cloud dataset` no DuckDB.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agent.errors import KensaError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE_EXIT: Final = 64


@dataclass(frozen=True, slots=True)
class _Command:
    target: str  # module:function; takes the arguments after the command's name, returns the exit code
    summary: str


COMMANDS: Final[dict[str, _Command]] = {
    "query": _Command("pipeline.analytics.analytics_cli:query", "run one of the queries of pipeline/analytics/sql"),
    "ingest": _Command("pipeline.ingest.ingest_cli:main", "append messages to the tables, or refresh the labels"),
    "report": _Command("pipeline.report.report_cli:report", "write the report page of a plant"),
    "collected": _Command("pipeline.datasets.dataset_cli:collected", "carry collected frames on a disk"),
    "labels": _Command("pipeline.datasets.dataset_cli:labels", "import, export and compare labels"),
    "dataset": _Command("pipeline.datasets.dataset_cli:dataset", "build, compare and show data set versions"),
    "registry": _Command("pipeline.selection.selection_cli:registry", "list, approve and reject candidates"),
    "reproduce": _Command("pipeline.selection.selection_cli:reproduce", "train a registered version again and compare"),
    "cycle": _Command("pipeline.cycle.cycle_cli:main", "start, show, approve and stop improvement cycles"),
    "cost": _Command("pipeline.infra.cost_estimate:main", "estimate the monthly cost of a plant's stack"),
}


def main(argv: Sequence[str]) -> int:
    """Run `kensa cloud COMMAND ...`; returns the exit code. Expected errors go to standard error."""
    name = argv[0] if argv else "--help"
    if name in {"-h", "--help"}:
        print("usage: kensa cloud COMMAND [ARGUMENTS]\n\ncommands:")
        print("\n".join(f"  {key:<12}{command.summary}" for key, command in COMMANDS.items()))
        return 0 if argv else _USAGE_EXIT
    if name not in COMMANDS:
        print(f"kensa cloud: there is no command {name!r}. There are: {', '.join(COMMANDS)}.", file=sys.stderr)
        return _USAGE_EXIT
    module, _, function = COMMANDS[name].target.partition(":")
    try:
        return int(getattr(_load(module), function)(list(argv[1:])))
    except KensaError as error:
        print(f"kensa: {error}", file=sys.stderr)
        return error.exit_code


def _load(module: str) -> object:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] in {"pipeline", "agent"}:
            raise
        raise MissingExtraError(
            f"{missing} is not installed. Install the extra `cloud`: in the checkout, pip install -e '.[cloud]'."
        ) from error
