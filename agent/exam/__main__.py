"""Entry of the child process."""

from __future__ import annotations

import os
import sys

from agent.exam.confine import confine
from agent.exam.run import examine
from agent.exam.verdict import fold
from agent.model.exam_request import ExamRequest


def main() -> int:
    """Read the request, answer it."""
    request = ExamRequest.from_json(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints must not look like an answer
    confine(request.limits, parent=request.parent)
    answers.write(fold(lambda stage: examine(request, stage), answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
