"""When the updates of the Greengrass demo begin, how they end, and what its report calls missing."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from agent.records import CameraState, DropReason
from agent.wire import CameraHealth, Heartbeat
from simulator.demos.common.verdict_metrics import VerdictMetrics
from simulator.demos.greengrass.component_status import ComponentStatus
from simulator.demos.greengrass.greengrass_report import GreengrassResult, verify
from simulator.demos.greengrass.greengrass_snapshot import GreengrassSnapshot
from simulator.demos.greengrass.release_catalogue import OfferedRelease, plan_offers
from simulator.demos.greengrass.update_schedule import TIMEOUT_S, ModelUpdate, UpdateSchedule
from simulator.nucleus.deployments.deployment import DeploymentResult
from simulator.nucleus.nucleus import ComponentView
from simulator.probes.verdict_subscriber import CameraCount, SubscriberCounts

GOOD = OfferedRelease("deployment", "1.1.0", "a model", "serving")
BAD = OfferedRelease("deployment", "1.2.0", "a damaged model", "refused")
SHADOW = OfferedRelease("shadow", "1.3.0", "a model", "serving")


def reading(**changes: Any) -> ComponentStatus:
    camera = CameraHealth(
        camera="cam1", inspection="main", state=CameraState.RUNNING, fps=30.0, captured=100, inspected=99, pending=0,
        dropped={DropReason.OVERRUN: 1},
    )  # fmt: skip
    beat = Heartbeat.model_construct(cameras=(camera,), inspections=())
    settled = ComponentStatus(beat, "idle", None, None, 0.0, {}, None, None)
    return replace(settled, **changes)


def updates(*offers: OfferedRelease, ends: dict[str, DeploymentResult] | None = None) -> UpdateSchedule:
    def begin(offer: OfferedRelease) -> Future[DeploymentResult] | None:
        if offer.method == "shadow":
            return None
        future: Future[DeploymentResult] = Future()
        if ends and offer.version in ends:
            future.set_result(ends[offer.version])
        return future

    return UpdateSchedule(offers=offers, id_of=lambda offer: f"parts/{offer.version}", begin=begin, seconds=100.0)


def result(**changes: Any) -> GreengrassResult:
    moment = GreengrassSnapshot(
        elapsed_s=100.0, seconds=100.0, mode="lite", note="", note_style="", broker="mosquitto", online=True,
        component=ComponentView("1.0.0", "RUNNING", 7, 1, ()), first_pid=7, status=reading(), sent=100, published=9,
        frames_per_s=30.0, publishes_per_s=3.0, metrics=VerdictMetrics({}), counts=SubscriberCounts(),
        updates=(), waiting=(), events=(),
        began_s=0.0,
    )  # fmt: skip
    moment.metrics.latencies_us.extend([1_000] * 99)
    counts = SubscriberCounts({"cam1": CameraCount(99, 0, 1)})
    known = {key: changes.pop(key) for key in list(changes) if key in GreengrassSnapshot.__slots__ and key != "counts"}
    whole = GreengrassResult(
        seconds=100.0, install_s=9.0, snapshot=replace(moment, **known), counts=counts, connections=1,
        refused_by_nucleus=0, interrupted=False,
    )  # fmt: skip
    return replace(whole, **changes)


def test_a_short_demo_has_fewer_updates_and_none_by_shadow_where_there_is_no_shadow() -> None:
    assert [offer.method for offer in plan_offers(5.0, has_shadows=True)] == ["deployment"]
    assert [offer.method for offer in plan_offers(30.0, has_shadows=True)] == ["deployment", "shadow"]
    every = ["deployment", "deployment", "shadow", "component"]
    assert [offer.method for offer in plan_offers(90.0, has_shadows=True)] == every
    assert "shadow" not in [offer.method for offer in plan_offers(90.0, has_shadows=False)]


def test_updates_begin_in_order_each_after_the_end_of_the_one_before() -> None:
    both = updates(GOOD, SHADOW, ends={"1.1.0": DeploymentResult("d", "SUCCEEDED")})
    both.advance(1.0, reading())
    assert both.started == []
    both.advance(6.0, reading())
    both.advance(90.0, reading(state="trial", candidate="parts/1.1.0"))
    assert len(both.started) == 1  # the second is late, because the first one still runs
    both.advance(91.0, reading(active="parts/1.1.0"))
    both.advance(91.5, reading(active="parts/1.1.0"))
    both.advance(92.5, reading(active="parts/1.1.0"))
    both.advance(95.0, reading(active="parts/1.3.0"))
    assert [(update.outcome, update.seconds) for update in both.started] == [("serving", 85.0), ("serving", 2.5)]
    assert both.is_finished


def test_an_update_serves_only_when_its_deployment_has_ended_too() -> None:
    one = updates(GOOD)
    one.advance(10.0, reading())
    one.advance(11.0, reading(active="parts/1.1.0"))
    assert one.current is not None


@pytest.mark.parametrize(
    ("end", "seen", "outcome", "as_expected"),
    [
        (DeploymentResult("d", "SUCCEEDED"), reading(refused="parts/1.2.0", refusal="wrong scores"), "refused", True),
        (DeploymentResult("d", "FAILED_NO_STATE_CHANGE", "wrong scores"), reading(), "refused", True),
        (DeploymentResult("d", "SUCCEEDED"), reading(active="parts/1.2.0"), "serving", False),
        (DeploymentResult("d", "FAILED", "BROKEN"), reading(), "FAILED", False),
        (DeploymentResult("d", "SUCCEEDED"), None, f"not done within {TIMEOUT_S:g} s", False),
    ],
)
def test_a_damaged_model_must_be_refused_before_or_after_it_was_deployed(
    end: DeploymentResult, seen: ComponentStatus | None, outcome: str, *, as_expected: bool
) -> None:
    one = updates(BAD, ends={"1.2.0": end})
    one.advance(10.0, reading())
    one.advance(11.0, seen)
    one.advance(11.0 + TIMEOUT_S, seen)
    assert one.is_finished
    assert (one.started[0].outcome, one.started[0].is_as_expected) == (outcome, as_expected)


def test_after_cancelling_nothing_begins_and_what_is_under_way_is_followed() -> None:
    both = updates(GOOD, SHADOW, ends={"1.1.0": DeploymentResult("d", "SUCCEEDED")})
    both.advance(10.0, reading())
    both.cancel()
    assert both.current is both.started[0]
    both.advance(11.0, reading(active="parts/1.1.0"))
    both.advance(99.0, reading(active="parts/1.1.0"))
    assert both.is_finished
    assert len(both.started) == 1


def test_a_whole_run_lacks_nothing() -> None:
    assert verify(result()) == ()
    assert result().lost == 0


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sent": 101}, "the camera took 101 pictures, and the component captured 100"),
        ({"counts": SubscriberCounts({"cam1": CameraCount(98, 0, 2)})}, "99 verdicts were given, and 98 arrived"),
        ({"component": ComponentView("1.0.0", "RUNNING", 8, 2, (1,))}, "was process 7 and is 8 after 2 starts"),
        ({"component": ComponentView("1.0.0", "ERRORED", None, 1, (1,))}, "was process 7 and is None"),
        ({"connections": 2}, "connected 2 times to the camera"),
        ({"refused_by_nucleus": 1}, "the nucleus closed 1 connections"),
        ({"status": None}, "the component does not answer"),
        ({"waiting": ((SHADOW, 50.0),)}, "1 updates were never begun"),
        ({"updates": (ModelUpdate(BAD, "parts/1.2.0", 5.0, None, 9.0, "serving"),)}, "serving, expected refused"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, Any], complaint: str) -> None:
    assert any(complaint in problem for problem in verify(result(**changes)))


def test_an_interrupted_run_may_leave_updates_out() -> None:
    assert verify(result(interrupted=True, waiting=((SHADOW, 50.0),))) == ()
