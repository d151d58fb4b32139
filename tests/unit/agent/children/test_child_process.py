"""A child process over lines: bounded lines, bounded waits, and nothing of it is left alive."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from agent.children.child_process import ChildProcess, LineBuffer, LineTooLongError, signal_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[[str], ChildProcess]

PATIENCE_S = 20.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[ChildProcess] = []

    def run(program: str) -> ChildProcess:
        (tmp_path / "child_program.py").write_text(program, encoding="utf-8")
        environment = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
        children.append(ChildProcess("child_program", environment=environment, stderr_tail_bytes=5))
        return children[-1]

    yield run
    for child in children:
        child.close()


def answer_of(child: ChildProcess) -> bytes:
    answer, deadline = b"", time.monotonic() + PATIENCE_S
    while child.has_output:
        assert time.monotonic() < deadline
        answer += child.poll(0.1)
    return answer


def test_lines_are_put_together_from_pieces_and_bounded() -> None:
    lines = LineBuffer(8)
    assert [lines.feed(piece) for piece in (b"on", b"e\ntwo", b"\n\n")] == [[], [b"one"], [b"two", b""]]
    with pytest.raises(LineTooLongError, match="more than 8 bytes"):
        lines.feed(b"123456789")


def test_a_child_answers_what_it_was_sent_and_its_last_words_are_kept(start: Start) -> None:
    child = start("import sys\nsys.stdout.write(sys.stdin.read()[::-1])\nsys.stderr.write('so it is')")
    child.send(b"x" * 300_000 + b"y")  # more than a pipe holds
    child.close_input()
    assert answer_of(child) == b"y" + b"x" * 300_000
    assert not child.is_answering
    assert child.describe_exit(wait_s=PATIENCE_S) == "ended with 0"
    assert child.stderr_tail == b"it is"


def test_a_child_that_never_reads_and_never_ends_costs_no_more_than_the_wait(start: Start) -> None:
    child = start("import time\ntime.sleep(1000)")
    child.send(b"x" * 1_000_000)
    began = time.monotonic()
    assert child.poll(0.05) == b""
    assert time.monotonic() - began < PATIENCE_S
    assert not child.has_exited()
    child.close()
    assert child.returncode == -signal.SIGKILL
    assert child.describe_exit(wait_s=0.0) == "was killed by SIGKILL"


def test_what_the_child_started_dies_with_it(start: Start) -> None:
    child = start("import os, time\npid = os.fork()\nif pid: print(pid, flush=True)\ntime.sleep(1000)")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += child.poll(0.1)
    child.close()
    deadline = time.monotonic() + PATIENCE_S
    while is_alive(int(answer)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:  # noqa: PTH123 - it may be gone
            return file.read().split()[2] != "Z"
    except OSError:
        return False


def test_its_input_ends_when_it_is_closed_and_it_gets_time_to_end(start: Start) -> None:
    child = start("import sys\nsys.stdin.read()\nsys.exit(7)")
    child.close(grace_s=PATIENCE_S)
    assert child.returncode == 7


def test_a_signal_without_a_name_has_its_number() -> None:
    assert signal_name(-signal.SIGSEGV) == "SIGSEGV"
    assert signal_name(-200) == "200"
