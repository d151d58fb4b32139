"""Folders of the checkout that the simulator runs in. The standard library is enough."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
FIRST_RELEASE: Final = ROOT / "releases" / "first"
DEFAULT_RELEASE: Final = ROOT / "releases" / "default"
