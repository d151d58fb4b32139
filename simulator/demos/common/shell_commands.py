"""Shell commands that can be typed where the demo was started.

No PATH and no activated environment is assumed.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from simulator.paths import ROOT


def shell_command(program: str, *arguments: str) -> str:
    """Return the line for `scripts/...` of this checkout, or for `kensa` of the environment that runs this."""
    path = ROOT / program if program.startswith("scripts/") else Path(sys.executable).parent / program
    return shlex.join([_relative_to_cwd(path) if path.exists() else program, *arguments])


def _relative_to_cwd(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
