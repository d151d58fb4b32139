"""The lifecycle step by step: it converges on what is wanted, or says why not."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.errors import LifecycleError
from agent.lifecycle.admission import MAX_ATTEMPTS
from agent.lifecycle.recovery import MAX_UNFINISHED_BOOTS
from agent.lifecycle.state.transitions import LifecycleState
from agent.release_records import DesiredRelease, Gate
from simulator.doubles.lifecycle.fake_repository import RepositoryFault
from simulator.doubles.lifecycle.lifecycle_harness import LifecycleHarness, ignore_boundary, read_only_disk
from simulator.doubles.lifecycle.release_fixtures import SHORT_POLICY, write_release
from tests.kits.lifecycle_disk import quick_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.release_records import ReleaseRef

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_disk() as path:
        yield path


@pytest.fixture
def plant(folder: Path) -> LifecycleHarness:
    return LifecycleHarness(folder).start()


def commit(plant: LifecycleHarness, ref: ReleaseRef | None = None) -> ReleaseRef:
    ref = ref or plant.publish()
    plant.desire(ref)
    plant.step_until_idle()
    assert plant.active_version() == ref.version
    return ref


def refusal(plant: LifecycleHarness) -> tuple[Gate, str]:
    found = plant.lifecycle.status().refusal
    assert found is not None
    return found.gate, found.reason


# --- the way to the line ----------------------------------------------------------------------------------------------


def test_a_wanted_release_goes_through_every_state_and_judges(plant: LifecycleHarness) -> None:
    ref = commit(plant)
    status = plant.lifecycle.status()
    assert (status.state, status.active, status.previous) == (LifecycleState.IDLE, ref, None)
    assert status.counter_floor == 1
    seen = [line["after"] for line in plant.lifecycle.history()]
    assert seen == ["fetching", "staged", "verified", "selftest", "shadow", "trial", "trial", "committed", "idle"]
    assert {line["release_id"] for line in plant.lifecycle.history()} == {ref.release_id}
    assert plant.violations() == []


def test_the_trial_widens_its_share_step_by_step(plant: LifecycleHarness) -> None:
    plant.desire(plant.publish())
    plant.step_until_idle()
    shares = [
        status.share for status in plant.reported_statuses if status.state == LifecycleState.TRIAL and status.share
    ]
    assert sorted(set(shares)) == [0.5, 1.0]


def test_the_old_model_stays_loaded_for_the_probation_and_no_longer(plant: LifecycleHarness) -> None:
    commit(plant)
    assert plant.slot._previous is not None
    plant.clock.advance(plant.limits.probation_s)
    plant.step()
    assert plant.slot._previous is None


def test_without_any_model_a_release_that_passes_its_examination_judges_at_once(folder: Path) -> None:
    plant = LifecycleHarness(folder)
    (plant.factory_dir / "model.onnx").write_bytes(b"broken")
    plant.start()
    plant.step()
    assert plant.lifecycle.status().state == LifecycleState.NO_MODEL
    assert "verdict is unknown" in str(plant.lifecycle.status().alarm)
    commit(plant)
    assert plant.lifecycle.status().alarm is None


def test_the_alarm_of_a_safe_line_ends_when_a_retry_finds_the_mended_factory_release(folder: Path) -> None:
    plant = LifecycleHarness(folder)
    whole = (plant.factory_dir / "model.onnx").read_bytes()
    (plant.factory_dir / "model.onnx").write_bytes(b"broken")
    plant.start()
    plant.lifecycle.retry()
    plant.step_until_idle()
    assert "The factory release cannot be loaded" in str(plant.lifecycle.status().alarm)
    (plant.factory_dir / "model.onnx").write_bytes(whole)
    plant.lifecycle.retry()
    plant.step_until_idle()
    assert (plant.active_version(), plant.lifecycle.status().alarm) == ("0.0.0", None)


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_hint_that_repeats_what_is_known_does_nothing(plant: LifecycleHarness) -> None:
    ref = commit(plant)
    before = (plant.lifecycle.history(), plant.repository.fetches)
    for source in ("shadow", "control", "shadow"):
        plant.desire(ref, source=source)
        plant.step_until_idle()
    assert (plant.lifecycle.history(), plant.repository.fetches) == before


def test_a_name_that_is_no_release_is_refused_at_the_door(plant: LifecycleHarness) -> None:
    for name in ("../../etc", "a/b", "model/1.0.0/x", "x" * 500, "m/1.0.0\n"):
        with pytest.raises(LifecycleError, match="no release"):
            plant.desire(name)
    with pytest.raises(LifecycleError, match="share"):
        plant.lifecycle.desire(DesiredRelease("m/1.0.0", mode="ab", share=0.0))


def test_an_older_release_is_refused_by_its_counter_and_stays_the_way_back(plant: LifecycleHarness) -> None:
    old, new = commit(plant), commit(plant)
    plant.desire(old)
    plant.step_until_idle()
    assert refusal(plant) == (Gate.TRUST, "counter_below_floor")
    assert plant.active_version() == new.version
    plant.lifecycle.rollback("the old one was better")
    plant.step_until_idle()
    assert plant.active_version() == old.version


def test_a_downgrade_is_a_new_counter_with_old_bytes(plant: LifecycleHarness) -> None:
    commit(plant)
    commit(plant)
    commit(plant, plant.publish("1.0.1", counter=3))
    assert plant.lifecycle.status().counter_floor == 3


def test_a_new_wish_ends_a_running_trial_without_blame(plant: LifecycleHarness) -> None:
    first, second = plant.publish(), plant.publish()
    plant.desire(first)
    plant.step_until(LifecycleState.TRIAL)
    plant.desire(second)
    plant.step_until_idle()
    assert plant.active_version() == second.version
    assert plant.lifecycle.deny_list() == []


def test_wanting_the_active_release_again_ends_the_rollout_of_another(plant: LifecycleHarness) -> None:
    active = commit(plant)
    plant.desire(plant.publish())
    plant.step_until(LifecycleState.SHADOW)
    plant.desire(active)
    plant.step_until_idle()
    assert plant.active_version() == active.version
    assert plant.lifecycle.status().state == LifecycleState.IDLE
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.frame_tap is None


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_on_the_line_is_off_it_with_the_next_step_and_never_tried_again(
    plant: LifecycleHarness,
) -> None:
    ref = plant.publish()
    plant.desire(ref)
    plant.step_until(LifecycleState.TRIAL)
    plant.step_until_idle(failing=True)
    assert plant.active_version() == "0.0.0"
    assert refusal(plant) == (Gate.ERRORS, "gives_no_judgement")
    assert plant.lifecycle.status().refused == ref
    fetches = plant.repository.fetches
    plant.clock.advance(DAY_S)
    plant.desire(ref)
    plant.step_until_idle()
    assert plant.repository.fetches == fetches
    assert plant.lifecycle.history()[-1]["event"] == "refused_again"
    plant.lifecycle.retry(ref.digest)
    plant.step_until_idle()
    assert plant.active_version() == ref.version


def test_a_refusal_by_the_fetcher_and_by_the_examiner_names_its_gate(plant: LifecycleHarness) -> None:
    for port, gate in (("fetch", Gate.TRUST), ("run_self_test", Gate.GOLDEN)):
        plant.repository.inject(port, RepositoryFault.REFUSED)
        plant.desire(plant.publish())
        plant.step_until_idle()
        assert refusal(plant) == (gate, "ordered")
        status = plant.lifecycle.status()
        assert status.refusal is not None
        assert status.refusal.figures == {"seen": 1.0}
    assert len(plant.lifecycle.deny_list()) == 2
    assert not plant.record().rollbacks_utc_s, "a release that never saw the line is no rollback"


def test_a_manifest_with_an_impossible_rollout_is_refused(plant: LifecycleHarness) -> None:
    ref = plant.publish()
    published = plant.repository.releases[ref.release_id]
    tree = (published / "manifest.json").read_text(encoding="utf-8").replace('"shadow_parts": 4', '"shadow_parts": -4')
    (published / "manifest.json").write_text(tree, encoding="utf-8")
    plant.desire(ref)
    plant.step_until_idle()
    assert refusal(plant)[0] is Gate.CONTRACT


def test_a_fetch_that_fails_is_tried_again_with_growing_pauses(plant: LifecycleHarness) -> None:
    plant.repository.inject("fetch", *[RepositoryFault.ERROR, RepositoryFault.NO_SPACE] * 4)
    plant.desire(plant.publish())
    delays = [delay for _ in range(30) if (delay := plant.step()) > 1.0]
    assert delays[5] > delays[1]
    assert max(delays) <= 900.0
    plant.step_until_idle()
    assert plant.active_version() == "1.0.0"
    assert plant.lifecycle.status().alarm is None


def test_after_an_automatic_rollback_the_next_release_waits_for_the_cool_down(plant: LifecycleHarness) -> None:
    plant.desire(plant.publish())
    plant.step_until_idle(failing=True)
    plant.desire(plant.publish())
    start = plant.clock.now_ns
    plant.step_until(LifecycleState.FETCHING)
    assert (plant.clock.now_ns - start) / 1e9 > 300.0


def test_a_clock_that_is_set_back_does_not_lengthen_the_cool_down(plant: LifecycleHarness) -> None:
    plant.desire(plant.publish())
    plant.step_until_idle(failing=True)
    plant.clock.utc_offset_ns -= 10**9 * 365 * 86_400
    plant.desire(plant.publish())
    start = plant.clock.now_ns
    plant.step_until(LifecycleState.FETCHING, steps=30)
    assert (plant.clock.now_ns - start) / 1e9 <= 700.0


def test_after_three_automatic_rollbacks_in_a_day_a_person_has_to_act(plant: LifecycleHarness) -> None:
    for _ in range(3):
        plant.desire(plant.publish())
        plant.step_until_idle(failing=True)
    good = plant.publish()
    plant.desire(good)
    for _ in range(50):
        plant.step()
    assert plant.lifecycle.status().state == LifecycleState.IDLE
    assert "3 automatic rollbacks" in str(plant.lifecycle.status().alarm)
    plant.lifecycle.retry()
    plant.step_until_idle()
    assert plant.active_version() == good.version


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_to_the_previous_release_with_the_next_batch_and_keeps_the_floor(
    plant: LifecycleHarness,
) -> None:
    first, second = commit(plant), commit(plant)
    plant.lifecycle.rollback("scratches are missed")
    plant.step()
    assert plant.active_version() == first.version, "the model was still loaded: one reference store"
    plant.step_until_idle()
    status = plant.lifecycle.status()
    assert (status.active, status.previous, status.counter_floor) == (first, second, 2)
    assert refusal(plant) == (Gate.OPERATOR, "rolled_back")
    assert [bad["digest"] for bad in plant.lifecycle.deny_list()] == [second.digest]
    plant.lifecycle.rollback("this one as well")
    plant.step_until_idle()
    assert plant.active_version() == "0.0.0", "past the bad one to the factory"
    with pytest.raises(LifecycleError, match="no other model"):
        plant.lifecycle.rollback("and now")


def test_a_rollback_after_the_probation_loads_the_previous_release(plant: LifecycleHarness) -> None:
    first = commit(plant)
    commit(plant)
    plant.clock.advance(plant.limits.probation_s)
    plant.step()
    plant.lifecycle.rollback("late")
    plant.step_until_idle()
    assert plant.active_version() == first.version


def test_a_release_that_was_rolled_back_can_be_pardoned_although_its_counter_is_the_floor(
    plant: LifecycleHarness,
) -> None:
    commit(plant)
    second = commit(plant)
    plant.lifecycle.rollback("a mistake")
    plant.step_until_idle()
    plant.lifecycle.retry(second.release_id)
    plant.step_until_idle()
    assert plant.active_version() == second.version


@pytest.mark.parametrize(
    "state", [LifecycleState.STAGED, LifecycleState.SELFTEST, LifecycleState.SHADOW, LifecycleState.TRIAL]
)
def test_a_rollback_during_a_rollout_ends_it_and_blames_the_candidate(
    plant: LifecycleHarness, state: LifecycleState
) -> None:
    active, candidate = commit(plant), plant.publish()
    plant.desire(candidate)
    plant.step_until(state)
    plant.lifecycle.rollback("not this one")
    plant.step_until_idle()
    assert plant.active_version() == active.version
    assert [bad["digest"] for bad in plant.lifecycle.deny_list()] == [candidate.digest]
    assert not plant.record().rollbacks_utc_s


def test_a_retry_of_what_is_not_on_the_deny_list_says_what_is(plant: LifecycleHarness) -> None:
    with pytest.raises(LifecycleError, match="which has nothing"):
        plant.lifecycle.retry("abcdefgh")


# --- A/B --------------------------------------------------------------------------------------------------------------


def test_a_comparison_stays_until_it_is_stopped_and_blames_nobody(plant: LifecycleHarness) -> None:
    ref = plant.publish()
    plant.desire(ref, mode="ab")
    plant.step_until(LifecycleState.AB)
    for _ in range(50):
        plant.step()
    plant.clock.advance(3 * DAY_S)
    plant.step()
    assert plant.lifecycle.status().state == LifecycleState.AB
    assert plant.lifecycle.status().share == 0.5
    plant.lifecycle.stop_ab()
    plant.step_until_idle()
    assert plant.active_version() == "0.0.0"
    assert plant.lifecycle.deny_list() == []
    assert plant.lifecycle.ab_report() is not None
    plant.desire(ref, mode="ab", source="shadow")
    plant.step_until_idle()
    plant.desire(ref, mode="ab")
    plant.step_until(LifecycleState.AB)


def test_a_comparison_is_promoted_by_a_person(plant: LifecycleHarness) -> None:
    with pytest.raises(LifecycleError, match="No A/B test"):
        plant.lifecycle.promote()
    ref = plant.publish()
    plant.desire(ref, mode="ab")
    plant.step_until(LifecycleState.AB)
    plant.step()
    plant.lifecycle.promote()
    plant.step_until_idle()
    assert plant.active_version() == ref.version
    assert plant.lifecycle.status().counter_floor == 1


# --- revocation -------------------------------------------------------------------------------------------------------


def test_an_active_release_that_its_publisher_took_back_makes_way_and_the_wish_is_served(
    plant: LifecycleHarness,
) -> None:
    commit(plant)
    active = commit(plant)
    plant.repository.revoke(active)
    wanted = plant.publish()
    plant.desire(wanted)
    plant.step_until(LifecycleState.ROLLING_BACK)
    plant.step()
    assert plant.active_version() == "1.0.0"
    assert "revoked by its publisher" in str(plant.lifecycle.status().alarm)
    plant.step_until_idle()
    assert plant.active_version() == wanted.version


def test_with_all_releases_taken_back_the_factory_release_judges(plant: LifecycleHarness) -> None:
    for ref in (commit(plant), commit(plant)):
        plant.repository.revoke(ref)
    wanted = plant.publish()
    plant.repository.revoke(wanted)
    plant.desire(wanted)
    plant.step_until_idle()
    assert plant.active_version() == "0.0.0"
    assert refusal(plant)[0] is Gate.REVOKED


def test_a_revoked_release_is_left_though_nothing_is_wanted(plant: LifecycleHarness) -> None:
    first, second = commit(plant), commit(plant)
    plant.repository.revoke(second)
    fetches = plant.repository.fetches
    plant.step_until_idle()
    assert plant.active_version() == second.version  # not looked at yet
    plant.clock.advance(6 * HOUR_S)
    plant.step_until_idle()
    assert plant.active_version() == first.version
    assert refusal(plant) == (Gate.REVOKED, "revoked_by_publisher")
    assert "revoked by its publisher" in str(plant.lifecycle.status().alarm)
    assert plant.repository.fetches == fetches
    assert [bad["release_id"] for bad in plant.lifecycle.deny_list()] == [second.release_id]


def test_a_start_looks_what_was_taken_back(plant: LifecycleHarness) -> None:
    active = commit(plant)
    plant.repository.revoke(active)
    plant.start().step_until_idle()
    assert plant.active_version() == "0.0.0"


def test_a_previous_release_that_was_taken_back_is_no_way_back(plant: LifecycleHarness) -> None:
    first = commit(plant)
    commit(plant)
    plant.repository.revoke(first)
    plant.clock.advance(6 * HOUR_S)
    plant.step_until_idle()
    assert refusal(plant)[0] is Gate.REVOKED
    plant.clock.advance(6 * HOUR_S)
    plant.step_until_idle()
    assert [line["event"] for line in plant.lifecycle.history()].count("revoked") == 1
    plant.lifecycle.rollback("slow")
    plant.step_until_idle()
    assert plant.active_version() == "0.0.0"


def test_what_was_taken_back_is_seen_while_the_wanted_release_is_not_published_yet(plant: LifecycleHarness) -> None:
    first, second = commit(plant), commit(plant)
    plant.repository.inject("fetch", *[RepositoryFault.ERROR] * 2_000)
    plant.desire("model/9.9.9")
    plant.step_until(LifecycleState.FETCHING)
    plant.repository.revoke(second)
    for _ in range(600):  # pauses between tries are drawn by chance
        if plant.active_version() == first.version:
            break
        plant.step()
    assert plant.active_version() == first.version
    assert plant.record().wanted


def test_a_look_does_not_disturb_a_rollout(plant: LifecycleHarness) -> None:
    commit(plant)
    looks = plant.repository.revocation_checks
    plant.desire(plant.publish(), mode="ab")
    plant.step_until(LifecycleState.AB)
    plant.clock.advance(DAY_S)
    for _ in range(20):
        plant.step()
    assert plant.lifecycle.status().state == LifecycleState.AB
    assert plant.repository.revocation_checks == looks


def test_looks_that_fail_are_an_alarm_after_three_days_only(plant: LifecycleHarness) -> None:
    commit(plant)
    plant.repository.inject("check_revocations", *[RepositoryFault.ERROR] * 1_000)
    alarms = []
    for _ in range(100):
        plant.clock.advance(HOUR_S)
        plant.step_until_idle()
        alarms.append(plant.lifecycle.status().alarm)
    assert 60 < alarms.index(next(alarm for alarm in alarms if alarm)) < 80
    assert "The repository has not been reached for" in str(alarms[-1])
    plant.start().step_until_idle()
    assert "has not been reached" in str(plant.lifecycle.status().alarm)  # a restart does not make it forget
    plant.repository.faults.clear()
    plant.clock.advance(HOUR_S)
    plant.step_until_idle()
    assert plant.lifecycle.status().alarm is None


def test_a_revocation_waits_for_a_disk_that_refuses(plant: LifecycleHarness) -> None:
    first, second = commit(plant), commit(plant)
    plant.repository.revoke(second)
    plant.clock.advance(6 * HOUR_S)
    plant.boundary_fault = read_only_disk()
    for _ in range(5):
        plant.step()
    looks = plant.repository.revocation_checks
    plant.boundary_fault = ignore_boundary
    plant.step_until_idle()
    assert (plant.active_version(), plant.repository.revocation_checks) == (first.version, looks)


def test_a_request_ends_a_look_at_once(plant: LifecycleHarness) -> None:
    ref = commit(plant)
    plant.repository.inject("check_revocations", RepositoryFault.HANG)
    plant.clock.advance(6 * HOUR_S)
    looks = plant.repository.revocation_checks

    def roll_back_meanwhile() -> None:
        while plant.repository.revocation_checks == looks:
            time.sleep(0.01)
        plant.lifecycle.rollback("the old one was better")

    person = threading.Thread(target=roll_back_meanwhile, name="person")
    person.start()
    plant.step_until_idle()
    person.join()
    assert plant.active_version() == "0.0.0"
    assert refusal(plant) == (Gate.OPERATOR, "rolled_back")
    assert ref.release_id in {bad["release_id"] for bad in plant.lifecycle.deny_list()}


# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_start_finds_the_active_release_again(plant: LifecycleHarness) -> None:
    ref = commit(plant)
    assert plant.start().active_version() == ref.version


def test_a_candidate_that_ends_the_process_three_times_is_refused(plant: LifecycleHarness) -> None:
    active, candidate = commit(plant), plant.publish()
    plant.desire(candidate)
    for _ in range(MAX_ATTEMPTS):
        plant.step_until(LifecycleState.TRIAL)
        plant.start()
        assert plant.active_version() == active.version
    plant.step_until_idle()
    assert refusal(plant) == (Gate.SELF_TEST, "attempts_exhausted")
    assert plant.active_version() == active.version


def test_a_clean_stop_during_a_trial_costs_no_attempt(plant: LifecycleHarness) -> None:
    candidate = plant.publish()
    plant.desire(candidate)
    for _ in range(2 * MAX_ATTEMPTS):
        plant.step_until(LifecycleState.TRIAL)
        plant.lifecycle.close()
        plant.start()
    plant.step_until_idle()
    assert plant.active_version() == candidate.version


def test_an_active_release_that_ends_the_process_at_every_start_makes_way(plant: LifecycleHarness) -> None:
    commit(plant)
    commit(plant)
    plant.clock.advance(60.0)
    plant.step()
    served = [plant.start().active_version() for _ in range(2 * MAX_UNFINISHED_BOOTS + 1)]
    assert served == ["2.0.0"] * MAX_UNFINISHED_BOOTS + ["1.0.0"] * MAX_UNFINISHED_BOOTS + ["0.0.0"]
    assert refusal(plant) == (Gate.SELF_TEST, "boot_loop")


def test_a_factory_release_that_ends_the_process_at_every_start_leaves_no_model_until_a_person_says_so(
    plant: LifecycleHarness,
) -> None:
    served = [plant.start().active_version() for _ in range(MAX_UNFINISHED_BOOTS)]
    assert served == ["0.0.0"] * (MAX_UNFINISHED_BOOTS - 1) + [None]
    plant.step()
    assert plant.lifecycle.status().state == LifecycleState.NO_MODEL
    assert "it is retired" in str(plant.lifecycle.status().alarm)
    plant.lifecycle.retry()
    plant.step_until_idle()
    assert plant.active_version() == "0.0.0"
    assert plant.lifecycle.status().alarm is None


def test_starts_that_live_for_a_minute_are_forgiven(plant: LifecycleHarness) -> None:
    for _ in range(3 * MAX_UNFINISHED_BOOTS):
        plant.start()
        plant.clock.advance(60.0)
        plant.step()
        assert plant.active_version() == "0.0.0"


def test_an_active_release_that_was_damaged_on_disk_makes_way_and_is_fetched_again_on_request(
    plant: LifecycleHarness,
) -> None:
    commit(plant)
    active = commit(plant)
    path = plant.models_dir / "releases" / active.digest / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert plant.start().active_version() == "1.0.0"
    assert "cannot be loaded" in str(plant.lifecycle.status().alarm)
    plant.step_until_idle()
    assert plant.active_version() == active.version, "still wanted, and not to blame"
    assert plant.lifecycle.status().alarm is None


def test_a_damaged_journal_is_an_alarm_and_the_line_goes_on(plant: LifecycleHarness) -> None:
    commit(plant)
    for name in ("journal.json", "journal.prev.json"):
        (plant.models_dir / name).write_bytes(b"damaged")
    plant.start()
    assert plant.active_version() == "0.0.0"
    assert "factory release is active" in str(plant.lifecycle.status().alarm)
    assert plant.lifecycle.status().counter_floor == 1


def test_a_disk_that_is_read_only_at_the_start_does_not_keep_the_line_from_its_model(plant: LifecycleHarness) -> None:
    ref = commit(plant)
    plant.boundary_fault = read_only_disk()
    assert plant.start().active_version() == ref.version
    assert "cannot keep its journal" in str(plant.lifecycle.status().alarm)
    plant.boundary_fault = ignore_boundary
    commit(plant)
    assert plant.lifecycle.status().alarm is None


# --- the thread, and what is told -------------------------------------------------------------------------------------


def test_the_thread_serves_a_wish_that_arrives_while_a_fetch_hangs(plant: LifecycleHarness) -> None:
    stuck, wanted = plant.publish(), plant.publish()
    plant.repository.inject("fetch", RepositoryFault.HANG)
    plant.desire(stuck)
    plant.lifecycle.launch()
    try:
        while plant.repository.fetches == 0:
            threading.Event().wait(0.001)
        plant.desire(wanted)
        while plant.active_version() != wanted.version:
            plant.parts.run(20)
            threading.Event().wait(0.001)
    finally:
        plant.lifecycle.close()
    assert plant.lifecycle._thread is not None
    assert not plant.lifecycle._thread.is_alive()


def test_a_bug_does_not_take_the_model_from_the_line(plant: LifecycleHarness, caplog: pytest.LogCaptureFixture) -> None:
    candidate = plant.publish()
    plant.desire(candidate)
    plant.step_until(LifecycleState.TRIAL)

    def broken(_boundary: str) -> None:
        plant.boundary_fault = ignore_boundary
        raise ZeroDivisionError

    plant.boundary_fault = broken
    plant.lifecycle.launch()
    try:
        while plant.active_version() != candidate.version:
            plant.parts.run(20)
            threading.Event().wait(0.001)
    finally:
        plant.lifecycle.close()
    assert "continues from the last verified state" in caplog.text
    assert "bug" in str(plant.lifecycle.status().alarm)


def test_figures_alone_are_told_at_most_once_a_second(plant: LifecycleHarness) -> None:
    plant.desire(plant.publish(), mode="ab")
    plant.step_until(LifecycleState.AB)
    plant.step()
    plant.reported_statuses.clear()
    for _ in range(40):
        plant.step()  # a quarter of a second each
    assert 5 <= len(plant.reported_statuses) <= 11
    assert replace(plant.reported_statuses[0], progress={}) == replace(plant.reported_statuses[-1], progress={})


def test_a_rollout_that_goes_in_circles_is_given_up(plant: LifecycleHarness) -> None:
    ref = plant.publish()
    published = plant.repository.releases[ref.release_id]
    plant.desire(ref)
    plant.step_until(LifecycleState.STAGED)
    for _ in range(100):
        if plant.lifecycle.status().state == LifecycleState.STAGED:
            staging = plant.models_dir / "staging" / "stand-in--1.0.0"
            (staging / "model.onnx").write_bytes(b"changed after the fetch")
        plant.step()
    assert published.exists()
    assert refusal(plant) == (Gate.SELF_TEST, "too_many_transitions")


def test_a_release_asks_for_more_than_the_site_and_gets_it(folder: Path) -> None:
    plant = LifecycleHarness(folder).start()
    policy = {**SHORT_POLICY, "shadow_parts": 5_000}
    long = write_release(folder / "long", version="9.0.0", counter=9, rollout=policy)
    plant.desire(plant.repository.publish(long))
    plant.step_until(LifecycleState.SHADOW)
    for _ in range(60):
        plant.step()
    assert plant.lifecycle.status().state == LifecycleState.SHADOW
    plant.step_until_idle()
    assert plant.active_version() == "9.0.0"


# --- held for a person ------------------------------------------------------------------------------------------------


def held(plant: LifecycleHarness) -> LifecycleHarness:
    """An A/B test in which the candidate failed on some parts in a row, after hundreds on which it did not."""
    commit(plant)
    plant.desire(plant.publish(), mode="ab")
    plant.step_until(LifecycleState.AB)
    plant.step()
    plant.parts.run(1_000)
    plant.parts.run(12, failing=True)
    plant.lifecycle.step()
    return plant


def test_one_run_of_parts_holds_a_candidate_and_a_person_is_told_what_to_look_at(plant: LifecycleHarness) -> None:
    status = held(plant).lifecycle.status()

    assert status.state == LifecycleState.AB
    assert status.alarm is not None
    assert "gave no judgement on" in status.alarm
    assert "`kensa model continue` lets it go on" in status.alarm
    assert plant.lifecycle.deny_list() == []
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is not None
    assert not lease.trial.control.is_binding
    assert plant.lifecycle.ab_report() is not None


def test_what_a_candidate_is_held_for_is_told_once_and_not_with_every_part(plant: LifecycleHarness) -> None:
    held(plant)
    told, alarm = len(plant.reported_statuses), plant.lifecycle.status().alarm

    for _ in range(5):
        plant.parts.run(3)
        plant.lifecycle.step()

    assert plant.lifecycle.status().alarm == alarm
    assert len(plant.reported_statuses) <= told + 1, "figures alone are told once a second, and the clock stands"


def test_a_person_lets_a_held_candidate_go_on_and_the_history_says_so(plant: LifecycleHarness) -> None:
    held(plant).lifecycle.continue_held()

    plant.step()
    plant.step()

    assert plant.lifecycle.status().alarm is None
    assert plant.lifecycle.history()[-1]["event"] == "continued"
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is not None
    assert lease.trial.control.is_binding
    with pytest.raises(LifecycleError, match="No release is held"):
        plant.lifecycle.continue_held()


def test_a_person_ends_what_is_held_and_then_it_is_not_held_any_more(plant: LifecycleHarness) -> None:
    held(plant).lifecycle.rollback("a smeared part")

    plant.step_until_idle()

    assert plant.lifecycle.status().alarm is None
    assert refusal(plant) == (Gate.OPERATOR, "rolled_back")


def test_a_restart_while_a_candidate_is_held_tries_it_again_from_its_self_test(plant: LifecycleHarness) -> None:
    held(plant).start()

    assert plant.lifecycle.status().state == LifecycleState.VERIFIED
    assert plant.lifecycle.status().alarm is None
    plant.step_until(LifecycleState.AB)


def test_a_refusal_on_live_parts_wakes_the_lifecycle_and_its_figures_reach_the_log(
    plant: LifecycleHarness, caplog: pytest.LogCaptureFixture
) -> None:
    commit(plant)
    plant.desire(plant.publish())
    plant.step_until(LifecycleState.TRIAL)
    plant.step()
    plant.parts.run(100, failing=True)
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is not None
    assert lease.trial.control.has_ended, "before the lifecycle has taken a step"

    plant.step_until_idle()

    assert any("is refused by the gate errors" in m and " parts" in m for m in caplog.messages)
