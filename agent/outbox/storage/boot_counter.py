"""The boot epoch: a number for each start of the agent, so that verdict keys never repeat.

Promise: greater than every epoch that this state directory has seen, and never the number of another start anywhere,
whether the directory was wiped, its card was exchanged or copied, two devices share one name, or the clock shows 1970.

A new epoch is the day (15 bits, from 2020-01-01 UTC) followed by 38 random bits, 53 bits together: JSON readers that
use doubles keep every digit. The day makes epochs sort by time where the clock is right, also across a wiped directory;
the random bits make them unique: of 1,000 wiped starts on one day two agree with a probability of 1000^2 / 2 / 2^38 =
2e-6 (the birthday bound). Where the new epoch is not above the newest known one (a second start on a day, a clock that
went back), the newest is increased by a random step of up to 2^32, which distinguishes the starts of a copied card.
"""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING, Final

from agent.durable import replace_durably, usable_directory
from agent.errors import StateDirError
from agent.outbox.storage.verdict_lookup import newest_epoch
from agent.wire.codec import MAX_INT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EPOCH_NAME: Final = "boot_epoch"
_DAY_S: Final = 86_400
_FIRST_DAY: Final = 18_262  # 2020-01-01 in days since 1970
_LAST_DAY: Final = 2**15 - 2  # in the year 2109; the last day is left to steps, so that one always fits
_RANDOM: Final = 2**38
_STEP: Final = 2**32
_log = logging.getLogger(__name__)


def next_boot_epoch(state_dir: Path, *, utc_s: float, draw: Callable[[int], int] = secrets.randbelow) -> int:
    """Return the number of this start, after it was saved.

    `utc_s` is the clock's time, right or not, in seconds since 1970; `draw(n)` returns a random number in [0, n). A
    missing or damaged file is answered from the epochs that outbox and history have seen. The caller holds the state
    directory's lock. Raises StateDirError when the directory cannot be written.
    """
    path = usable_directory(state_dir) / EPOCH_NAME
    try:
        newest = int(path.read_bytes()[:20])
    except FileNotFoundError:
        newest = newest_epoch(state_dir)
    except (OSError, ValueError) as error:
        newest = newest_epoch(state_dir)
        _log.warning("The boot epoch in %s cannot be read (%s); continuing from %d.", path, error, newest)
    day = min(max(0, int(utc_s) // _DAY_S - _FIRST_DAY), _LAST_DAY)
    epoch = day * _RANDOM + draw(_RANDOM)
    if newest >= epoch:
        counted = newest + 1 + draw(_STEP)
        if counted <= MAX_INT:
            epoch = counted
        else:
            _log.warning("The boot epochs of %s are used up at %d; starting again at %d.", state_dir, newest, epoch)
    try:
        replace_durably(path, str(epoch).encode())
    except OSError as error:
        raise StateDirError(f"The boot epoch cannot be saved in {path}: {error.strerror}. Free disk space.") from error
    return epoch
