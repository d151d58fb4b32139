"""The files that a demo leaves behind: its folder, log, last screen and report."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from agent.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCREEN_NAME: Final = "screen.svg"
REPORT_NAME: Final = "report.json"


def prepare_folder(out: Path, marker: Path, *left: Path) -> None:
    """Make the folder `out` and remove `left`, the folders of the last demo.

    Raises OperatorError where the first of them exists without the file `marker`, which every demo writes, and where
    `out` cannot be used.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if left[0].exists() and not marker.is_file():
            msg = f"--out {out} holds a folder {left[0].name!r} that no demo made. Give another folder"
            raise OperatorError(msg)
        for folder in left:
            if folder.exists():
                shutil.rmtree(folder)
    except OSError as error:
        msg = f"--out {out} cannot be used: {error.strerror}. Give a folder that you may write to"
        raise OperatorError(msg) from error


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the log to a file meanwhile: on the terminal it would tear the view."""
    root = logging.getLogger()
    before = root.handlers[:]
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers[:] = [handler]
    try:
        yield
    finally:
        root.handlers[:] = before
        handler.close()


def write_report(out: Path, values: dict[str, Any], *, screen_svg: str | None) -> None:
    """Write the report, and the last screen where there is one."""
    if screen_svg is not None:
        (out / SCREEN_NAME).write_text(screen_svg, encoding="utf-8")
    (out / REPORT_NAME).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
