"""Environment variables of the agent's child processes: this Kensa, and no more than they need."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import agent

# Besides these, all AWS_*: credentials, region and endpoint for S3. Proxies and authorities as every program has them.
_PASSED_ON: Final = frozenset(
    {"HOME", "LANG", "LC_ALL", "PATH", "TZ", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR"}
    | {name for proxy in ("http_proxy", "https_proxy", "no_proxy", "all_proxy") for name in (proxy, proxy.upper())}
)


_SELF_TEST: Final = frozenset({"PATH", "LD_LIBRARY_PATH"})
# Every thread's stack counts as address space, and the line needs the cores.
_ONE_THREAD: Final = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def make_environment() -> dict[str, str]:
    """Return the environment of a child that uses the network: credentials and proxies as here."""
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("AWS_")}
    return {**kept, **_ONE_THREAD, "PYTHONPATH": _root()}


def make_isolated_environment() -> dict[str, str]:
    """Return the environment of a child that reads files only: no credentials, no proxies, no home."""
    kept = {name: os.environ[name] for name in _SELF_TEST if name in os.environ}
    return {**kept, **_ONE_THREAD, "PYTHONPATH": _root(), "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"}


def _root() -> str:
    """Return the folder of this very Kensa, installed or a checkout."""
    return str(Path(agent.__file__).resolve().parent.parent)
