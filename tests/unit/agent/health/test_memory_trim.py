from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from agent.health import memory_trim
from agent.images.decode import ImageDecoder, encode_jpeg

_SMAPS = """\
7f00000a0000-7f00000b0000 r-xp 00000000 fe:00 10                         /usr/lib/libtext.so
Rss:                  48 kB
Anonymous:             0 kB
7f00000b0000-7f00000c0000 r--p 00010000 fe:00 10                         /usr/lib/libtext.so
Rss:                  16 kB
Anonymous:             4 kB
7f00000c0000-7f00000d0000 rw-p 00020000 fe:00 10                         /usr/lib/libtext.so
Rss:                  16 kB
Anonymous:             0 kB
7f00000d0000-7f00000e0000 r--s 00000000 fe:00 11                         /var/lib/kensa/outbox.db-shm
Rss:                  16 kB
Anonymous:             0 kB
7f00000e0000-7f00000f0000 r--p 00000000 00:00 0 \n\
Rss:                  16 kB
Anonymous:             0 kB
7f00000f0000-7f0000100000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   8 kB
Anonymous:             0 kB
7f0000100000-7f0000110000 r--p 00000000 fe:00 12                         /usr/lib/locale/with a space
Rss:                   0 kB
Anonymous:             0 kB
7f0000110000-7f0000120000 r--p 00000000 fe:00 12                         /usr/lib/locale/with a space
Rss:                   4 kB
Anonymous:             0 kB
"""


def _file_rss_kb() -> int:
    found = re.search(r"RssFile:\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1])


def test_only_clean_pages_of_read_only_private_file_mappings_are_chosen() -> None:
    assert list(memory_trim.clean_mappings(_SMAPS)) == [
        (0x7F00000A0000, 0x10000, 48 * 1024),
        (0x7F0000110000, 0x10000, 4 * 1024),
    ]


def test_pages_that_were_given_back_come_again_when_they_are_needed() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    decoder = ImageDecoder()
    before = decoder.decode(encode_jpeg(picture, 90), None)
    held = _file_rss_kb()
    given = memory_trim.trim_memory()
    assert given > 0
    assert _file_rss_kb() < held
    assert np.array_equal(decoder.decode(encode_jpeg(picture, 90), None), before)
    assert np.array_equal(cv2.resize(picture, (32, 32)), cv2.resize(picture.copy(), (32, 32)))
    decoder.close()
