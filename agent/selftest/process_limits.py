"""Limits that the child lays on itself before it touches the candidate; the kernel keeps them from then on."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.release_records import SelfTestLimits

_NICE: Final = 10  # the line goes first
_OPEN_FILES: Final = 64
_FILE_BYTES: Final = 1024**3  # of the optimised graph, the only file that it writes
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_DUMPABLE: Final = 4


def limit_process(limits: SelfTestLimits, *, parent: int) -> None:
    """Bound CPU time, address space, files; no core dumps; end with process `parent`. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        raise ProcessLookupError(f"the parent {parent} is gone")
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # when memory gets short the kernel takes this process, not the line's
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    cpu_s = max(1, round(limits.cpu_s))
    for what, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_CPU, cpu_s, cpu_s + 5),  # SIGXCPU at the first, SIGKILL at the second
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, _OPEN_FILES, _OPEN_FILES),
        (resource.RLIMIT_FSIZE, _FILE_BYTES, _FILE_BYTES),
    ):
        _, most = resource.getrlimit(what)
        if most != resource.RLIM_INFINITY:  # it may already be less than we want
            soft, hard = min(soft, most), min(hard, most)  # noqa: PLW2901 - the pair as it can be set
        resource.setrlimit(what, (soft, hard))
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # a limit of 0 does not stop a core handler that is a program
