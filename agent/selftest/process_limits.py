"""Limits of the self-test process: CPU time, memory and files, set before it reads the candidate."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.children import child_limits

if TYPE_CHECKING:
    from agent.release_records import SelfTestLimits

_NICE: Final = 10  # the line goes first
_OPEN_FILES: Final = 64
_FILE_BYTES: Final = 1024**3  # of the optimised graph, the only file that it writes


def limit_process(limits: SelfTestLimits, *, parent: int) -> None:
    """Bound CPU time, address space and files; no core dumps; end with process `parent`. Raises OSError."""
    child_limits.die_with_parent(parent)
    with contextlib.suppress(OSError):  # when memory gets short the kernel takes this process, not the line's
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    cpu_s = max(1, round(limits.cpu_s))
    child_limits.limit_process(
        nice=_NICE,
        limits={
            resource.RLIMIT_CPU: (cpu_s, cpu_s + 5),  # SIGXCPU at the first, SIGKILL at the second
            resource.RLIMIT_AS: limits.memory_bytes,
            resource.RLIMIT_NOFILE: _OPEN_FILES,
            resource.RLIMIT_FSIZE: _FILE_BYTES,
        },
    )
    child_limits.forbid_core_handlers()
