"""Checks cameras and broker through the running agent's heartbeat.

A running agent is asked instead of the cameras and the broker: a second user of a camera would be refused, and a second
connection with the same client id would disconnect the agent from the broker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agent import control
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.commands.doctor.checks.line.camera_frames import CONVERT
from agent.condition_log import duration
from agent.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.commands.doctor.check_context import CheckContext


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Ask the agent, where one runs."""
    if context.agent_pid is None:
        return
    yield ok("agent", f"runs on this state directory as process {context.agent_pid}")
    try:
        yield from results_from_agent(control.request(context.config.state_dir, "status"))
    except ControlError as error:
        yield fail("agent answers", str(error), "ask as the user who runs it; if it hangs, restart it")


def results_from_agent(status: Mapping[str, Any]) -> Iterator[CheckResult]:
    """Return the state of cameras and broker in the running agent's heartbeat."""
    beat = status.get("heartbeat")
    if not isinstance(beat, dict):
        raise ControlError("the running agent gave no heartbeat")
    yield from map(_describe_inspection, filter(_is_unhealthy, beat.get("inspections", ())))
    yield from map(_describe_camera, beat["cameras"])
    for held in beat.get("outbox", {}).get("held_back", ()):  # an older agent does not report topics
        seen = f"refused for {duration(held['for_s'])}, its messages wait: {held['reason']}"
        remedy = "allow it in the broker's access rules (AWS IoT Core: the policy of the certificate)"
        yield fail(f"topic {held['topic']}", seen, remedy)
    if beat["transport"] == "up":
        yield ok("broker", "connected, says the running agent")
    elif beat["transport"] == "down":
        reason = beat.get("transport_reason") or "not connected"
        yield fail("broker", f"{reason}, says the running agent", "verdicts wait on disk; check network and broker")
    else:
        yield warn("broker", "transport is none: verdicts stay on this machine", "set transport.kind: mqtt for a plant")


def _is_unhealthy(inspection: Mapping[str, Any]) -> bool:
    return inspection.get("unhealthy") is not None  # an older agent does not report it


def _describe_inspection(inspection: Mapping[str, Any]) -> CheckResult:
    remedy = "its verdicts prove nothing until this is corrected; see docs/operations.md"
    return fail(f"inspection {inspection['inspection']}", f"{inspection['unhealthy']}, says the running agent", remedy)


def _describe_camera(camera: Mapping[str, Any]) -> CheckResult:
    check, error = f"camera {camera['camera']}", camera.get("error")
    seen = f"{camera['state']} at {camera['fps']:.1f} frames/s, says the running agent"
    if camera["state"] not in {"running", "ended"}:
        return fail(check, f"{seen}: {error or 'no frame yet'}", "check power, cable and address of the camera")
    if alarm := camera.get("picture_alarm"):
        return fail(check, f"{seen}; its pictures are {alarm}", "every part is `unknown` until the pictures are good")
    if mismatch := camera.get("image_mismatch"):
        return warn(check, f"{seen}; {mismatch}", "make the pictures like those that the model was trained on")
    if skipped_files := camera.get("skipped_files"):
        return warn(check, f"{seen}; {skipped_files}", CONVERT)
    return ok(check, seen)
