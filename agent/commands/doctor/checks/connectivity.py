"""The line: every camera delivers a frame that its model can take, and the broker can be reached.

While an agent runs, it is asked instead: a second user of a camera would be refused, and a second connection with the
same client id would throw the agent off the broker.
"""

from __future__ import annotations

import queue
import socket
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent import config as configuration
from agent import preprocess
from agent.adapters.onnx import read_image_limits
from agent.app.factories import make_source, make_transport
from agent.commands.doctor.check_result import CheckResult, CheckStatus, fail, ok, warn
from agent.commands.doctor.checks import certificates
from agent.condition_log import duration
from agent.errors import CameraError, ControlError, FrameError, KensaError, SourceEndedError
from agent.images import plausibility
from agent.release import manifest as manifests
from agent.supervision import ErrorBoundary, ThreadSupervisor
from agent.timing.clock import SystemClock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agent.config import CameraConfig, Config, InspectionConfig
    from agent.ports import FrameSource
    from agent.records import Geometry, Grab, Pixels

_FRAME_S: Final = 10.0  # RTSP and USB cameras need some seconds from opening to the first frame
_CAMERA_TIMEOUT_S: Final = 20.0  # a driver that does not return is left behind after this
_BROKER_S: Final = 10.0
_CONVERT: Final = "save these pictures as PNG, JPEG or BMP, or move them out of the folder"


def results_from_agent(status: Mapping[str, Any]) -> Iterator[CheckResult]:
    """Cameras and broker as the running agent's heartbeat has them."""
    beat = status.get("heartbeat")
    if not isinstance(beat, dict):
        raise ControlError("the running agent gave no heartbeat")
    yield from map(_describe_inspection, filter(_is_unhealthy, beat.get("inspections", ())))
    yield from map(_describe_camera, beat["cameras"])
    for held in beat.get("outbox", {}).get("held_back", ()):  # an older agent says nothing of topics
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
    return inspection.get("unhealthy") is not None  # an older agent says nothing of it


def _describe_inspection(inspection: Mapping[str, Any]) -> CheckResult:
    remedy = "its verdicts prove nothing until this is mended; docs/operations.md says what to look at"
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
        return warn(check, f"{seen}; {skipped_files}", _CONVERT)
    return ok(check, seen)


# --- cameras ----------------------------------------------------------------------------------------------------------


def check_cameras(config: Config) -> Iterator[CheckResult]:
    """Open each camera and take one frame."""
    for inspection in config.inspections.values():
        geometry = _geometry(inspection)
        for name, camera in inspection.cameras.items():
            yield _camera(f"camera {name}", camera, inspection, geometry)


def _geometry(inspection: InspectionConfig) -> Geometry | None:
    try:
        return manifests.read_manifest(inspection.release).geometry.to_record()
    except KensaError:  # has its own finding
        return None


def _camera(check: str, camera: CameraConfig, inspection: InspectionConfig, geometry: Geometry | None) -> CheckResult:
    remedy = "mend the camera or its keys in the configuration; the agent itself would try again and again"
    outcome: list[CheckResult] = []

    def look() -> None:
        try:
            with foreign:
                source = make_source(camera, SystemClock())
                try:
                    found = _first_frame(check, source, camera, inspection, geometry)
                    skipped_files = getattr(source, "skipped_files", None)
                    if skipped_files is not None and found.status is CheckStatus.OK:
                        found = warn(check, f"{found.seen}; {skipped_files}", _CONVERT)
                    outcome.append(found)
                finally:
                    source.close()
        except KensaError as error:
            outcome.append(fail(check, str(error), remedy))

    supervisor = ThreadSupervisor()
    foreign = ErrorBoundary(supervisor, kind="camera", what=check, make=CameraError)  # a plug-in may raise anything
    thread = supervisor.thread(look, kind="doctor", name=f"doctor {check}")
    thread.start()
    thread.join(_CAMERA_TIMEOUT_S)
    return (
        outcome[0] if outcome else fail(check, f"its driver does not return within {_CAMERA_TIMEOUT_S:.0f} s", remedy)
    )


def _first_frame(
    check: str, source: FrameSource, camera: CameraConfig, inspection: InspectionConfig, geometry: Geometry | None
) -> CheckResult:
    """Raises CameraError."""
    began = time.monotonic()
    source.open()
    try:
        grab = _read(source, began + _FRAME_S)
    except FrameError as error:
        return fail(check, f"its first frame cannot be used: {error}", "check format and size that the camera sends")
    except SourceEndedError as error:
        return fail(check, f"it ended before its first frame: {error}", "check path and split of the camera")
    if grab is None:
        return fail(check, f"open, but no frame within {_FRAME_S:.0f} s", "check trigger, exposure and stream settings")
    height, width = grab.pixels.shape[:2]
    mono = grab.pixels.ndim == 2  # noqa: PLR2004
    seen = f"{width}x{height} px {'mono' if mono else 'colour'}, first frame after {time.monotonic() - began:.1f} s"
    if (camera.width or width, camera.height or height) != (width, height):
        declared = f"declared are {camera.width}x{camera.height}"
        return fail(check, f"{seen}, but {declared}: every frame would be dropped", "correct width and height")
    return (
        ok(check, seen)
        if geometry is None
        else _compare_with_golden_set(check, seen, grab.pixels, inspection, geometry)
    )


def _compare_with_golden_set(
    check: str, seen: str, pixels: Pixels, inspection: InspectionConfig, geometry: Geometry
) -> CheckResult:
    """Compare a picture with those that the model was trained on: aspect, size, brightness, contrast."""
    placed = preprocess.Preprocessor(geometry, roi=inspection.roi)
    try:
        plan = placed.plan_for(pixels)
    except FrameError as error:
        return fail(check, f"{seen}, but {error.detail}", "correct the inspection's roi, or the camera's size")
    inputs = np.empty((len(plan.tiles), geometry.height, geometry.width, geometry.channels), np.uint8)
    placed.write_to(pixels, inputs)
    limits = read_image_limits(inspection.release, manifests.read_manifest(inspection.release))
    found = plausibility.measure(inputs)
    if limits is not None and inspection.check_pictures and (fault := plausibility.find_fault(found, limits)):
        remedy = "every part would be `unknown`: correct lamp, lens or exposure, then run this again"
        return fail(check, f"{seen}, but {plausibility.describe_fault(fault, found, limits)}", remedy)
    has_roi = (inspection.roi or geometry.roi) is not None
    squeezed = plausibility.describe_shape_mismatch(geometry, region=(plan.roi[2], plan.roi[3]), has_roi=has_roi)
    light = None if limits is None else plausibility.describe_mismatch(found, limits)
    if problems := [text for text in (squeezed, light) if text]:
        remedy = "the model may reject or pass every part: make the pictures like those that it was trained on"
        return warn(check, f"{seen}; {'; '.join(problems)}", remedy)
    return ok(check, seen)


def _read(source: FrameSource, deadline: float) -> Grab | None:
    while time.monotonic() < deadline:
        grab = source.read(timeout_s=0.5, buffer=None)
        if grab is not None:
            return grab
    return None


# --- broker -----------------------------------------------------------------------------------------------------------


def check_certificates(config: Config) -> Iterator[CheckResult]:
    """Expiry of the broker's CA and of the device's certificate."""
    chosen = config.transport
    if isinstance(chosen, configuration.MqttConfig) and chosen.tls is not None:
        yield certificates.check_certificate("certificate ca", chosen.tls.ca)
        if chosen.tls.certificate is not None:
            yield certificates.check_certificate("certificate device", chosen.tls.certificate)


def check_broker(config: Config) -> CheckResult:
    """Name, TCP, TLS and MQTT, each with its own remedy."""
    chosen = config.transport
    if isinstance(chosen, configuration.NoTransportConfig):
        return warn(
            "broker", "transport is none: verdicts stay on this machine", "set transport.kind: mqtt for a plant"
        )
    where = f"{chosen.host}:{chosen.port}"
    try:
        socket.create_connection((chosen.host, chosen.port), timeout=_BROKER_S).close()
    except socket.gaierror as error:
        return fail("broker", f"{chosen.host} has no address: {error.strerror}", "check transport.host and DNS")
    except OSError as error:
        reason = error.strerror or str(error)
        return fail("broker", f"{where}: {reason}", "is the broker running, and does the firewall let this port out?")
    up, reason = _connect(config)
    if not up:
        return fail("broker", f"{where}: {reason}", "check certificates, user, client id and the broker's own log")
    tls = ""
    if chosen.tls is not None:
        tls = "TLS, " if chosen.tls.certificate is None else "mutual TLS, "
    return ok("broker", f"{where}: {tls}MQTT {chosen.protocol}, connected as {chosen.client_id or config.thing}")


def _connect(config: Config) -> tuple[bool, str]:
    """Connect as the agent would; whether it worked, and why not."""
    try:
        transport = make_transport(config, SystemClock())
    except KensaError as error:
        return False, str(error)
    assert transport is not None  # noqa: S101 - the caller has answered `none`
    answers: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
    transport.start(
        on_ack=lambda _: None,
        on_reject=lambda _token, _reason: None,
        on_connection=lambda up, reason: answers.put((up, reason)),
    )
    try:
        return answers.get(timeout=_BROKER_S)
    except queue.Empty:
        return False, f"no answer to the MQTT connection within {_BROKER_S:.0f} s"
    finally:
        transport.close(timeout_s=2.0)
