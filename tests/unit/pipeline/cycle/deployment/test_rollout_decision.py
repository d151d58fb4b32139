"""The rule by which a release is promoted, taken back or watched on."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from agent.release_records import DesiredRelease, Gate, ModelStatus, Refusal, ReleaseRef
from agent.wire import ModelReport, ReportingAgent, decode, encode_report
from pipeline.cloud.storage import FolderStorage
from pipeline.cycle.deployment.rollout_decision import (
    RolloutDecision,
    RolloutStatus,
    ThingRollout,
    decide_canary,
    decide_fleet,
    newest_report,
    rollout_status_of,
)
from pipeline.cycle.settings import CycleConfigError, CycleSettings

NEW = ReleaseRef("spots", "1.1.0", 7, "a" * 64, "b" * 64)
OLD = ReleaseRef("spots", "1.0.0", 6, "c" * 64, "d" * 64)
ARN = "arn:aws:iot:eu-central-1:123456789012:thinggroup/canary"


def settings(**changes: Any) -> CycleSettings:
    given: dict[str, Any] = {
        "data": "s3://d",
        "publisher": "s3://p",
        "canary_target": ARN,
        "fleet_target": ARN,
        "training_role": "arn:aws:iam::123456789012:role/r",
        "training_image": "image",
        "training_source": "s3://d/code.tar.gz",
        "canary_timeout_s": 100,
        "soak_s": 10,
        "fleet_timeout_s": 200,
        **changes,
    }
    return CycleSettings.model_validate(given)


def report(*, epoch: int = 1, utc_us: int = 10, **changes: Any) -> ModelReport:
    status = ModelStatus("surface", "idle", 1.0, OLD, None, None, DesiredRelease("spots/1.1.0"))
    payload = encode_report(replace(status, **changes), reporter=ReportingAgent("t", "l", epoch), utc_ns=utc_us * 1_000)
    decoded = decode(payload)
    assert isinstance(decoded, ModelReport)
    return decoded


def seen(*statuses: RolloutStatus) -> list[ThingRollout]:
    return [ThingRollout(f"t{number}", one) for number, one in enumerate(statuses)]


def stands(
    made: ModelReport | None, *, before: tuple[int, int] = (1, 5), deployment: tuple[str, str] = ("", "")
) -> RolloutStatus:
    return rollout_status_of(made, thing="t", digest=NEW.digest, before=before, deployment=deployment).status


def test_a_thing_stands_where_its_report_on_this_very_digest_says() -> None:
    refusal = Refusal(Gate.SHADOW, "disagreement", "No.")
    assert stands(report(active=NEW)) is RolloutStatus.COMMITTED
    assert stands(report(refused=NEW, refusal=refusal)) is RolloutStatus.ROLLED_BACK
    assert stands(report(refused=OLD, refusal=refusal)) is RolloutStatus.PENDING  # an old story
    assert stands(report(state="trial", candidate=NEW)) is RolloutStatus.PENDING


def test_a_clock_that_is_wrong_does_not_hide_a_report_on_the_new_digest() -> None:
    assert stands(report(utc_us=1, active=NEW), before=(1, 5)) is RolloutStatus.COMMITTED


def test_silence_is_no_report_newer_than_the_deployment() -> None:
    assert stands(None) is RolloutStatus.SILENT
    assert stands(report(utc_us=5)) is RolloutStatus.SILENT
    assert stands(report(utc_us=6)) is RolloutStatus.PENDING
    assert stands(report(epoch=2, utc_us=1)) is RolloutStatus.PENDING  # it was started again


def test_a_failed_deployment_counts_where_nothing_was_reported_on_the_release() -> None:
    assert stands(None, deployment=("FAILED", "no space")) is RolloutStatus.FAILED
    assert stands(report(active=NEW), deployment=("FAILED", "another component")) is RolloutStatus.COMMITTED


C, R, F, P, S = (
    RolloutStatus.COMMITTED,
    RolloutStatus.ROLLED_BACK,
    RolloutStatus.FAILED,
    RolloutStatus.PENDING,
    RolloutStatus.SILENT,
)


@pytest.mark.parametrize(
    ("statuses", "age_s", "committed_s", "action", "revoke"),
    [
        ((C, C), 20, 10.0, "promote", False),
        ((C, C), 20, 9.0, "wait", False),  # not for long enough
        ((C, C), 150, 9.0, "wait", False),  # late, but all have committed: the soak is waited for
        ((C, R), 20, None, "roll_back", True),
        ((C, F), 20, None, "roll_back", False),
        ((C, P), 99, None, "wait", False),
        ((C, P), 100, None, "roll_back", False),
        ((C, S), 99, None, "wait", False),
        ((C, S), 100, None, "promote", False),  # a quorum runs it, the other is away
        ((C, S, S), 100, None, "roll_back", False),
        ((S, S), 100, None, "roll_back", False),
    ],
)
def test_the_canary_decides(
    statuses: tuple[RolloutStatus, ...], age_s: float, committed_s: float | None, action: str, *, revoke: bool
) -> None:
    made = decide_canary(seen(*statuses), settings=settings(), age_s=age_s, all_committed_s=committed_s)
    assert (made.action, made.revoke) == (action, revoke), made.reason


@pytest.mark.parametrize(
    ("statuses", "age_s", "action", "revoke"),
    [
        ((C, C, C), 0, "done", False),
        ((C, C, S), 0, "wait", False),
        ((C, C, S), 200, "done", False),
        ((C, C, R), 0, "roll_back", True),
        ((C, C, F), 0, "roll_back", False),
        ((C,) * 10 + (R,), 0, "done", False),  # within the tolerance
    ],
)
def test_the_fleet_decides(statuses: tuple[RolloutStatus, ...], age_s: float, action: str, *, revoke: bool) -> None:
    made = decide_fleet(seen(*statuses), settings=settings(), age_s=age_s)
    assert (made.action, made.revoke) == (action, revoke), made.reason


def test_a_decision_names_the_things_and_their_reasons() -> None:
    found = [ThingRollout("press-1", R, "shadow: disagreement: It disagrees.")]
    made = decide_canary(found, settings=settings(), age_s=0, all_committed_s=None)
    reason = "press-1 (shadow: disagreement: It disagrees.) refused the release"
    assert made == RolloutDecision("roll_back", reason, revoke=True)


def test_the_newest_report_that_can_be_read_counts(tmp_path: Any) -> None:
    data = FolderStorage(tmp_path)
    for epoch, utc_us in ((1, 999), (2, 5), (2, 40)):
        made = report(epoch=epoch, utc_us=utc_us)
        data.write(f"fleet/v1/t/surface/{epoch}-{utc_us}.json", made.model_dump_json(exclude_none=True).encode())
    data.write("fleet/v1/t/surface/3-1.json", b'{"kind": "model", "v": 9}')  # of a later version
    data.write("fleet/v1/t/surface/note.json", b"{}")
    found = newest_report(data, "t", "surface")
    assert found is not None
    assert (found.boot_epoch, found.utc_us) == (2, 40)
    assert newest_report(data, "other", "surface") is None


def test_settings_come_back_from_their_own_environment() -> None:
    made = settings(approval="auto", topic="arn:aws:sns:eu-central-1:123456789012:t")
    assert CycleSettings.read(made.environment()) == made


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(CycleConfigError, match="KENSA_CANARY_TIMEOUT_S"):
        CycleSettings.read({**settings().environment(), "KENSA_CANARY_TIMEOUT_S": "soon"})
    with pytest.raises(CycleConfigError, match="KENSA_DATA: Field required"):
        CycleSettings.read({})


def test_a_status_travels_as_json() -> None:
    from pipeline.cycle.deployment.rollout_decision import count_by_status, to_json  # noqa: PLC0415

    found = seen(C, C, S)
    assert count_by_status(found) == {"committed": 2, "rolled_back": 0, "failed": 0, "pending": 0, "silent": 1}
    assert json.loads(json.dumps(to_json(found)))[-1]["status"] == "silent"
