"""The metrics endpoint: loopback only, standard names, one snapshot a scrape, sums that add up."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.adapters.prometheus import HOST, MetricsServer, buckets
from agent.counters import LatencyHistogram
from agent.errors import ConfigError
from agent.health.snapshot import InspectionSnapshot
from agent.records import CameraState, Outcome
from agent.wire import CollectionHealth
from agent.wire.collected_frame import CollectReason
from tests.kits.health_snapshots import IDENTITY, camera_snapshot, counters, overrun, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.health.snapshot import AgentSnapshot

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
TOP = (("camera", "cam"), ("inspection", "top"))


def scrape(take: Callable[[], AgentSnapshot]) -> tuple[Samples, str]:
    server = MetricsServer(identity=IDENTITY, snapshot=take, port=0)
    port = server.start()
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    finally:
        server.close()
        server.close()
    families = text_string_to_metric_families(text)
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}, text


def one_camera() -> AgentSnapshot:
    camera = counters({Outcome.OK: 5, Outcome.DEFECT: 2}, latency_us=3_000, waiting=3)
    overrun(camera, 4)
    return snapshot(camera_snapshot("cam", camera, stalls=1, reopenings=2))


def test_a_cameras_frames_add_up() -> None:
    samples, _ = scrape(one_camera)

    captured = samples["kensa_frames_captured_total", TOP]
    inspected = sum(
        v for (name, labels), v in samples.items() if name == "kensa_verdicts_total" and set(TOP) < set(labels)
    )
    dropped = samples["kensa_frames_dropped_total", (*TOP, ("reason", "overrun"))]
    assert (captured, inspected, dropped) == (14, 7, 4)
    assert captured == inspected + dropped + samples["kensa_frames_pending", TOP]
    assert samples["kensa_verdicts_total", (*TOP, ("outcome", "defect"))] == 2


def test_the_latency_histogram_is_cumulative_and_complete() -> None:
    samples, _ = scrape(one_camera)
    edges = {
        float(dict(labels)["le"]): value for (name, labels), value in samples.items() if name.endswith("seconds_bucket")
    }

    assert samples["kensa_verdict_latency_seconds_count", TOP] == 7
    assert samples["kensa_verdict_latency_seconds_sum", TOP] == pytest.approx(0.021)
    assert edges[0.002048] == 0
    assert edges[0.004096] == 7
    assert edges[float("inf")] == 7
    assert [edges[e] for e in sorted(edges)] == sorted(edges.values())


@pytest.mark.parametrize("latency_us", [1, 255, 256, 257, 300, 511, 512, 1_000_000, 16_777_215, 60_000_000])
def test_every_latency_is_counted_below_an_edge_that_it_does_not_exceed(latency_us: int) -> None:
    histogram = LatencyHistogram()
    histogram.record(latency_us)

    first = next(float(edge) for edge, count in buckets(histogram.buckets()) if count)

    assert latency_us / 1e6 <= first
    assert first == float("inf") or first <= max(256, 2.01 * latency_us) / 1e6


def test_state_model_transport_outbox_and_process_are_there() -> None:
    samples, text = scrape(one_camera)

    assert samples["kensa_camera_state", (*TOP[:1], *TOP[1:], ("kensa_camera_state", "running"))] == 1
    assert sum(v for (name, _), v in samples.items() if name == "kensa_camera_state") == 1
    assert samples["kensa_transport_up", ()] == 1
    assert samples["kensa_outbox_verdicts", ()] == 40
    assert samples["kensa_outbox_oldest_age_seconds", ()] == 1.5
    assert samples["kensa_temperature_celsius", ()] == 61.5
    assert samples["kensa_camera_stalls_total", TOP] == 1
    assert samples["kensa_frame_pool_misses_total", (("inspection", "top"),)] == 1
    assert samples["process_resident_memory_bytes", ()] > 1e6
    assert 'kensa_model_info{inspection="top",model="plates"' in text
    assert 'trusted="true"' in text
    assert 'version="9.8.7"' in text


def test_the_lifecycle_and_its_alarm_are_there_with_updates() -> None:
    safe = InspectionSnapshot("top", None, None, state="no_model", candidate="plates/1.3.0", alarm="No model loads")
    samples, text = scrape(lambda: snapshot(inspections=(safe,)))

    assert samples["kensa_model_alarm", (("inspection", "top"),)] == 1
    assert 'kensa_model_lifecycle_info{candidate="plates/1.3.0",inspection="top",state="no_model"}' in text


def test_what_is_not_there_is_left_out() -> None:
    camera = camera_snapshot("cam", counters({}), state=CameraState.CONNECTING)
    samples, text = scrape(
        lambda: snapshot(camera, transport="none", inspections=(InspectionSnapshot("top", None, None),))
    )

    assert ("kensa_transport_up", ()) not in samples
    assert "kensa_model_info{" not in text
    assert "kensa_model_lifecycle_info{" not in text
    assert samples["kensa_verdict_latency_seconds_count", TOP] == 0


def test_each_scrape_takes_one_snapshot_and_starting_takes_none() -> None:
    taken: list[AgentSnapshot] = []

    def take() -> AgentSnapshot:
        taken.append(one_camera())
        return taken[-1]

    scrape(take)

    assert len(taken) == 1


def test_the_default_registry_stays_clean() -> None:
    before = prometheus_client.generate_latest()
    names = {line.split("{")[0].split(" ")[0] for line in before.decode().splitlines() if not line.startswith("#")}
    scrape(one_camera)

    after = prometheus_client.generate_latest().decode()
    assert "kensa_" not in after
    assert {n.split("{")[0].split(" ")[0] for n in after.splitlines() if not n.startswith("#")} == names


def test_collected_frames_are_there_where_they_are_collected() -> None:
    assert "kensa_collect" not in scrape(one_camera)[1]
    health = CollectionHealth(
        kept={CollectReason.DEFECT: 7}, dropped={"budget": 2}, skipped={"busy": 3}, uploaded=5, waiting=2,
        waiting_bytes=900, day_bytes=4_000, error="the network is away",
    )  # fmt: skip
    samples, _ = scrape(lambda: snapshot(collection=health))
    assert samples["kensa_collected_frames_total", (("reason", "defect"),)] == 7
    assert samples["kensa_collected_frames_lost_total", (("cause", "budget"),)] == 2
    assert samples["kensa_collected_frames_lost_total", (("cause", "busy"),)] == 3
    assert samples["kensa_collected_frames_uploaded_total", ()] == 5
    assert samples["kensa_collected_day_bytes", ()] == 4_000
    assert samples["kensa_collection_stuck", ()] == 1


def test_only_this_machine_is_served() -> None:
    server = MetricsServer(identity=IDENTITY, snapshot=one_camera, port=0)
    server.start()
    try:
        assert server._server.server_address[0] == "127.0.0.1"
    finally:
        server.close()


def test_a_port_in_use_is_refused_with_the_remedy() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigError, match=rf"metrics.port: 127.0.0.1:{port} cannot be served.*Choose another port"):
            MetricsServer(identity=IDENTITY, snapshot=one_camera, port=port).start()


def test_the_client_library_is_loaded_only_with_the_adapter() -> None:
    program = (
        "import sys, agent.health.heartbeat_publisher, agent.health.process_usage; assert "
        "'prometheus_client' not in sys.modules;"
        "import agent.adapters.prometheus; assert 'prometheus_client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
