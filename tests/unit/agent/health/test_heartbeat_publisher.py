"""A heartbeat tells what happened since the last one, adds up, and never stops the agent."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from agent.errors import TransportError
from agent.health.heartbeat_publisher import HeartbeatPublisher, build_heartbeat
from agent.health.process_usage import ProcessMeter, hottest_c, process_age_s
from agent.health.snapshot import InspectionSnapshot
from agent.records import CameraState, DropReason, Outcome
from agent.timing.clock import SystemClock
from agent.wire import OutboxHealth, decode, encode_heartbeat
from tests.kits.health_snapshots import IDENTITY, camera_snapshot, counters, overrun, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.wire import Heartbeat


def test_it_says_who_what_and_how_much() -> None:
    camera = counters({Outcome.OK: 5, Outcome.DEFECT: 2}, waiting=3)
    overrun(camera, 4)

    beat = build_heartbeat(IDENTITY, previous=None, current=snapshot(camera_snapshot("cam", camera)))

    assert (beat.thing, beat.line, beat.boot_epoch, beat.agent_version) == ("thing-1", "line-1", 3, "9.8.7")
    assert beat.uptime_s == 10.0
    assert beat.utc_us == 1_700_000_000_123_456
    assert (beat.transport, beat.rss_bytes, beat.temperature_c) == ("up", 90_000_000, 61.5)
    assert beat.cpu == 0.5  # 5 s of processor time in 10 s since the start
    assert beat.frames_not_recorded == 2
    health = beat.cameras[0]
    assert (health.captured, health.inspected, health.pending) == (14, 7, 3)
    assert health.dropped == {DropReason.OVERRUN: 4}
    assert (health.inspection, health.state, health.fps) == ("top", CameraState.RUNNING, 30.0)
    assert beat.inspections[0].model == "plates"
    assert beat.inspections[0].trusted


def test_cpu_and_latency_are_those_of_the_interval() -> None:
    camera = counters({Outcome.OK: 100}, latency_us=1_000)
    before = snapshot(camera_snapshot("cam", camera), at_s=11.0, cpu_s=5.0)
    for _ in range(100):
        camera.count_captured()
        camera.count_inspected(Outcome.OK, 50_000)
    after = snapshot(camera_snapshot("cam", camera), at_s=13.0, cpu_s=5.5)

    beat = build_heartbeat(IDENTITY, previous=before, current=after)

    assert beat.cpu == 0.25
    assert beat.latency_p50_us is not None
    assert beat.latency_p99_us is not None
    assert 50_000 <= beat.latency_p50_us <= beat.latency_p99_us <= 57_000


def test_an_interval_without_verdicts_has_no_latency() -> None:
    same = snapshot(camera_snapshot("cam", counters({Outcome.OK: 3})))

    beat = build_heartbeat(IDENTITY, previous=same, current=same)

    assert (beat.latency_p50_us, beat.latency_p99_us, beat.cpu) == (None, None, 0.0)


def test_a_line_without_a_model_says_so() -> None:
    beat = build_heartbeat(
        IDENTITY,
        previous=None,
        current=snapshot(inspections=(InspectionSnapshot("top", None, None),), transport="none"),
    )

    assert beat.inspections[0].model is None
    assert not beat.inspections[0].trusted
    assert beat.transport == "none"


@pytest.mark.parametrize("text", ["x" * 5_000, "検査" * 500, '"\\\n' * 900, "🔧" * 300])
def test_long_errors_are_cut_so_that_the_message_stays_within_its_limit(text: str) -> None:
    camera = camera_snapshot("cam", counters({}), state=CameraState.RECONNECTING, last_error=text)
    current = snapshot(camera, transport="down", transport_reason=text, inference_faults=7, last_inference_fault=text)

    beat = build_heartbeat(IDENTITY, previous=None, current=current)

    assert beat.faults == 7
    for field in (beat.transport_reason, beat.last_fault, beat.cameras[0].error):
        assert field
        assert text.startswith(field)
    for payload in encode_heartbeat(beat):
        decode(payload)


def test_a_clock_that_is_not_set_yet_gives_a_valid_message() -> None:
    current = snapshot(camera_snapshot("cam", counters({})), at_s=0.5)  # before the start, by a broken clock

    beat = build_heartbeat(IDENTITY, previous=None, current=current)

    assert beat.uptime_s == 0.0
    assert beat.cpu == 0.0


# --- thread -----------------------------------------------------------------------------------------------------------


def beating(sink: Callable[[Heartbeat], None], *, period_s: float = 0.05) -> HeartbeatPublisher:
    return HeartbeatPublisher(
        identity=IDENTITY,
        snapshot=lambda: snapshot(camera_snapshot("cam", counters({})), at_s=time.monotonic()),
        sink=sink,
        clock=SystemClock(),
        period_s=period_s,
    )


def test_the_thread_beats_until_it_is_closed() -> None:
    beats: list[Heartbeat] = []
    third = threading.Event()

    def sink(beat: Heartbeat) -> None:
        beats.append(beat)
        if len(beats) == 3:
            third.set()

    thread = beating(sink)
    thread.start()
    assert third.wait(60.0)
    thread.close()
    thread.close()

    seen = len(beats)
    time.sleep(0.15)
    assert len(beats) == seen


def test_a_sink_that_refuses_does_not_end_the_heartbeat() -> None:
    calls: list[int] = []
    third = threading.Event()

    def sink(_: Heartbeat) -> None:
        calls.append(1)
        if len(calls) == 3:
            third.set()
        raise TransportError("The broker is away.")

    thread = beating(sink)
    thread.start()

    assert third.wait(60.0)
    thread.close()


def test_a_slow_sink_makes_it_skip_beats_instead_of_catching_up() -> None:
    times: list[float] = []
    done = threading.Event()

    def sink(_: Heartbeat) -> None:
        times.append(time.monotonic())
        if len(times) == 1:
            time.sleep(0.5)
        if len(times) == 3:
            done.set()

    thread = beating(sink, period_s=0.1)
    thread.start()
    assert done.wait(60.0)
    thread.close()

    assert times[2] - times[1] > 0.05  # a burst of missed beats would come at once


def test_a_last_beat_can_be_sent_after_the_thread_has_ended() -> None:
    beats: list[Heartbeat] = []
    thread = beating(beats.append, period_s=60.0)
    thread.start()
    thread.close()

    thread.publish()
    latest = thread.preview()

    assert len(beats) == 1
    assert latest.cpu == 0.0


# --- process ----------------------------------------------------------------------------------------------------------


def test_this_process_is_measured() -> None:
    usage = ProcessMeter().read()

    assert usage.cpu_s > 0.0
    assert usage.rss_bytes > 5_000_000
    assert usage.memory_used is not None
    assert 0.0 < usage.memory_used <= 1.0
    assert usage.temperature_c is None or -40.0 < usage.temperature_c < 150.0


def test_the_age_of_this_process_is_known_without_a_library() -> None:
    began = psutil.Process().create_time()

    assert process_age_s() == pytest.approx(time.time() - began, abs=1.5)  # psutil counts from a whole second


def test_psutil_is_not_loaded_before_the_first_reading() -> None:
    program = (
        "import sys; from agent.health import process_usage as p; meter = p.ProcessMeter(); p.process_age_s();"
        "assert 'psutil' not in sys.modules; meter.read(); assert 'psutil' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize(
    ("sensors", "expected"),
    [
        ({}, None),
        ({"coretemp": [50.0, 61.0], "nvme": [80.0]}, 61.0),
        ({"nvme": [40.0], "iwlwifi": [44.0]}, 44.0),
        ({"k10temp": [math.nan], "nvme": [255.0, -273.15, 0.0]}, None),
        ({"acpitz": [27.8], "cpu_thermal": [48.0]}, 48.0),
    ],
)
def test_the_processors_sensor_goes_first_and_nonsense_is_ignored(
    sensors: dict[str, list[float]], expected: float | None
) -> None:
    assert hottest_c(sensors) == expected


def test_the_outboxs_state_is_passed_on() -> None:
    outbox = OutboxHealth(rows=1, verdicts=1, bytes=10, oldest_age_s=0.0, evicted=3, storage_error="disk full")

    assert build_heartbeat(IDENTITY, previous=None, current=snapshot(outbox=outbox)).outbox == outbox
