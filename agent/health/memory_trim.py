"""Returns unused resident memory to the kernel.

Three quarters of the libraries' mapped pages (numpy, OpenCV, ONNX Runtime: 40 of 60 MB with one camera) are touched by
imports, kernel registration and graph optimisation, and never again. Promise: only clean pages of read-only, private
file mappings are unmapped. Nothing is lost: a page that is needed again is read from the page cache or the file, as at
its first use. The pages stay in the page cache until the kernel needs the memory, so this lowers the resident memory of
the process (`RssFile`), not what it needs to start. Free heap pages are returned as well (`malloc_trim`): 5 MB where
Python had to compile its modules, and the memory of an old model.
"""

from __future__ import annotations

import ctypes
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SMAPS: Final = Path("/proc/self/smaps")
_MAPPING: Final = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r-[-x]p [0-9a-f]+ \S+ \d+ +/")  # read-only, private, of a file
_ANY_MAPPING: Final = re.compile(r"[0-9a-f]+-[0-9a-f]+ ")
_MADV_DONTNEED: Final = 4  # linux/mman.h, the same on every architecture that the wheels exist for
_log = logging.getLogger(__name__)


def trim_memory() -> int:
    """Unmap pages that can be read again and trim the heap; return the most bytes by which file pages shrank.

    Takes some milliseconds, most of them without the interpreter's lock. Without /proc or glibc it does less.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(ctypes.c_size_t(0))
    try:
        text = _SMAPS.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        _log.debug("%s cannot be read (%s): mapped pages stay", _SMAPS, error.strerror)
        return 0
    given = 0
    for start, length, resident in clean_mappings(text):
        if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED) == 0:
            given += resident
    _log.debug("%.1f MB of clean pages were returned", given / 1e6)
    return given


def clean_mappings(smaps: str) -> Iterator[tuple[int, int, int]]:
    """Yield (address, length, resident) in bytes of the mappings in `smaps` that hold only their file's bytes.

    A mapping with an anonymous page is skipped even when it is read-only: its relocated pointers are in no file.
    """
    start = length = resident = 0
    for line in smaps.splitlines():
        if _ANY_MAPPING.match(line):
            found = _MAPPING.match(line)
            start = int(found[1], 16) if found else 0
            length = int(found[2], 16) - start if found else 0
        elif line.startswith("Rss:"):
            resident = int(line.split()[1]) * 1024
        elif line.startswith("Anonymous:") and start and resident and line.split()[1] == "0":
            yield start, length, resident
