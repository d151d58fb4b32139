"""Names the optimised graph of a model on this machine; the file's name states what it was made for.

A runtime's optimised graph is specific to the model, the runtime's version, its options and the processor. All four
are in the file's name, so that a file of an older runtime, or from another machine, is never found.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import lru_cache
from pathlib import Path
from typing import Final

_KEY_CHARACTERS: Final = 32
_CPUINFO: Final = Path("/proc/cpuinfo")
_CPUINFO_BYTES: Final = 64 * 1024  # the first processor's section is shorter


def optimised_graph_name(model_sha256: str, *, runtime: str, options: str) -> str:
    """`optimised-<key>.onnx` for a model on this processor; `runtime` is name and version, `options` how it is run."""
    canonical = json.dumps([model_sha256, runtime, options, cpu_identity()])
    return f"optimised-{hashlib.sha256(canonical.encode()).hexdigest()[:_KEY_CHARACTERS]}.onnx"


@lru_cache(maxsize=1)
def cpu_identity() -> str:
    """Model name and a digest of the instruction sets of the first processor."""
    found: dict[str, str] = {}
    try:
        with _CPUINFO.open(encoding="utf-8", errors="replace") as file:
            for line in file.read(_CPUINFO_BYTES).splitlines():
                key, _, value = line.partition(":")
                if not line.strip() and found:
                    break  # the second processor follows
                found[key.strip()] = value.strip()
    except OSError:
        pass  # not mounted: the architecture must suffice
    name = found.get("model name") or found.get("CPU part") or "unknown"
    flags = " ".join(sorted((found.get("flags") or found.get("Features") or "").split()))
    return f"{platform.machine()} {name} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"
