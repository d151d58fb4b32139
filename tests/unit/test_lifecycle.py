"""The lifecycle step by step: it converges on what is wanted, or says why not."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from agent.errors import LifecycleError
from agent.model.candidacy import MAX_ATTEMPTS
from agent.model.recovery import MAX_BOOTS
from agent.model.transitions import State
from agent.records import Desired, Gate
from simulator.cloud import Fault
from simulator.rollouts import Plant, ignore, read_only_disk
from simulator.stand_in import SHORT_POLICY, write_release
from tests.lifecycle_kit import quick_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.records import ReleaseRef

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S


@pytest.fixture
def folder() -> Iterator[Path]:
    with quick_disk() as path:
        yield path


@pytest.fixture
def plant(folder: Path) -> Plant:
    return Plant(folder).start()


def commit(plant: Plant, ref: ReleaseRef | None = None) -> ReleaseRef:
    ref = ref or plant.publish()
    plant.desire(ref)
    plant.rest()
    assert plant.serving() == ref.version
    return ref


def refusal(plant: Plant) -> tuple[Gate, str]:
    found = plant.lifecycle.status().refusal
    assert found is not None
    return found.gate, found.reason


# --- the way to the line ----------------------------------------------------------------------------------------------


def test_a_wanted_release_goes_through_every_state_and_judges(plant: Plant) -> None:
    ref = commit(plant)
    status = plant.lifecycle.status()
    assert (status.state, status.active, status.previous) == (State.IDLE, ref, None)
    assert status.counter_floor == 1
    seen = [line["after"] for line in plant.lifecycle.history()]
    assert seen == ["fetching", "staged", "verified", "selftest", "shadow", "trial", "trial", "committed", "idle"]
    assert {line["release_id"] for line in plant.lifecycle.history()} == {ref.release_id}
    assert plant.faults() == []


def test_the_trial_widens_its_share_step_by_step(plant: Plant) -> None:
    plant.desire(plant.publish())
    plant.rest()
    shares = [status.share for status in plant.told if status.state == State.TRIAL and status.share]
    assert sorted(set(shares)) == [0.5, 1.0]


def test_the_old_model_stays_loaded_for_the_probation_and_no_longer(plant: Plant) -> None:
    commit(plant)
    assert plant.slot._kept is not None
    plant.clock.advance(plant.limits.probation_s)
    plant.step()
    assert plant.slot._kept is None


def test_without_any_model_a_release_that_passes_its_examination_judges_at_once(folder: Path) -> None:
    plant = Plant(folder)
    (plant.factory / "model.onnx").write_bytes(b"broken")
    plant.start()
    plant.step()
    assert plant.lifecycle.status().state == State.SAFE
    assert "verdict is unknown" in str(plant.lifecycle.status().alarm)
    commit(plant)
    assert plant.lifecycle.status().alarm is None


def test_the_alarm_of_a_safe_line_ends_when_a_retry_finds_the_mended_factory_release(folder: Path) -> None:
    plant = Plant(folder)
    whole = (plant.factory / "model.onnx").read_bytes()
    (plant.factory / "model.onnx").write_bytes(b"broken")
    plant.start()
    plant.lifecycle.retry()
    plant.rest()
    assert "The factory release cannot be loaded" in str(plant.lifecycle.status().alarm)
    (plant.factory / "model.onnx").write_bytes(whole)
    plant.lifecycle.retry()
    plant.rest()
    assert (plant.serving(), plant.lifecycle.status().alarm) == ("0.0.0", None)


# --- hints ------------------------------------------------------------------------------------------------------------


def test_a_hint_that_repeats_what_is_known_does_nothing(plant: Plant) -> None:
    ref = commit(plant)
    before = (plant.lifecycle.history(), plant.cloud.fetches)
    for source in ("shadow", "control", "shadow"):
        plant.desire(ref, source=source)
        plant.rest()
    assert (plant.lifecycle.history(), plant.cloud.fetches) == before


def test_a_name_that_is_no_release_is_refused_at_the_door(plant: Plant) -> None:
    for name in ("../../etc", "a/b", "model/1.0.0/x", "x" * 500, "m/1.0.0\n"):
        with pytest.raises(LifecycleError, match="no release"):
            plant.desire(name)
    with pytest.raises(LifecycleError, match="share"):
        plant.lifecycle.desire(Desired("m/1.0.0", mode="ab", share=0.0))


def test_an_older_release_is_refused_by_its_counter_and_stays_the_way_back(plant: Plant) -> None:
    old, new = commit(plant), commit(plant)
    plant.desire(old)
    plant.rest()
    assert refusal(plant) == (Gate.TRUST, "counter_below_floor")
    assert plant.serving() == new.version
    plant.lifecycle.rollback("the old one was better")
    plant.rest()
    assert plant.serving() == old.version


def test_a_downgrade_is_a_new_counter_with_old_bytes(plant: Plant) -> None:
    commit(plant)
    commit(plant)
    commit(plant, plant.publish("1.0.1", counter=3))
    assert plant.lifecycle.status().counter_floor == 3


def test_a_new_wish_ends_a_running_trial_without_blame(plant: Plant) -> None:
    first, second = plant.publish(), plant.publish()
    plant.desire(first)
    plant.until(State.TRIAL)
    plant.desire(second)
    plant.rest()
    assert plant.serving() == second.version
    assert plant.lifecycle.bad_list() == []


def test_wanting_the_active_release_again_ends_the_rollout_of_another(plant: Plant) -> None:
    active = commit(plant)
    plant.desire(plant.publish())
    plant.until(State.SHADOW)
    plant.desire(active)
    plant.rest()
    assert plant.serving() == active.version
    assert plant.lifecycle.status().state == State.IDLE
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.shadow is None


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_model_that_fails_on_the_line_is_off_it_with_the_next_step_and_never_tried_again(plant: Plant) -> None:
    ref = plant.publish()
    plant.desire(ref)
    plant.until(State.TRIAL)
    plant.rest(failing=True)
    assert plant.serving() == "0.0.0"
    assert refusal(plant) == (Gate.ERRORS, "gives_no_judgement")
    assert plant.lifecycle.status().refused == ref
    fetches = plant.cloud.fetches
    plant.clock.advance(DAY_S)
    plant.desire(ref)
    plant.rest()
    assert plant.cloud.fetches == fetches
    assert plant.lifecycle.history()[-1]["event"] == "refused_again"
    plant.lifecycle.retry(ref.digest)
    plant.rest()
    assert plant.serving() == ref.version


def test_a_refusal_by_the_fetcher_and_by_the_examiner_names_its_gate(plant: Plant) -> None:
    for port, gate in (("fetch", Gate.TRUST), ("examine", Gate.GOLDEN)):
        plant.cloud.order(port, Fault.REFUSED)
        plant.desire(plant.publish())
        plant.rest()
        assert refusal(plant) == (gate, "ordered")
        status = plant.lifecycle.status()
        assert status.refusal is not None
        assert status.refusal.figures == {"seen": 1.0}
    assert len(plant.lifecycle.bad_list()) == 2
    assert not plant.record().rollbacks_utc_s, "a release that never saw the line is no rollback"


def test_a_manifest_with_an_impossible_rollout_is_refused(plant: Plant) -> None:
    ref = plant.publish()
    published = plant.cloud.releases[ref.release_id]
    tree = (published / "manifest.json").read_text(encoding="utf-8").replace('"shadow_parts": 4', '"shadow_parts": -4')
    (published / "manifest.json").write_text(tree, encoding="utf-8")
    plant.desire(ref)
    plant.rest()
    assert refusal(plant)[0] is Gate.CONTRACT


def test_a_fetch_that_fails_is_tried_again_with_growing_pauses(plant: Plant) -> None:
    plant.cloud.order("fetch", *[Fault.ERROR, Fault.NO_SPACE] * 4)
    plant.desire(plant.publish())
    delays = [delay for _ in range(30) if (delay := plant.step()) > 1.0]
    assert delays[5] > delays[1]
    assert max(delays) <= 900.0
    plant.rest()
    assert plant.serving() == "1.0.0"
    assert plant.lifecycle.status().alarm is None


def test_after_an_automatic_rollback_the_next_release_waits_for_the_cool_down(plant: Plant) -> None:
    plant.desire(plant.publish())
    plant.rest(failing=True)
    plant.desire(plant.publish())
    start = plant.clock.now_ns
    plant.until(State.FETCHING)
    assert (plant.clock.now_ns - start) / 1e9 > 300.0


def test_a_clock_that_is_set_back_does_not_lengthen_the_cool_down(plant: Plant) -> None:
    plant.desire(plant.publish())
    plant.rest(failing=True)
    plant.clock.utc_offset_ns -= 10**9 * 365 * 86_400
    plant.desire(plant.publish())
    start = plant.clock.now_ns
    plant.until(State.FETCHING, steps=30)
    assert (plant.clock.now_ns - start) / 1e9 <= 700.0


def test_after_three_automatic_rollbacks_in_a_day_a_person_has_to_act(plant: Plant) -> None:
    for _ in range(3):
        plant.desire(plant.publish())
        plant.rest(failing=True)
    good = plant.publish()
    plant.desire(good)
    for _ in range(50):
        plant.step()
    assert plant.lifecycle.status().state == State.IDLE
    assert "3 automatic rollbacks" in str(plant.lifecycle.status().alarm)
    plant.lifecycle.retry()
    plant.rest()
    assert plant.serving() == good.version


# --- people -----------------------------------------------------------------------------------------------------------


def test_a_rollback_goes_to_the_previous_release_with_the_next_batch_and_keeps_the_floor(plant: Plant) -> None:
    first, second = commit(plant), commit(plant)
    plant.lifecycle.rollback("scratches are missed")
    plant.step()
    assert plant.serving() == first.version, "the model was still loaded: one reference store"
    plant.rest()
    status = plant.lifecycle.status()
    assert (status.active, status.previous, status.counter_floor) == (first, second, 2)
    assert refusal(plant) == (Gate.OPERATOR, "rolled_back")
    assert [bad["digest"] for bad in plant.lifecycle.bad_list()] == [second.digest]
    plant.lifecycle.rollback("this one as well")
    plant.rest()
    assert plant.serving() == "0.0.0", "past the bad one to the factory"
    with pytest.raises(LifecycleError, match="no other model"):
        plant.lifecycle.rollback("and now")


def test_a_rollback_after_the_probation_loads_the_previous_release(plant: Plant) -> None:
    first = commit(plant)
    commit(plant)
    plant.clock.advance(plant.limits.probation_s)
    plant.step()
    plant.lifecycle.rollback("late")
    plant.rest()
    assert plant.serving() == first.version


def test_a_release_that_was_rolled_back_can_be_pardoned_although_its_counter_is_the_floor(plant: Plant) -> None:
    commit(plant)
    second = commit(plant)
    plant.lifecycle.rollback("a mistake")
    plant.rest()
    plant.lifecycle.retry(second.release_id)
    plant.rest()
    assert plant.serving() == second.version


@pytest.mark.parametrize("state", [State.STAGED, State.SELFTEST, State.SHADOW, State.TRIAL])
def test_a_rollback_during_a_rollout_ends_it_and_blames_the_candidate(plant: Plant, state: State) -> None:
    active, candidate = commit(plant), plant.publish()
    plant.desire(candidate)
    plant.until(state)
    plant.lifecycle.rollback("not this one")
    plant.rest()
    assert plant.serving() == active.version
    assert [bad["digest"] for bad in plant.lifecycle.bad_list()] == [candidate.digest]
    assert not plant.record().rollbacks_utc_s


def test_a_retry_of_what_is_not_on_the_bad_list_says_what_is(plant: Plant) -> None:
    with pytest.raises(LifecycleError, match="which has nothing"):
        plant.lifecycle.retry("abcdefgh")


# --- A/B --------------------------------------------------------------------------------------------------------------


def test_a_comparison_stays_until_it_is_stopped_and_blames_nobody(plant: Plant) -> None:
    ref = plant.publish()
    plant.desire(ref, mode="ab")
    plant.until(State.AB)
    for _ in range(50):
        plant.step()
    plant.clock.advance(3 * DAY_S)
    plant.step()
    assert plant.lifecycle.status().state == State.AB
    assert plant.lifecycle.status().share == 0.5
    plant.lifecycle.stop_ab()
    plant.rest()
    assert plant.serving() == "0.0.0"
    assert plant.lifecycle.bad_list() == []
    assert plant.lifecycle.ab_report() is not None
    plant.desire(ref, mode="ab", source="shadow")
    plant.rest()
    plant.desire(ref, mode="ab")
    plant.until(State.AB)


def test_a_comparison_is_promoted_by_a_person(plant: Plant) -> None:
    with pytest.raises(LifecycleError, match="No A/B test"):
        plant.lifecycle.promote()
    ref = plant.publish()
    plant.desire(ref, mode="ab")
    plant.until(State.AB)
    plant.step()
    plant.lifecycle.promote()
    plant.rest()
    assert plant.serving() == ref.version
    assert plant.lifecycle.status().counter_floor == 1


# --- revocation -------------------------------------------------------------------------------------------------------


def test_an_active_release_that_its_publisher_took_back_makes_way_and_the_wish_is_served(plant: Plant) -> None:
    commit(plant)
    active = commit(plant)
    plant.cloud.revoke(active)
    wanted = plant.publish()
    plant.desire(wanted)
    plant.until(State.ROLLING_BACK)
    plant.step()
    assert plant.serving() == "1.0.0"
    assert "taken back" in str(plant.lifecycle.status().alarm)
    plant.rest()
    assert plant.serving() == wanted.version


def test_with_all_releases_taken_back_the_factory_release_judges(plant: Plant) -> None:
    for ref in (commit(plant), commit(plant)):
        plant.cloud.revoke(ref)
    wanted = plant.publish()
    plant.cloud.revoke(wanted)
    plant.desire(wanted)
    plant.rest()
    assert plant.serving() == "0.0.0"
    assert refusal(plant)[0] is Gate.REVOKED


def test_a_revoked_release_is_left_though_nothing_is_wanted(plant: Plant) -> None:
    first, second = commit(plant), commit(plant)
    plant.cloud.revoke(second)
    fetches = plant.cloud.fetches
    plant.rest()
    assert plant.serving() == second.version  # not looked at yet
    plant.clock.advance(6 * HOUR_S)
    plant.rest()
    assert plant.serving() == first.version
    assert refusal(plant) == (Gate.REVOKED, "revoked_by_publisher")
    assert "taken back" in str(plant.lifecycle.status().alarm)
    assert plant.cloud.fetches == fetches
    assert [bad["release_id"] for bad in plant.lifecycle.bad_list()] == [second.release_id]


def test_a_start_looks_what_was_taken_back(plant: Plant) -> None:
    active = commit(plant)
    plant.cloud.revoke(active)
    plant.start().rest()
    assert plant.serving() == "0.0.0"


def test_a_previous_release_that_was_taken_back_is_no_way_back(plant: Plant) -> None:
    first = commit(plant)
    commit(plant)
    plant.cloud.revoke(first)
    plant.clock.advance(6 * HOUR_S)
    plant.rest()
    assert refusal(plant)[0] is Gate.REVOKED
    plant.clock.advance(6 * HOUR_S)
    plant.rest()
    assert [line["event"] for line in plant.lifecycle.history()].count("revoked") == 1
    plant.lifecycle.rollback("slow")
    plant.rest()
    assert plant.serving() == "0.0.0"


def test_what_was_taken_back_is_seen_while_the_wanted_release_is_not_published_yet(plant: Plant) -> None:
    first, second = commit(plant), commit(plant)
    plant.cloud.order("fetch", *[Fault.ERROR] * 2_000)
    plant.desire("model/9.9.9")
    plant.until(State.FETCHING)
    plant.cloud.revoke(second)
    for _ in range(600):  # pauses between tries are drawn by chance
        if plant.serving() == first.version:
            break
        plant.step()
    assert plant.serving() == first.version
    assert plant.record().wanted


def test_a_look_does_not_disturb_a_rollout(plant: Plant) -> None:
    commit(plant)
    looks = plant.cloud.looks
    plant.desire(plant.publish(), mode="ab")
    plant.until(State.AB)
    plant.clock.advance(DAY_S)
    for _ in range(20):
        plant.step()
    assert plant.lifecycle.status().state == State.AB
    assert plant.cloud.looks == looks


def test_looks_that_fail_are_an_alarm_after_three_days_only(plant: Plant) -> None:
    commit(plant)
    plant.cloud.order("look", *[Fault.ERROR] * 1_000)
    alarms = []
    for _ in range(100):
        plant.clock.advance(HOUR_S)
        plant.rest()
        alarms.append(plant.lifecycle.status().alarm)
    assert 60 < alarms.index(next(alarm for alarm in alarms if alarm)) < 80
    assert "Nothing was heard of the repository for" in str(alarms[-1])
    plant.start().rest()
    assert "Nothing was heard" in str(plant.lifecycle.status().alarm)  # a restart does not make it forget
    plant.cloud.faults.clear()
    plant.clock.advance(HOUR_S)
    plant.rest()
    assert plant.lifecycle.status().alarm is None


def test_a_revocation_waits_for_a_disk_that_refuses(plant: Plant) -> None:
    first, second = commit(plant), commit(plant)
    plant.cloud.revoke(second)
    plant.clock.advance(6 * HOUR_S)
    plant.trap = read_only_disk()
    for _ in range(5):
        plant.step()
    looks = plant.cloud.looks
    plant.trap = ignore
    plant.rest()
    assert (plant.serving(), plant.cloud.looks) == (first.version, looks)


def test_a_request_ends_a_look_at_once(plant: Plant) -> None:
    ref = commit(plant)
    plant.cloud.order("look", Fault.HANG)
    plant.clock.advance(6 * HOUR_S)
    looks = plant.cloud.looks

    def roll_back_meanwhile() -> None:
        while plant.cloud.looks == looks:
            time.sleep(0.01)
        plant.lifecycle.rollback("the old one was better")

    person = threading.Thread(target=roll_back_meanwhile, name="person")
    person.start()
    plant.rest()
    person.join()
    assert plant.serving() == "0.0.0"
    assert refusal(plant) == (Gate.OPERATOR, "rolled_back")
    assert ref.release_id in {bad["release_id"] for bad in plant.lifecycle.bad_list()}


# --- starts -----------------------------------------------------------------------------------------------------------


def test_a_start_finds_the_active_release_again(plant: Plant) -> None:
    ref = commit(plant)
    assert plant.start().serving() == ref.version


def test_a_candidate_that_ends_the_process_three_times_is_refused(plant: Plant) -> None:
    active, candidate = commit(plant), plant.publish()
    plant.desire(candidate)
    for _ in range(MAX_ATTEMPTS):
        plant.until(State.TRIAL)
        plant.start()
        assert plant.serving() == active.version
    plant.rest()
    assert refusal(plant) == (Gate.SELF_TEST, "attempts_exhausted")
    assert plant.serving() == active.version


def test_a_clean_stop_during_a_trial_costs_no_attempt(plant: Plant) -> None:
    candidate = plant.publish()
    plant.desire(candidate)
    for _ in range(2 * MAX_ATTEMPTS):
        plant.until(State.TRIAL)
        plant.lifecycle.close()
        plant.start()
    plant.rest()
    assert plant.serving() == candidate.version


def test_an_active_release_that_ends_the_process_at_every_start_makes_way(plant: Plant) -> None:
    commit(plant)
    commit(plant)
    plant.clock.advance(60.0)
    plant.step()
    served = [plant.start().serving() for _ in range(2 * MAX_BOOTS + 1)]
    assert served == ["2.0.0"] * MAX_BOOTS + ["1.0.0"] * MAX_BOOTS + ["0.0.0"]
    assert refusal(plant) == (Gate.SELF_TEST, "boot_loop")


def test_a_factory_release_that_ends_the_process_at_every_start_leaves_no_model_until_a_person_says_so(
    plant: Plant,
) -> None:
    served = [plant.start().serving() for _ in range(MAX_BOOTS)]
    assert served == ["0.0.0"] * (MAX_BOOTS - 1) + [None]
    plant.step()
    assert plant.lifecycle.status().state == State.SAFE
    assert "it is taken out" in str(plant.lifecycle.status().alarm)
    plant.lifecycle.retry()
    plant.rest()
    assert plant.serving() == "0.0.0"
    assert plant.lifecycle.status().alarm is None


def test_starts_that_live_for_a_minute_are_forgiven(plant: Plant) -> None:
    for _ in range(3 * MAX_BOOTS):
        plant.start()
        plant.clock.advance(60.0)
        plant.step()
        assert plant.serving() == "0.0.0"


def test_an_active_release_that_was_damaged_on_disk_makes_way_and_is_fetched_again_on_request(plant: Plant) -> None:
    commit(plant)
    active = commit(plant)
    path = plant.models / "releases" / active.digest / "model.onnx"
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    assert plant.start().serving() == "1.0.0"
    assert "cannot be loaded" in str(plant.lifecycle.status().alarm)
    plant.rest()
    assert plant.serving() == active.version, "still wanted, and not to blame"
    assert plant.lifecycle.status().alarm is None


def test_a_damaged_journal_is_an_alarm_and_the_line_goes_on(plant: Plant) -> None:
    commit(plant)
    for name in ("journal.json", "journal.prev.json"):
        (plant.models / name).write_bytes(b"damaged")
    plant.start()
    assert plant.serving() == "0.0.0"
    assert "factory release judges" in str(plant.lifecycle.status().alarm)
    assert plant.lifecycle.status().counter_floor == 1


def test_a_disk_that_is_read_only_at_the_start_does_not_keep_the_line_from_its_model(plant: Plant) -> None:
    ref = commit(plant)
    plant.trap = read_only_disk()
    assert plant.start().serving() == ref.version
    assert "cannot keep its journal" in str(plant.lifecycle.status().alarm)
    plant.trap = ignore
    commit(plant)
    assert plant.lifecycle.status().alarm is None


# --- the thread, and what is told -------------------------------------------------------------------------------------


def test_the_thread_serves_a_wish_that_arrives_while_a_fetch_hangs(plant: Plant) -> None:
    stuck, wanted = plant.publish(), plant.publish()
    plant.cloud.order("fetch", Fault.HANG)
    plant.desire(stuck)
    plant.lifecycle.launch()
    try:
        while plant.cloud.fetches == 0:
            threading.Event().wait(0.001)
        plant.desire(wanted)
        while plant.serving() != wanted.version:
            plant.line.run(20)
            threading.Event().wait(0.001)
    finally:
        plant.lifecycle.close()
    assert plant.lifecycle._thread is not None
    assert not plant.lifecycle._thread.is_alive()


def test_a_bug_does_not_take_the_model_from_the_line(plant: Plant, caplog: pytest.LogCaptureFixture) -> None:
    candidate = plant.publish()
    plant.desire(candidate)
    plant.until(State.TRIAL)

    def broken(_boundary: str) -> None:
        plant.trap = ignore
        raise ZeroDivisionError

    plant.trap = broken
    plant.lifecycle.launch()
    try:
        while plant.serving() != candidate.version:
            plant.line.run(20)
            threading.Event().wait(0.001)
    finally:
        plant.lifecycle.close()
    assert "goes on from the last verified state" in caplog.text
    assert "bug" in str(plant.lifecycle.status().alarm)


def test_figures_alone_are_told_at_most_once_a_second(plant: Plant) -> None:
    plant.desire(plant.publish(), mode="ab")
    plant.until(State.AB)
    plant.step()
    plant.told.clear()
    for _ in range(40):
        plant.step()  # a quarter of a second each
    assert 5 <= len(plant.told) <= 11
    assert replace(plant.told[0], progress={}) == replace(plant.told[-1], progress={})


def test_a_rollout_that_goes_in_circles_is_given_up(plant: Plant) -> None:
    ref = plant.publish()
    published = plant.cloud.releases[ref.release_id]
    plant.desire(ref)
    plant.until(State.STAGED)
    for _ in range(100):
        if plant.lifecycle.status().state == State.STAGED:
            staging = plant.models / "staging" / "stand-in--1.0.0"
            (staging / "model.onnx").write_bytes(b"changed after the fetch")
        plant.step()
    assert published.exists()
    assert refusal(plant) == (Gate.SELF_TEST, "goes_in_circles")


def test_a_release_asks_for_more_than_the_site_and_gets_it(folder: Path) -> None:
    plant = Plant(folder).start()
    policy = {**SHORT_POLICY, "shadow_parts": 5_000}
    long = write_release(folder / "long", version="9.0.0", counter=9, rollout=policy)
    plant.desire(plant.cloud.publish(long))
    plant.until(State.SHADOW)
    for _ in range(60):
        plant.step()
    assert plant.lifecycle.status().state == State.SHADOW
    plant.rest()
    assert plant.serving() == "9.0.0"


# --- held for a person ------------------------------------------------------------------------------------------------


def held(plant: Plant) -> Plant:
    """An A/B test in which the candidate failed on some parts in a row, after hundreds on which it did not."""
    commit(plant)
    plant.desire(plant.publish(), mode="ab")
    plant.until(State.AB)
    plant.step()
    plant.line.run(1_000)
    plant.line.run(12, failing=True)
    plant.lifecycle.step()
    return plant


def test_one_run_of_parts_holds_a_candidate_and_a_person_is_told_what_to_look_at(plant: Plant) -> None:
    status = held(plant).lifecycle.status()

    assert status.state == State.AB
    assert status.alarm is not None
    assert "gave no judgement on" in status.alarm
    assert "`kensa model continue` lets it go on" in status.alarm
    assert plant.lifecycle.bad_list() == []
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is not None
    assert not lease.trial.control.counts
    assert plant.lifecycle.ab_report() is not None


def test_what_a_candidate_is_held_for_is_told_once_and_not_with_every_part(plant: Plant) -> None:
    held(plant)
    told, alarm = len(plant.told), plant.lifecycle.status().alarm

    for _ in range(5):
        plant.line.run(3)
        plant.lifecycle.step()

    assert plant.lifecycle.status().alarm == alarm
    assert len(plant.told) <= told + 1, "figures alone are told once a second, and the clock stands"


def test_a_person_lets_a_held_candidate_go_on_and_the_history_says_so(plant: Plant) -> None:
    held(plant).lifecycle.proceed()

    plant.step()
    plant.step()

    assert plant.lifecycle.status().alarm is None
    assert plant.lifecycle.history()[-1]["event"] == "continued"
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is not None
    assert lease.trial.control.counts
    with pytest.raises(LifecycleError, match="No release is held"):
        plant.lifecycle.proceed()


def test_a_person_ends_what_is_held_and_then_it_is_not_held_any_more(plant: Plant) -> None:
    held(plant).lifecycle.rollback("a smeared part")

    plant.rest()

    assert plant.lifecycle.status().alarm is None
    assert refusal(plant) == (Gate.OPERATOR, "rolled_back")


def test_a_restart_while_a_candidate_is_held_tries_it_again_from_its_self_test(plant: Plant) -> None:
    held(plant).start()

    assert plant.lifecycle.status().state == State.VERIFIED
    assert plant.lifecycle.status().alarm is None
    plant.until(State.AB)


def test_a_refusal_on_live_parts_wakes_the_lifecycle_and_its_figures_reach_the_log(
    plant: Plant, caplog: pytest.LogCaptureFixture
) -> None:
    commit(plant)
    plant.desire(plant.publish())
    plant.until(State.TRIAL)
    plant.step()
    plant.line.run(100, failing=True)
    lease = plant.slot.lease()
    assert lease is not None
    assert lease.trial is not None
    assert lease.trial.control.ended, "before the lifecycle has taken a step"

    plant.rest()

    assert any("is refused by the gate errors" in m and " parts" in m for m in caplog.messages)
