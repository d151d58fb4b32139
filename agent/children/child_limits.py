"""Limits that a child process sets on itself before it reads anything from outside."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_ORPHANED_EXIT_CODE: Final = 3
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_DUMPABLE: Final = 4


def limit_process(*, nice: int, limits: Mapping[int, int | tuple[int, int]]) -> None:
    """Lower the priority by `nice`, forbid core dumps, and set `limits`: soft or (soft, hard) by resource.

    A limit that is lower already stays. Raises OSError.
    """
    os.nice(nice)
    for what, limit in {resource.RLIMIT_CORE: 0, **limits}.items():
        soft, hard = limit if isinstance(limit, tuple) else (limit, limit)
        _, highest = resource.getrlimit(what)
        if highest != resource.RLIM_INFINITY:
            soft, hard = min(soft, highest), min(hard, highest)
        resource.setrlimit(what, (soft, hard))


def forbid_core_handlers() -> None:
    """Let no program that handles core dumps see this process either: RLIMIT_CORE 0 does not stop one."""
    _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when process `parent` dies. Raises OSError."""
    if _libc().prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before the line above
        raise ProcessLookupError(f"the parent {parent} is gone")


def exit_with_input() -> None:
    """Exit when standard input ends, as it does when the parent dies in any way; for a thread of its own."""
    os.read(sys.stdin.fileno(), 1)  # not through sys.stdin, whose lock would disturb the exit
    os._exit(_ORPHANED_EXIT_CODE)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
