"""The boot epoch: a counter on disk that grows with every start, so that sequence numbers never repeat."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from agent.durable import replace_durably, usable_directory
from agent.errors import StateDirError
from agent.outbox.lookup import newest_epoch

if TYPE_CHECKING:
    from pathlib import Path

EPOCH_NAME: Final = "boot_epoch"
_log = logging.getLogger(__name__)


def next_boot_epoch(state_dir: Path) -> int:
    """Return a number greater than that of any start before, and keep it before returning.

    A missing or damaged file is answered from the epochs that outbox and history have seen. The caller holds the
    state directory's lock. Raises StateDirError when the directory cannot be written.
    """
    path = usable_directory(state_dir) / EPOCH_NAME
    try:
        epoch = int(path.read_bytes()[:20])
    except FileNotFoundError:
        epoch = newest_epoch(state_dir)
    except (OSError, ValueError) as error:
        epoch = newest_epoch(state_dir)
        _log.warning("The boot epoch in %s cannot be read (%s); counting on from %d.", path, error, epoch)
    epoch += 1
    try:
        replace_durably(path, str(epoch).encode())
    except OSError as error:
        raise StateDirError(f"The boot epoch cannot be kept in {path}: {error.strerror}. Free disk space.") from error
    return epoch
