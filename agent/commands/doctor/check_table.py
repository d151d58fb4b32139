"""The checks of `kensa doctor`, in the order in which they depend on each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agent.commands.doctor.checks import collection_target, greengrass_component, releases
from agent.commands.doctor.checks.line import (
    broker_connection,
    broker_topics,
    camera_frames,
    camera_passwords,
    certificates,
    metrics_port,
    running_agent,
)
from agent.commands.doctor.checks.machine import processor, python_libraries, python_version, system_clock
from agent.commands.doctor.checks.storage import disk_space, file_system, state_dir_access
from agent.commands.doctor.checks.updates import last_model_state, release_repository, trust_dir, trust_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.commands.doctor.check_context import CheckContext
    from agent.commands.doctor.check_result import CheckResult

MACHINE_CHECKS: Final[tuple[Callable[[], CheckResult], ...]] = (
    python_version.run_check,
    python_libraries.run_check,
    processor.run_check,
    system_clock.run_check,
)
SITE_CHECKS: Final[tuple[Callable[[CheckContext], Iterator[CheckResult]], ...]] = (
    state_dir_access.run_checks,
    file_system.run_checks,
    disk_space.run_checks,
    metrics_port.run_checks,
    greengrass_component.run_checks,
    releases.run_checks,
    trust_root.run_checks,
    trust_dir.run_checks,
    release_repository.run_checks,
    last_model_state.run_checks,
    collection_target.run_checks,
    certificates.run_checks,
    camera_passwords.run_checks,
    running_agent.run_checks,
    camera_frames.run_checks,
    broker_connection.run_checks,
    broker_topics.run_checks,
)
