"""The parts of the component that need no nucleus: pace, hints and answers, deferral, capabilities, environment."""

from __future__ import annotations

import json
import random
import shutil
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from agent.children.fetch_client import FetchClient
from agent.commands.doctor.check_result import CheckStatus
from agent.commands.doctor.checks import greengrass_component as examine
from agent.errors import ConfigError, FetchError, MessageError, OperatorError, ReleaseRefusedError, TransportError
from agent.ports import FetchJob
from agent.release_records import DesiredRelease, FetchedRelease, Gate, Refusal, ReleaseRef, RepositoryStatus
from agent.timing.clock import NS_PER_S, SystemClock
from greengrass import model_component
from greengrass.capabilities import Capabilities, Capability, ComponentStatus
from greengrass.deployment import component_config
from greengrass.deployment.config_validation import ConfigurationValidator
from greengrass.deployment.update_deferral import UpdateDeferral
from greengrass.environment import Environment, set_default_region
from greengrass.ipc.connection import Connection
from greengrass.ipc.rate_limit import PublishRateLimiter
from greengrass.ipc.transport import check_message
from greengrass.release_sources import release_hints
from greengrass.release_sources.desired_state import DeploymentDesiredState
from greengrass.release_sources.release_hints import FallbackFetcher, ReleaseHint, ReleaseStatus
from simulator.doubles.clocks.manual_clock import ManualClock
from tests.kits import model_status
from tests.kits.cloud.tuf_repository import RELEASE, SITE, Publisher

if TYPE_CHECKING:
    from collections.abc import Callable

    from greengrass.deployment.component_config import ComponentConfig

REF = ReleaseRef("parts", "1.1.0", 2, "d" * 64, "m" * 64)


# --- pace -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_neither_a_second_nor_the_time_of_a_place_holds_too_much(seed: int) -> None:
    rng = random.Random(seed)
    clock = ManualClock()
    pace = PublishRateLimiter(clock=clock)
    sent: list[tuple[int, int]] = []
    for _ in range(400):
        if rng.random() < 0.1:
            clock.advance(rng.uniform(0.0, 0.5))  # bursts after silence
        size = rng.choice([100, 800, 4_800])
        clock.advance(pace.reserve(size))
        sent.append((clock.monotonic_ns(), size))
    for index, (began_ns, _) in enumerate(sent):
        later = [(at_ns - began_ns, size) for at_ns, size in sent[index:]]
        assert sum(after_ns < NS_PER_S for after_ns, _ in later) <= 39
        place = [size for after_ns, size in later if after_ns < 0.13 * NS_PER_S]
        assert len(place) <= 10
        assert sum(place) <= 15_000


def test_a_burst_of_four_does_not_wait() -> None:
    pace = PublishRateLimiter(clock=ManualClock())
    assert [pace.reserve(500) for _ in range(4)] == [0.0] * 4
    assert pace.reserve(500) > 0.0


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["", "kensa/+/x", "kensa/#", "$aws/x", "a/b/c/d/e/f/g/h/i", "x" * 257, "a\0b"])
def test_a_topic_that_costs_the_connection_is_refused(topic: str) -> None:
    with pytest.raises(TransportError, match="topic"):
        check_message(topic, b"x")


def test_what_nucleus_lite_would_close_the_connection_over_is_refused() -> None:
    check_message("kensa/thing/verdicts/cam", b"x" * 6_500)
    with pytest.raises(TransportError, match="6501 bytes"):
        check_message("kensa/thing/verdicts/cam", b"x" * 6_501)


# --- wishes -----------------------------------------------------------------------------------------------------------


def test_a_wish_is_delivered_once_for_each_change() -> None:
    heard: list[tuple[str, DesiredRelease]] = []
    first, second = DesiredRelease("parts/1.0.0"), DesiredRelease("parts/1.1.0")
    wishes = DeploymentDesiredState({"top": first})
    wishes.update({"top": first})
    wishes.start(on_desired=lambda name, wish: heard.append((name, wish)))
    for wish in (first, second, second, first):
        wishes.update({"top": wish})
    wishes.update({})
    wishes.close()
    wishes.update({"top": second})
    assert heard == [("top", first), ("top", second), ("top", first)]


# --- handing over -----------------------------------------------------------------------------------------------------


def test_a_hint_comes_back_as_it_was_sent() -> None:
    hint = ReleaseHint("parts/1.1.0", Path("/artifacts/repository"))
    assert release_hints.parse_hint(hint.encode()) == hint


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b'{"release":"parts/1.1.0"}',
        b'{"release":"parts","folder":"/x"}',
        b'{"release":"parts/1.1.0","folder":"x"}',
        b'{"release":"parts/1.1.0","folder":1}',
        b'{"release":"parts/1.1.0","folder":"/x","then":"load it"}',
        b'{"release":"parts/1.1.0","folder":"/x\\u0000"}',
        b'{"release":"parts/1.1.0","folder":"/' + b"x" * 5_000 + b'"}',
    ],
)
def test_a_hint_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        release_hints.parse_hint(payload)


def test_a_status_comes_back_as_it_was_sent() -> None:
    refusal = Refusal(Gate.GOLDEN, "scores_differ", "too far " * 500)
    answer = ReleaseStatus.from_model_status(
        model_status.status(active=REF, refusal=refusal, refused=REF, desired=DesiredRelease("parts/1.1.0"))
    )
    assert release_hints.parse_status(answer.encode()) == answer
    assert len(answer.encode()) < 4_096


@pytest.mark.parametrize("payload", [b"{}", b'{"state":1}', b'{"state":"idle","active":["x"]}', b"x"])
def test_a_status_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        release_hints.parse_status(payload)


def answer(**members: str | None) -> ReleaseStatus:
    fields = dict.fromkeys(ReleaseStatus.__slots__) | {"state": "idle", "desired": "parts/1.1.0"} | members
    return ReleaseStatus(**cast("dict[str, Any]", fields))


@pytest.mark.parametrize(
    ("said", "waited_s", "serves"),
    [
        (answer(active="parts/1.1.0"), 0.0, True),
        (answer(active="parts/1.1.0", desired="parts/1.2.0"), 0.0, True),
        (answer(active="parts/1.0.0", state="trial", candidate="parts/1.1.0"), 1_000.0, None),
        (answer(active="parts/1.1.0", state="committed"), 0.0, None),
        (answer(refused="parts/1.1.0", reason="golden: x", text="why"), 0.0, False),
        (answer(refused="parts/1.1.0", candidate="parts/1.1.0", state="selftest"), 0.0, None),
        (answer(desired="parts/1.2.0"), 1.0, None),
        (answer(desired="parts/1.2.0"), 11.0, True),
        (answer(desired=None), 1.0, None),
    ],
)
def test_what_the_agent_says_decides_the_hand_over(said: ReleaseStatus, waited_s: float, serves: bool | None) -> None:  # noqa: FBT001
    verdict = model_component.evaluate_status(said, "parts/1.1.0", waited_s=waited_s)
    assert (None if verdict is None else verdict.is_accepted) == serves


@pytest.mark.parametrize(
    "tree", [None, {}, {"inspection": "top"}, {"inspection": "a/b", "release": "parts/1.1.0"}, {"release": "parts"}]
)
def test_a_model_component_without_a_task_is_refused(tree: object) -> None:
    with pytest.raises(ConfigError):
        model_component.read_model_config(tree)


def test_a_model_component_reads_text_as_nucleus_lite_delivers_it() -> None:
    tree = {"inspection": "top", "release": "parts/1.1.0", "patience_s": "60", "accessControl": {}}
    assert model_component.read_model_config(tree).patience_s == 60.0


# --- fetching where a hint says ---------------------------------------------------------------------------------------


class Shelf:
    """A fetcher that has, refuses or lacks."""

    def __init__(self, outcome: FetchedRelease | Exception) -> None:
        self.outcome = outcome
        self.asked = 0

    def fetch(self, job: FetchJob) -> FetchedRelease:
        self.asked += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def refresh(self, *, trusted_utc_s: float, stop: threading.Event) -> RepositoryStatus:
        self.asked += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return RepositoryStatus(self.outcome.signed_utc_s, self.outcome.revoked)


DOWN = FetchError("unreachable", "no network")
BAD = ReleaseRefusedError("trust", "bad_signature", "not ours")


def fetch(fetcher: FallbackFetcher) -> FetchedRelease:
    return fetcher.fetch(FetchJob(release_id="parts/1.1.0", into=Path("/x"), trusted_utc_s=0.0, stop=threading.Event()))


@pytest.mark.parametrize(
    ("hinted", "configured", "raised"),
    [(True, DOWN, None), (DOWN, True, None), (BAD, True, None), (BAD, DOWN, BAD), (DOWN, DOWN, DOWN), (DOWN, BAD, BAD)],
)
def test_a_hint_is_looked_at_first_and_the_repository_then(
    tmp_path: Path, hinted: Any, configured: Any, raised: Exception | None
) -> None:
    good = FetchedRelease(REF, tmp_path, 0.0)
    near, far = (Shelf(good if outcome is True else outcome) for outcome in (hinted, configured))
    fetcher = FallbackFetcher(configured=far, in_folder=lambda _folder: near)
    fetcher.add_hint(ReleaseHint("parts/1.1.0", tmp_path))
    if raised is None:
        assert fetch(fetcher) == good
    else:
        with pytest.raises(type(raised), match=str(raised)):
            fetch(fetcher)
    assert near.asked == 1


def test_a_hint_that_names_no_folder_costs_nothing(tmp_path: Path) -> None:
    near, far = Shelf(BAD), Shelf(FetchedRelease(REF, tmp_path, 0.0))
    fetcher = FallbackFetcher(configured=far, in_folder=lambda _folder: near)
    for number in range(200):
        fetcher.add_hint(ReleaseHint(f"parts/1.0.{number}", tmp_path))
    fetcher.add_hint(ReleaseHint("parts/1.1.0", tmp_path / "gone"))
    assert fetch(fetcher).ref == REF
    assert near.asked == 0


def test_what_a_rehearsal_has_fetched_does_not_travel_again(tmp_path: Path) -> None:
    publisher = Publisher.start(tmp_path)
    publisher.release()
    configured = FetchClient(
        repository=str(publisher.repository),
        root=publisher.root,
        site=SITE,
        trust_dir=tmp_path / "trust",
        max_release_bytes=1024**3,
        timeout_s=60.0,
        clock=SystemClock(),
    )
    fetcher = FallbackFetcher(configured=configured, in_folder=lambda _folder: configured)

    def fetched(folder: str) -> FetchedRelease:
        (tmp_path / folder).mkdir()
        return fetcher.fetch(
            FetchJob(release_id=RELEASE, into=tmp_path / folder, trusted_utc_s=time.time(), stop=threading.Event())
        )

    first = fetched("rehearsal")
    shutil.rmtree(publisher.repository / "files")  # it can only come from this disk now
    second = fetched("staging")
    assert second.ref == first.ref
    assert sorted(path.name for path in second.folder.iterdir()) == sorted(path.name for path in first.folder.iterdir())
    (second.folder / "model.onnx").unlink()
    (second.folder / "model.onnx").write_bytes(b"altered on this disk")
    with pytest.raises(FetchError):
        fetched("third")


# --- holding updates back ---------------------------------------------------------------------------------------------


def no_connection() -> Connection:
    return Connection(socket_path="/nowhere", token="x", clock=SystemClock())  # noqa: S106 - never connected


def guard(clock: ManualClock, why: list[str | None], defer_s: float = 100.0) -> UpdateDeferral:
    return UpdateDeferral(connection=no_connection(), busy=lambda: why[0], defer_s=lambda: defer_s, clock=clock)


def test_an_update_goes_at_once_when_nothing_runs() -> None:
    assert guard(ManualClock(), [None]).decide("d-1")[0] == 0


def test_a_trial_holds_an_update_back_but_not_for_ever() -> None:
    clock, why = ManualClock(), ["top is in trial"]
    asked = guard(clock, cast("list[str | None]", why))
    waits = []
    for _ in range(10):
        wait_ms, _ = asked.decide("d-1")
        waits.append(wait_ms)
        clock.advance(wait_ms / 1_000)
    assert waits == [30_000, 30_000, 30_000, 10_000, 0, 0, 0, 0, 0, 0]
    assert asked.decide("d-2")[0] == 30_000  # the next deployment has its own time


def test_an_update_goes_when_the_trial_has_ended() -> None:
    why: list[str | None] = ["top is in trial"]
    asked = guard(ManualClock(), why)
    assert asked.decide("d-1")[0] > 0
    why[0] = None
    assert asked.decide("d-1")[0] == 0


# --- judging what a deployment proposes -------------------------------------------------------------------------------


def proposed(tree: object) -> ComponentConfig:
    if tree == "bad":
        raise ConfigError("configuration is refused:\n  workers: given 0")
    config = component_config.read(
        {
            "line": "line1",
            "inspections": {
                "top": {
                    "release": "x",
                    "cameras": {"cam": {"kind": "folder", "path": "x"}},
                    "desired": {"release": "parts/1.1.0"},
                }
            },
            "updates": {"repository": "/media/releases", "root": "x", "site": "hall"},
        },
        thing="thing",
        work=Path("/w"),
        base=Path("/b"),
    )
    assert config.desired_releases
    return config


def validator(
    rehearse: Callable[[str, DesiredRelease, threading.Event], None], validate_s: float = 30.0
) -> ConfigurationValidator:
    return ConfigurationValidator(
        connection=no_connection(),
        read=proposed,
        rehearse=rehearse,
        validate_s=lambda: validate_s,
        clock=SystemClock(),
    )


def test_a_good_proposal_is_accepted_after_its_release_was_rehearsed() -> None:
    rehearsed: list[tuple[str, str]] = []
    judge = validator(lambda name, wish, _stop: rehearsed.append((name, wish.release_id))).validate
    assert judge("good") is None
    assert rehearsed == [("top", "parts/1.1.0")]


def raising(error: Exception) -> Callable[[str, DesiredRelease, threading.Event], None]:
    def rehearse(_name: str, _wish: DesiredRelease, _stop: threading.Event) -> None:
        raise error

    return rehearse


def test_a_refusal_names_the_key_or_the_release_and_the_reason() -> None:
    assert "workers: given 0" in (validator(raising(BAD)).validate("bad") or "")
    assert validator(raising(BAD)).validate("good") == "parts/1.1.0 is refused for top: not ours"
    assert validator(raising(DOWN)).validate("good") == "parts/1.1.0 cannot be fetched or tested now: no network"


def test_a_rehearsal_that_takes_too_long_is_ended_and_refused() -> None:
    def slow(_name: str, _wish: DesiredRelease, stop: threading.Event) -> None:
        assert stop.wait(30.0)
        raise FetchError("stopped", "stopped")

    assert "in time" in (validator(slow, validate_s=0.05).validate("good") or "")


# --- environment, and what the doctor says ----------------------------------------------------------------------------


def test_outside_of_greengrass_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="kensa run CONFIG"):
        Environment.read({"SVCUID": "x"}, work=tmp_path)


def test_the_folders_are_those_of_the_start_script(tmp_path: Path) -> None:
    variables = {"SVCUID": "x", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/s", "KENSA_WORK_DIR": "/w"}
    found = Environment.read({**variables, "KENSA_COMPONENT_DIR": "/c", "AWS_IOT_THING_NAME": "t"}, work=tmp_path)
    assert (found.base, found.work, found.thing) == (Path("/c"), Path("/w"), "t")
    assert Environment.read(variables, work=tmp_path).base == Path("/w")


@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told_where_it_waits(tmp_path: Path, is_abstract: bool) -> None:  # noqa: FBT001
    name = f"@kensa-{tmp_path.name}-{random.getrandbits(64):x}" if is_abstract else str(tmp_path / "notify")
    variables = {"SVCUID": "x", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT": "/s", "NOTIFY_SOCKET": name}
    environment = Environment.read(variables, work=tmp_path)
    environment.notify_ready()  # nobody listens: that is no fault of ours
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        environment.notify_ready()
        assert systemd.recv(100) == b"READY=1"


def test_boto3_hears_of_the_region() -> None:
    variables = {"AWS_REGION": "eu-central-1"}
    set_default_region(variables)
    assert variables["AWS_DEFAULT_REGION"] == "eu-central-1"


def standing(**changes: Any) -> ComponentStatus:
    has = Capabilities("lite", "2.6.0", frozenset(), frozenset({Capability.SHADOW}))
    return ComponentStatus(**{"capabilities": has, "confirms": True, "configuration": "c" * 64, **changes})


def test_the_doctor_tells_what_the_nucleus_has_and_what_takes_its_place(tmp_path: Path) -> None:
    standing().write(tmp_path)
    findings = list(examine.run_checks(tmp_path))
    text = " ".join(finding.seen for finding in findings)
    assert "lite 2.6.0" in text
    assert "the shadow is spoken to by its topics" in text
    assert {finding.status for finding in findings} <= {CheckStatus.OK, CheckStatus.WARN}
    assert any("accessControl" in (finding.remedy or "") for finding in findings)


def test_the_doctor_warns_of_a_refused_configuration_and_of_a_restart_that_is_needed(tmp_path: Path) -> None:
    standing(refused="workers: given 0", needs_restart=("workers",), confirms=False).write(tmp_path)
    warnings = [finding for finding in examine.run_checks(tmp_path) if finding.status is CheckStatus.WARN]
    assert any("workers: given 0" in finding.seen for finding in warnings)
    assert any("restart" in (finding.remedy or "") for finding in warnings)
    assert any("echo" in finding.seen for finding in warnings)


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps({"mode": 1})])
def test_the_doctor_survives_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "greengrass.json").write_text(content)
    assert [finding.status for finding in examine.run_checks(tmp_path)] == [CheckStatus.WARN]


def test_without_greengrass_the_doctor_says_nothing(tmp_path: Path) -> None:
    assert list(examine.run_checks(tmp_path)) == []
