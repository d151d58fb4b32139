"""Raises the limit of open files of this process as far as its hard limit allows.

A camera takes one to five descriptors, and some systems give a service 64 or 256. More than 1,024 would not help: the
MQTT client waits with select(2), which takes no higher number. The hard limit is the administrator's and is not
changed.
"""

from __future__ import annotations

import resource
from typing import Final

_ENOUGH: Final = 1_024


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, 1,024 at most; return the limit now in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return target
