"""A refused challenger decides nothing from the next batch on; a held one while held."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Literal

from agent.evidence.rollout_gates import RolloutAction, RolloutEvaluator
from agent.lifecycle.thread_safe_evaluator import ThreadSafeEvaluator
from agent.records import Judgement, Observation, Outcome
from agent.release.rollout_policy import RolloutPolicy
from agent.slot import Trial
from tests.kits.python_models import Line, PlainModel, lease_of, saying

if TYPE_CHECKING:
    from collections.abc import Callable

    from agent.records import Verdict

OK, DEFECT = Outcome.OK, Outcome.DEFECT


def seen(key: int, challenger: Outcome = OK, *, camera: str = "cam") -> Observation:
    judgements = {outcome: Judgement(outcome, "any", 0.1, ()) for outcome in (OK, DEFECT)}
    return Observation(str(key), camera, judgements[OK], judgements[challenger], 1, 1, 1)


def begin(judge: RolloutEvaluator, *, phase: Literal["shadow", "trial"] = "trial") -> None:
    judge.begin_phase(phase, parts=1_000)


def evaluator(*, good_parts: int = 0, heard: Callable[[], None] = lambda: None) -> ThreadSafeEvaluator:
    made = ThreadSafeEvaluator(RolloutEvaluator(RolloutPolicy()), on_refusal=heard)
    observe = made.begin_phase(partial(begin, phase="shadow"))
    for i in range(good_parts):
        observe(seen(i))
    return made


def trial_on(
    line: Line, judging: ThreadSafeEvaluator, observe: Callable[[Observation], None], score: float = 0.9
) -> None:
    challenger = lease_of(PlainModel("2", saying(score)))
    line.slot.begin_trial(Trial(challenger, 1.0, "salt", observe, judging.control))


def by_challenger(verdicts: list[Verdict]) -> int:
    """Parts that only the challenger rejects, and that are rejected."""
    return sum(verdict.judgement.outcome is DEFECT for verdict in verdicts)


def test_a_refusal_ends_a_trial_for_the_very_next_batch_and_wakes_the_lifecycle() -> None:
    heard: list[str] = []
    judging = evaluator(good_parts=400, heard=lambda: heard.append("refused"))
    line = Line(lease_of(PlainModel("1", saying(0.1))))
    trial_on(line, judging, judging.begin_phase(begin))

    decided = [by_challenger(line.judge(8)) for _ in range(10)]

    assert decided == [8, 8, 0, 0, 0, 0, 0, 0, 0, 0], "11 parts decide; the batch in work is finished"
    assert heard == ["refused"]
    assert line.verdicts[-1].arm is None, "it is not even asked any more"
    assert judging.decide(overdue=False)[0].action is RolloutAction.REFUSE


def test_with_many_workers_a_refused_challenger_decides_only_parts_that_are_in_work() -> None:
    judging = evaluator(good_parts=400)
    observe = judging.begin_phase(begin)
    lines = [Line(lease_of(PlainModel("1", saying(0.1)))) for _ in range(4)]
    for line in lines:
        trial_on(line, judging, observe)
    decided: list[tuple[bool, int]] = []  # whether the refusal was known when the batch began, parts

    def work(line: Line) -> None:
        for _ in range(40):
            was_refused = judging.control.has_ended
            decided.append((was_refused, by_challenger(line.judge(8))))

    threads = [threading.Thread(target=work, args=(line,)) for line in lines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(parts for was_refused, parts in decided if was_refused) == 0
    assert sum(parts for _, parts in decided) <= 16 + 8 * (len(lines) - 1)


def test_a_held_trial_goes_on_without_the_challengers_word_and_gives_it_back() -> None:
    judging = evaluator(good_parts=400)
    observe = judging.begin_phase(begin)
    line = Line(lease_of(PlainModel("1", saying(0.1))))
    for i in range(50):
        observe(seen(i))
    trial_on(line, judging, observe)

    first, second = line.judge(8), line.judge(8)
    held = line.judge(8)

    assert [by_challenger(verdicts) for verdicts in (first, second, held)] == [8, 8, 0]
    assert {verdict.challenger_outcome for verdict in held} == {DEFECT}, "it is still asked, for the statistics"
    decision, _, report = judging.decide(overdue=False)
    assert decision.action is RolloutAction.HOLD
    assert decision.held is not None
    assert "disagrees with the running model on 24 of the last 24 parts, on none of the 450 before" in decision.held
    assert len(report.disagreements) == 24, "a person can look at them"
    for i in range(800):
        observe(seen(i))
    assert by_challenger(line.judge(8)) == 8


def test_what_a_worker_still_says_about_the_phase_before_reaches_nobody() -> None:
    judging = evaluator()
    old = judging.begin_phase(partial(begin, phase="shadow"))
    judging.begin_phase(begin)

    old(seen(1))

    assert judging.decide(overdue=False)[1]["pairs"] == 0.0


def test_no_part_waits_for_another_to_be_judged() -> None:
    """Several threads add parts at once: when all are done, every part has been evaluated."""
    judging = evaluator()
    observe = judging.begin_phase(begin)
    start = threading.Barrier(5)

    def bring(camera: int) -> None:
        start.wait()
        for i in range(500):
            observe(seen(i, camera=str(camera)))

    threads = [threading.Thread(target=bring, args=(camera,)) for camera in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    for _ in range(50):
        judging.decide(overdue=False)
    for thread in threads:
        thread.join()

    assert judging._evaluator.progress()["pairs"] == 2_000.0, "nothing was left in the inbox"


def test_a_lifecycle_that_lets_go_of_a_candidate_takes_its_word_from_batches_in_work() -> None:
    judging = evaluator()
    line = Line(lease_of(PlainModel("1", saying(0.1))))
    trial_on(line, judging, judging.begin_phase(begin))

    judging.stop()

    assert by_challenger(line.judge(8)) == 0


def test_while_the_line_itself_is_not_healthy_a_challengers_word_does_not_count() -> None:
    judging = evaluator(good_parts=400)
    observe = judging.begin_phase(begin)
    line = Line(lease_of(PlainModel("1", saying(0.1))))
    trial_on(line, judging, observe)

    judging.set_paused(is_paused=True)
    paused = line.judge(2)
    observe(seen(1))
    still = line.judge(2)
    judging.set_paused(is_paused=False)

    assert [by_challenger(verdicts) for verdicts in (paused, still, line.judge(2))] == [0, 0, 2]
