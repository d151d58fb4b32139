"""The state machine, executed: every way that a cycle can go, on the real handlers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from pipeline.cloud.storage import open_storage
from pipeline.cycle.services import registry_of
from pipeline.cycle.steps.approval import ApprovalError, decide
from pipeline.selection.candidate_record import CandidateStatus
from simulator.aws.training_jobs import run_entry_point
from tests.kits.cloud.cycle import BLIND, MODEL, PATIENCE_S, SITE, copies, fails, make_plant, spots_release
from tests.kits.cloud.simulated_account import aws, aws_server

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.aws.local_aws import LocalAws
    from simulator.aws.training_jobs import TrainingJob

__all__ = ["aws", "aws_server"]  # fixtures
pytestmark = pytest.mark.timeout(180)


def test_a_better_model_reaches_the_canary_and_then_the_fleet(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.chooses_in_a_child = True
    plant.collect(0, 48)
    ended, record = plant.run()
    assert (ended["status"], record["result"]) == ("SUCCEEDED", "promoted"), (ended, record)
    assert record["released"]["release_id"] == f"{MODEL}/1.1.0"
    assert record["released"]["previous"] == f"{MODEL}/1.0.0"
    assert {device.active.version for device in plant.devices.values() if device.active} == {"1.1.0"}
    assert plant.messages() == [f"Kensa: {MODEL} at {SITE}: promoted"]


def test_the_first_model_of_a_plant_waits_for_a_person(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, champion=False)
    plant.collect(0, 48)
    arn = plant.start()
    asked = plant.until_asked(arn)
    assert asked["doubts"] == ["there is no model yet to compare it with"]
    decide(plant.execution(arn), approved=True, by="ann", why="looks right on the card")
    ended = aws.wait_for(arn, timeout_s=PATIENCE_S)
    record = plant.record(arn)
    assert (ended["status"], record["result"]) == ("SUCCEEDED", "promoted")
    assert record["released"]["previous"] is None
    history = registry_of(plant.execution(arn)).get(MODEL, "1.0.0").history
    assert [(change.status, change.by) for change in history[1:2]] == [(CandidateStatus.APPROVED, "ann")]


def test_one_failed_training_is_tolerated(aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    good = plant.trains

    def one_fails(job: TrainingJob) -> None:
        (fails if job.hyperparameters["seed"] == "1" else good)(job)

    plant.trains = one_fails
    _, record = plant.run()
    assert record["result"] == "promoted"
    assert any("the loss is not finite" in sentence for sentence in record["why"])


def test_where_all_trainings_fail_nothing_changes_and_everybody_is_told(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    plant.trains = fails
    ended, record = plant.run()
    assert (ended["status"], record["result"]) == ("SUCCEEDED", "training_failed")
    assert plant.wished() == {f"{MODEL}/1.0.0"}
    assert plant.messages() == [f"Kensa: {MODEL} at {SITE}: training failed"]
    assert plant.is_free()


def test_no_candidate_better_than_the_champion_ends_the_cycle(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    plant.trains = copies(spots_release(tmp_path / "blind", version="9.9.9", threshold=BLIND))
    ended, record = plant.run()
    assert record["result"] == "none_better"
    (tried,) = registry_of(plant.execution(ended["executionArn"])).list_choices(MODEL)
    assert not any(one.proposable or one.lineage is None for one in tried.assessments)
    assert plant.wished() == {f"{MODEL}/1.0.0"}
    assert plant.is_free()


def test_poisoned_labels_are_refused_before_anything_is_trained(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48, wrong=True)
    _, record = plant.run()
    assert record["result"] == "poisoned"
    assert "labels conflicts" in " ".join(record["why"])
    assert aws.client("sagemaker").list_training_jobs()["TrainingJobSummaries"] == []
    assert plant.is_free()


def test_a_denied_candidate_is_rejected_and_never_released(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, approval="manual")
    plant.collect(0, 48)
    arn = plant.start()
    plant.until_asked(arn)
    decide(plant.execution(arn), approved=False, by="ann", why="the lens was dirty")
    assert aws.wait_for(arn, timeout_s=PATIENCE_S)["status"] == "SUCCEEDED"
    assert plant.record(arn)["result"] == "denied"
    assert plant.status("1.1.0") is CandidateStatus.REJECTED
    assert f"{MODEL}/1.1.0" not in plant.publisher.published(SITE)
    with pytest.raises(ApprovalError, match="does not wait for a decision"):
        decide(plant.execution(arn), approved=True, by="bob", why="too late")


def test_an_approval_that_nobody_gives_counts_as_denied(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, approval="manual", approval_s=1)
    plant.collect(0, 48)
    _, record = plant.run()
    assert record["result"] == "approval_timed_out"
    assert plant.status("1.1.0") is CandidateStatus.REJECTED
    assert plant.is_free()


def test_a_canary_that_refuses_the_release_takes_it_back_before_the_fleet_sees_it(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    plant.devices["canary-1"].does = "refuse"
    _, record = plant.run()
    assert record["result"] == "rolled_back"
    assert record["roll_back"]["revoke"]
    assert "canary-1 (shadow: disagreement" in record["monitor"]["reason"]
    assert plant.devices["press-1"].wished == [f"{MODEL}/1.0.0"]
    assert plant.devices["canary-1"].wished[-1] == f"{MODEL}/1.0.0"
    assert f"{MODEL}/1.1.0" not in plant.publisher.published(SITE)  # revoked
    assert plant.status("1.1.0") is CandidateStatus.ROLLED_BACK


def test_a_fleet_that_refuses_the_release_goes_back_to_the_one_before_under_a_new_counter(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    plant.devices["press-1"].does = plant.devices["press-2"].does = "refuse"
    _, record = plant.run()
    assert record["result"] == "rolled_back"
    known = plant.publisher.published(SITE)
    assert set(known) == {f"{MODEL}/1.0.0"}
    assert known[f"{MODEL}/1.0.0"].counter > record["released"]["counter"]
    plant.until(lambda: all(d.active and d.active.version == "1.0.0" for d in plant.devices.values()))


def test_devices_that_are_away_are_not_the_releases_fault(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, canary_timeout_s=2)
    plant.collect(0, 48)
    aws.greengrass.set_offline("canary-1")
    _, record = plant.run()
    assert record["result"] == "rolled_back"
    assert not record["roll_back"]["revoke"]
    assert "only 0 of 1 reported" in record["monitor"]["reason"]
    assert f"{MODEL}/1.1.0" in plant.publisher.published(SITE)
    aws.greengrass.set_online("canary-1")
    plant.until(lambda: plant.devices["canary-1"].wished[-1] == f"{MODEL}/1.0.0")


def test_a_canary_that_does_not_finish_in_time_is_taken_back_without_blame(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, canary_timeout_s=2)
    plant.collect(0, 48)
    plant.devices["canary-1"].does = "waver"
    _, record = plant.run()
    assert record["result"] == "rolled_back"
    assert not record["roll_back"]["revoke"]
    assert "canary-1 (trial) did not finish within 2 s" in record["monitor"]["reason"]


def test_a_fleet_device_that_is_away_does_not_hold_the_others_up(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, fleet_timeout_s=2)
    plant.collect(0, 48)
    aws.greengrass.set_offline("press-2")
    _, record = plant.run()
    assert record["result"] == "promoted"
    assert "press-2 (idle) follow when they return" in record["monitor"]["reason"]


def test_throttled_calls_are_tried_again(aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    aws.faults.throttle("sagemaker", "CreateTrainingJob", 2)
    aws.faults.throttle("lambda", "Invoke")
    aws.faults.throttle("greengrass", "CreateDeployment", 2)
    _, record = plant.run()
    assert record["result"] == "promoted"
    assert len(aws.faults.injected) == 5


def test_a_trigger_counts_once_and_a_second_cycle_waits_for_none(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, approval="manual")
    plant.collect(0, 48)
    first = plant.start(trigger_id="event-1")
    plant.until_asked(first)
    for trigger_id, reason in (("event-1", "was already taken"), ("event-2", "already works")):
        arn = plant.start(trigger_id=trigger_id)
        ended = aws.wait_for(arn, timeout_s=PATIENCE_S)
        assert ended["status"] == "SUCCEEDED"
        assert reason in json.loads(ended["output"])["begin"]["answer"]["reason"]
        assert plant.record(arn) == {}
    assert aws.client("stepfunctions").describe_execution(executionArn=first)["status"] == "RUNNING"
    assert not plant.is_free()


def test_the_lock_of_an_execution_that_was_killed_is_taken_over(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch, approval="manual")
    plant.collect(0, 48)
    first = plant.start()
    plant.until_asked(first)
    aws.client("stepfunctions").stop_execution(executionArn=first)
    second = plant.start()
    assert plant.until_asked(second)["candidate"]["release_id"] == f"{MODEL}/1.2.0"


def test_a_step_that_breaks_ends_in_a_told_failure_with_the_lock_free(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)

    def breaks(_event: object, _context: object) -> None:
        raise ZeroDivisionError("a bug")

    aws.functions.add("kensa-PlanTraining", breaks)
    ended, record = plant.run()
    assert (ended["status"], record["result"]) == ("FAILED", "broken")
    assert record["why"] == ["ZeroDivisionError: a bug"]
    assert plant.is_free()


def test_a_rollout_that_breaks_is_taken_back(aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)

    def breaks(_event: object, _context: object) -> None:
        raise ZeroDivisionError("a bug")

    aws.functions.add("kensa-Promote", breaks)
    ended, record = plant.run()
    assert (ended["status"], record["result"]) == ("FAILED", "broken")
    assert not record["roll_back"]["revoke"]
    plant.until(lambda: plant.wished() == {f"{MODEL}/1.0.0"})
    assert plant.is_free()


def test_nothing_new_since_the_last_cycle_costs_no_training(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    plant.collect(0, 48)
    assert plant.run()[1]["result"] == "promoted"
    jobs = len(aws.client("sagemaker").list_training_jobs()["TrainingJobSummaries"])
    assert plant.run()[1]["result"] == "nothing_new"
    assert len(aws.client("sagemaker").list_training_jobs()["TrainingJobSummaries"]) == jobs


@pytest.mark.train
def test_a_model_that_was_really_trained_goes_all_the_way(
    aws: LocalAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant = make_plant(aws, tmp_path, monkeypatch)
    search = "seeds: [0]\nhead: classifier\nbase: {epochs: 12}\n"
    policy = "policy: {max_margin: 1.0, slack: 0, candidates: 1, confidence: 0.8}\n"
    open_storage("s3://kensa-data").write(f"config/{SITE}/{MODEL}/search.yaml", (search + policy).encode())
    plant.collect(0, 96)
    plant.trains = run_entry_point
    ended, record = plant.run()
    assert (ended["status"], record["result"]) == ("SUCCEEDED", "promoted"), record
    assert {device.active.version for device in plant.devices.values() if device.active} == {"1.1.0"}
