"""Without descriptors, memory, threads or disk nothing stops for good or is lost uncounted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 280.0

_FROM_THE_START = """
import json, resource, sys, time
from pathlib import Path
from agent import app
from tests.fault.exhaustion_child import all_go_on, until, write_line
given = write_line(Path(sys.argv[1]), cameras=64)
agent = app.build(given)
before = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
with agent:
    until(lambda: any("LimitNOFILE" in str(view.capture.status.last_error) for view in agent.cameras.values()))
    errors = [str(view.capture.status.last_error) for view in agent.cameras.values()]
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    went_on = all_go_on(agent)
    states = sorted({str(view.capture.status.state) for view in agent.cameras.values()})
    ended = agent.wait(0.1)
sys.stdout.write(json.dumps([went_on, states, ended, agent.supervisor.failure is None, errors]))
"""


def child(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", ["descriptors", "memory", "threads", "disk"])
def test_a_line_goes_on_whole_once_the_machine_has_again_what_it_had_run_out_of(tmp_path: Path, what: str) -> None:
    found = child("-m", "tests.fault.exhaustion_child", str(tmp_path), what, "1")
    assert found["went_on"], found
    assert found["states"] == ["running"]
    assert found["threads_lost"] == []
    assert found["answers"]
    assert found["storage_ok"]
    assert found["ended"] is None
    assert found["clean"]
    assert (found["pending"], found["unaccounted"], found["verdicts_lost"]) == (0, 0, 0)


def test_a_run_may_open_as_many_files_as_the_administrator_allows() -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (50, 200));"
        "from agent.health.open_files import raise_open_file_limit; raise_open_file_limit();"
        "sys.stdout.write(str(list(resource.getrlimit(resource.RLIMIT_NOFILE))))"
    )
    assert child("-c", code) == [200, 200]


def test_of_64_cameras_with_64_descriptors_none_dies_and_each_says_what_to_raise(tmp_path: Path) -> None:
    went_on, states, ended, no_failure, errors = child("-c", _FROM_THE_START, str(tmp_path))
    assert any("raise its limit (ulimit -n; LimitNOFILE" in error for error in errors)
    assert went_on
    assert states == ["running"]
    assert ended is None
    assert no_failure
