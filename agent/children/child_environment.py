"""What a child process of the agent gets: this very Kensa, and no more of the environment than it needs."""

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


def make_environment() -> dict[str, str]:
    """For a child that reaches out: credentials and proxies as here, and one thread for number crunching."""
    kept = {name: value for name, value in os.environ.items() if name in _PASSED_ON or name.startswith("AWS_")}
    here = str(Path(agent.__file__).resolve().parent.parent)
    return {**kept, "PYTHONPATH": here, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
