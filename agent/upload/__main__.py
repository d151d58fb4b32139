"""`python -m agent.upload`: a line says what to do, then come jobs until standard input ends; answers go to the output.

The child gives way to everything else on the machine. It ends with its standard input, which an agent that is killed
closes too; signals to stop are the agent's business. Whatever it is doing then, the spool is whole.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from agent.clock import SystemClock
from agent.collection.opening import open_spool
from agent.collection.protocol import (
    MAX_LINE_BYTES,
    MAX_REQUEST_BYTES,
    Begin,
    Change,
    Check,
    Checked,
    Moved,
    Order,
    Said,
    Taken,
    Unable,
)
from agent.errors import KensaError, UploadError
from agent.upload.keeping import keep
from agent.upload.sending import Sender
from agent.upload.targets import open_target

if TYPE_CHECKING:
    from agent.collection.protocol import Figures, Setup
    from agent.config import Collect

_NICE: Final = 19
_said = threading.Lock()


def _give_way() -> None:
    """Let the workers have the machine, and the terminal and the service manager speak with the agent alone."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _tell(figures: Figures) -> None:
    with contextlib.suppress(BrokenPipeError):  # the agent is gone, and with it the reader; the main thread sees that
        _say(Moved(figures=figures))


def _say(body: Taken | Moved | Checked | Unable) -> None:
    line = Said(body=body).model_dump_json() + "\n"
    with _said:
        sys.stdout.write(line)
        sys.stdout.flush()


def _check(settings: Collect, thing: str) -> Checked:
    try:
        target = open_target(settings)
        if target is None:
            return Checked(usable=True, text="no target: collected frames stay on this device")
        return target.check(settings.site, thing)
    except UploadError as error:
        return Checked(usable=False, text=str(error))


def _work(setup: Setup) -> None:
    clock, settings = SystemClock(), setup.settings
    spool = open_spool(setup.folder, clock=clock)
    sender = Sender(spool=spool, settings=settings, clock=clock, moved=_tell)
    _say(Moved(figures=sender.figures()))
    sender.start()
    while line := sys.stdin.buffer.readline(MAX_LINE_BYTES):
        order = Order.model_validate_json(line).body
        if isinstance(order, Change):
            settings = order.settings
            sender.change(settings)
            continue
        keep(order, spool=spool, settings=settings, fd=setup.slots[order.slot], boot_epoch=setup.boot_epoch)
        _say(Taken(number=order.number, figures=sender.figures()))


def main() -> int:
    """Answer one line."""
    _give_way()
    try:
        begin = Begin.model_validate_json(sys.stdin.buffer.readline(MAX_REQUEST_BYTES)).body
        if isinstance(begin, Check):
            _say(_check(begin.settings, begin.thing))
        else:
            _work(begin)
    except ValidationError as error:
        _say(Unable(text=f"an order cannot be read: {error.error_count()} errors"))
    except (KensaError, OSError, sqlite3.Error) as error:
        with contextlib.suppress(BrokenPipeError):  # the agent is gone
            _say(Unable(text=str(error)[:4_096]))
    os._exit(0)  # an upload that is under way is not waited for: it goes on with the next child


if __name__ == "__main__":
    main()
