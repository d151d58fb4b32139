"""Entry point of the collecting child: a first line, then jobs until its input ends; replies go out.

The child runs at the lowest priority. It exits when its standard input ends, which an agent that is killed closes too;
it ignores signals to stop, which the agent handles. The spool is consistent whenever the child ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import threading
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from agent.children.child_limits import limit_process
from agent.children.collect_protocol import (
    MAX_LINE_BYTES,
    MAX_REQUEST_BYTES,
    CollectFailed,
    CollectOrder,
    CollectReply,
    CollectStart,
    JobDone,
    SettingsUpdate,
    StatusUpdate,
    TargetCheck,
    TargetCheckResult,
)
from agent.collection.spool_opening import open_spool
from agent.errors import KensaError, UploadError
from agent.timing.clock import SystemClock
from agent.upload.frame_encoder import encode_and_store
from agent.upload.target_factory import open_target
from agent.upload.uploader import Uploader

if TYPE_CHECKING:
    from agent.children.collect_protocol import CollectSetup, SpoolStatus
    from agent.config import CollectionConfig

_NICE: Final = 19
_output_lock = threading.Lock()


def _lower_priority() -> None:
    """Run only when the machine is idle, and leave signals of terminal and service manager to the agent."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    limit_process(nice=_NICE, limits={})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _report_figures(figures: SpoolStatus) -> None:
    with contextlib.suppress(BrokenPipeError):  # the agent is gone; the main thread notices
        _write_answer(StatusUpdate(figures=figures))


def _write_answer(body: JobDone | StatusUpdate | TargetCheckResult | CollectFailed) -> None:
    line = CollectReply(body=body).model_dump_json() + "\n"
    with _output_lock:
        sys.stdout.write(line)
        sys.stdout.flush()


def _check(settings: CollectionConfig, thing: str) -> TargetCheckResult:
    try:
        target = open_target(settings)
        if target is None:
            return TargetCheckResult(usable=True, text="no target: collected frames stay on this device")
        return target.check(settings.site, thing)
    except UploadError as error:
        return TargetCheckResult(usable=False, text=str(error))


def _work(setup: CollectSetup) -> None:
    clock, settings = SystemClock(), setup.settings
    spool = open_spool(setup.folder, clock=clock)
    sender = Uploader(spool=spool, settings=settings, clock=clock, moved=_report_figures)
    _write_answer(StatusUpdate(figures=sender.figures()))
    sender.start()
    while line := sys.stdin.buffer.readline(MAX_LINE_BYTES):
        order = CollectOrder.model_validate_json(line).body
        if isinstance(order, SettingsUpdate):
            settings = order.settings
            sender.reconfigure(settings)
            continue
        encode_and_store(order, spool=spool, settings=settings, fd=setup.slots[order.slot], boot_epoch=setup.boot_epoch)
        _write_answer(JobDone(number=order.number, figures=sender.figures()))


def main() -> int:
    """Serve one agent."""
    _lower_priority()
    try:
        begin = CollectStart.model_validate_json(sys.stdin.buffer.readline(MAX_REQUEST_BYTES)).body
        if isinstance(begin, TargetCheck):
            _write_answer(_check(begin.settings, begin.thing))
        else:
            _work(begin)
    except ValidationError as error:
        _write_answer(CollectFailed(text=f"an order cannot be read: {error.error_count()} errors"))
    except (KensaError, OSError, sqlite3.Error) as error:
        with contextlib.suppress(BrokenPipeError):  # the agent is gone
            _write_answer(CollectFailed(text=str(error)[:4_096]))
    os._exit(0)  # an upload that is under way is not waited for: it goes on with the next child


if __name__ == "__main__":
    main()
