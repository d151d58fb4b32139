from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from agent import wire
from agent.errors import MessageError
from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict

NAMES = st.sampled_from(["a", "Z9", "_-", "n" * 64, "cam-01", "0"])
COUNTS = st.integers(0, 2**53 - 1)
SCORES = st.floats(0.0, 1.0, allow_nan=False)
CLEAN = st.text(max_size=10)  # short enough never to be cut
MODELS = st.builds(
    ModelIdentity, NAMES, st.sampled_from(["1.0.0", "999999.0.12-rc.1"]), st.sampled_from(["a" * 64, "0" * 64]),
    COUNTS, st.booleans(),
)  # fmt: skip
ORIGINS = st.builds(
    Origin, NAMES, NAMES, NAMES, NAMES, COUNTS, NAMES, NAMES, st.none() | MODELS,
    st.lists(NAMES, min_size=1, max_size=4, unique=True).map(tuple),
)  # fmt: skip


@st.composite
def verdicts(draw: st.DrawFn, outcomes: st.SearchStrategy[Outcome], origin: Origin | None = None) -> Verdict:
    origin = origin or draw(ORIGINS)
    scores = tuple(draw(SCORES) for _ in origin.classes)
    outcome = draw(outcomes)
    challenger = draw(st.none() | st.sampled_from(Outcome))
    is_ok = outcome is Outcome.OK
    return Verdict(
        origin=origin,
        seq=draw(st.integers(0, 2**40)),
        captured_utc_ns=draw(st.integers(0, 2**60)),
        judgement=Judgement(
            outcome,
            draw(st.sampled_from(origin.classes)),
            draw(SCORES),
            scores,
            None if is_ok else draw(st.none() | st.tuples(*[st.integers(0, 99_999)] * 4)),
            None if is_ok else draw(st.none() | CLEAN),
        ),
        latency_us=draw(st.integers(0, 10**9)),
        part_id=draw(st.none() | CLEAN),
        image=None if is_ok else draw(st.none() | CLEAN),
        arm=draw(st.sampled_from([None, "champion", "challenger"])),
        challenger_outcome=challenger,
        challenger_sha256=None if challenger is None else "e" * 64,
    )


def as_sent(verdict: Verdict, score_step: float) -> Verdict:
    """What the docs promise to arrive: microseconds, rounded scores."""

    def rounded(score: float) -> float:
        if score_step == 1e-6:
            return round(score, 6)
        return int(score * 10_000 + 0.5) / 10_000

    judgement = dataclasses.replace(
        verdict.judgement,
        score=rounded(verdict.judgement.score),
        scores=tuple(map(rounded, verdict.judgement.scores)),
    )
    captured = verdict.captured_utc_ns // 1_000 * 1_000
    return dataclasses.replace(verdict, judgement=judgement, captured_utc_ns=captured)


def without_scores(verdict: Verdict) -> Verdict:
    origin = dataclasses.replace(verdict.origin, classes=())
    return dataclasses.replace(verdict, origin=origin, judgement=dataclasses.replace(verdict.judgement, scores=()))


@settings(max_examples=60, deadline=None)
@given(verdicts(st.sampled_from(Outcome)), st.booleans())
def test_a_single_verdict_comes_back_as_it_was(verdict: Verdict, replay: bool) -> None:  # noqa: FBT001
    payload = wire.encode_verdict(verdict)
    delivery = wire.decode(wire.mark_replay(payload) if replay else payload)
    assert delivery == wire.DecodedVerdicts((as_sent(verdict, 1e-6),), replay)
    assert wire.sequence_numbers(payload) == [verdict.seq]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_envelopes_give_every_ok_verdict_back_once_and_in_order(data: st.DataObject) -> None:
    origin = data.draw(ORIGINS)
    sent = data.draw(st.lists(verdicts(st.just(Outcome.OK), origin), min_size=1, max_size=6))
    packs: dict[wire.EnvelopeKey, wire.EnvelopeBuilder] = {}
    for verdict in sent:
        key = wire.envelope_key(verdict)
        assert key is not None
        assert packs.setdefault(key, wire.EnvelopeBuilder(verdict)).try_add(verdict)
    for key, pack in packs.items():
        payload = pack.encode()
        assert len(payload) < wire.MAX_MESSAGE_BYTES
        delivery = wire.decode(payload)
        assert isinstance(delivery, wire.DecodedVerdicts)
        expected = [as_sent(verdict, 1e-4) for verdict in sent if wire.envelope_key(verdict) == key]
        if not delivery.verdicts[0].origin.classes:  # too many classes for 32 of the longest rows: scores stay behind
            expected = [without_scores(verdict) for verdict in expected]
        assert list(delivery.verdicts) == expected
        assert wire.sequence_numbers(payload) == [verdict.seq for verdict in expected]
        assert (pack.first_seq, pack.last_seq) == (
            min(verdict.seq for verdict in expected), max(verdict.seq for verdict in expected)
        )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=2_000))
def test_any_text_at_all_may_be_a_part_id(text: str) -> None:
    verdict = Verdict(
        Origin("t", "l", "i", "c", 1, "a", "b", None, ("good",)), 1, 1_000,
        Judgement(Outcome.DEFECT, "good", 0.5, (0.5,)), 1, part_id=text,
    )  # fmt: skip
    delivery = wire.decode(wire.encode_verdict(verdict))
    assert isinstance(delivery, wire.DecodedVerdicts)
    got = delivery.verdicts[0].part_id
    assert got is not None
    assert got == text or len(got) <= 128


VERDICT = wire.encode_verdict(
    Verdict(
        Origin("t", "l", "i", "c", 1, "a", "b", None, ("good",)),
        1,
        1_000,
        Judgement(Outcome.OK, "good", 0.5, (0.5,), (1, 2, 3, 4), "why"),
        1,
        part_id="p",
    )
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(VERDICT) - 1), st.binary(max_size=3)), min_size=1, max_size=6))
def test_a_mutated_message_is_refused_or_valid_never_a_crash(changes: list[tuple[int, bytes]]) -> None:
    payload = VERDICT
    for at, new in changes:
        payload = payload[:at] + new + payload[at + 1 :]
    try:
        delivery = wire.decode(payload)
    except MessageError:
        return
    assert isinstance(delivery, wire.DecodedVerdicts)
    wire.encode_verdict(delivery.verdicts[0])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(wire.SCHEMAS)), st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_any_json_of_a_known_kind_is_refused_with_a_message_error(kind: str, fields: dict[str, object]) -> None:
    payload = to_json({**fields, "kind": kind})
    try:
        wire.decode(payload)
    except MessageError:
        return
    raise AssertionError(payload)


def test_sequence_numbers_of_an_envelope_follow_its_rows() -> None:
    origin = Origin("t", "l", "i", "c", 1, "a", "b", None, ("good",))
    seqs = [5, 9, 7, 7, 100]
    made = [Verdict(origin, seq, 1_000, Judgement(Outcome.OK, "good", 0.5, (0.5,)), 1) for seq in seqs]
    pack = wire.EnvelopeBuilder(made[0])
    assert all(pack.try_add(verdict) for verdict in made)
    assert wire.sequence_numbers(pack.encode()) == seqs
