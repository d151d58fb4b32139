"""Entry point of the self-test process: reads one request, writes stages and one answer."""

from __future__ import annotations

import os
import sys

from agent.children.selftest_protocol import SelfTestRequest
from agent.selftest.outcome_report import run_and_report
from agent.selftest.process_limits import limit_process
from agent.selftest.self_test import run_self_test


def main() -> int:
    """Answer one request."""
    request = SelfTestRequest.from_json(sys.stdin.buffer.read())
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # output printed by a library must not pass for an answer
    limit_process(request.limits, parent=request.parent)
    answers.write(run_and_report(lambda stage: run_self_test(request, stage), answers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
