"""Child processes of the campaigns, forked in milliseconds from a preloaded server."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext, ForkServerProcess


def forkserver_context(*modules: str) -> ForkServerContext:
    """Return a context whose server imports `modules` before it forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def start_child(
    context: ForkServerContext, target: Callable[..., None], *arguments: Any, daemon: bool = True, **options: Any
) -> tuple[ForkServerProcess, Connection]:
    """Start `target(*arguments, pipe, **options)`; return the process and the end of the pipe that receives."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=target, args=(*arguments, theirs), kwargs=options, daemon=daemon)
    process.start()
    theirs.close()
    return process, ours
