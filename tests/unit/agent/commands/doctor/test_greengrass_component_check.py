"""The doctor reads the status file of the Greengrass component, also a damaged or missing one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent import config
from agent.commands.doctor.check_context import CheckContext
from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks import greengrass_component
from agent.wire.component_status import ComponentStatus
from greengrass.capabilities import Capabilities, Capability
from greengrass.component_status import write_status

if TYPE_CHECKING:
    from pathlib import Path

    from agent.commands.doctor.check_result import CheckResult


def status(**changes: Any) -> ComponentStatus:
    nucleus = Capabilities("lite", "2.6.0", frozenset(), frozenset({Capability.SHADOW}))
    return ComponentStatus(
        **{
            "mode": nucleus.mode,
            "version": nucleus.version,
            "present": (),
            "unauthorized": tuple(nucleus.unauthorized),
            "fallbacks": nucleus.fallbacks(),
            "confirmed_by_echo": True,
            "configuration": "c" * 64,
            "refused": None,
            "needs_restart": (),
            **changes,
        }
    )


def findings(state_dir: Path) -> list[CheckResult]:
    inspections = {"top": {"release": "x", "cameras": {"cam": {"kind": "folder", "path": "x"}}}}
    tree = {
        "thing": "t",
        "line": "l",
        "state_dir": str(state_dir),
        "inspections": inspections,
        "transport": {"kind": "none"},
    }
    return list(greengrass_component.run_checks(CheckContext(config.parse(tree, source="test", base=state_dir))))


def test_the_capabilities_of_the_nucleus_and_their_substitutes_are_reported(tmp_path: Path) -> None:
    write_status(tmp_path, status())
    found = findings(tmp_path)
    text = " ".join(finding.seen for finding in found)
    assert "lite 2.6.0" in text
    assert "the shadow is reached by its MQTT topics" in text
    assert {finding.status for finding in found} <= {CheckStatus.OK, CheckStatus.WARN}
    assert any("accessControl" in (finding.remedy or "") for finding in found)


def test_a_refused_configuration_and_a_needed_restart_are_warnings(tmp_path: Path) -> None:
    write_status(tmp_path, status(refused="workers: given 0", needs_restart=("workers",), confirmed_by_echo=False))
    warnings = [finding for finding in findings(tmp_path) if finding.status is CheckStatus.WARN]
    assert any("workers: given 0" in finding.seen for finding in warnings)
    assert any("restart" in (finding.remedy or "") for finding in warnings)
    assert any("echo" in finding.seen for finding in warnings)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"mode": 1})])
def test_a_damaged_file_is_a_warning(tmp_path: Path, content: str) -> None:
    (tmp_path / "greengrass.json").write_text(content)
    assert [finding.status for finding in findings(tmp_path)] == [CheckStatus.WARN]


def test_without_greengrass_there_is_no_finding(tmp_path: Path) -> None:
    assert findings(tmp_path) == []
