"""`kensa model ...` against real lifecycles behind a real control socket."""

from __future__ import annotations

import json
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agent import cli, wire
from agent.commands import model_text
from agent.control import ControlServer
from agent.errors import ControlError, LifecycleError
from agent.evidence.paired_test import PairedCounts
from agent.health import heartbeat_publisher
from agent.images.decode import encode_jpeg
from agent.lifecycle import control_handlers
from agent.lifecycle.state.transitions import LifecycleState
from agent.records import Judgement, Observation, Outcome
from agent.release_records import DesiredRelease, Gate
from agent.wire.shadow_documents import encode_reported
from simulator.doubles.lifecycle.fake_repository import RepositoryFault
from simulator.doubles.lifecycle.lifecycle_harness import INSPECTION, LifecycleHarness
from simulator.doubles.lifecycle.release_fixtures import write_release as write_stand_in
from tests.kits import health_snapshots, model_status
from tests.kits.releases import spot_images, write_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agent.lifecycle.lifecycle import Lifecycle


class Site:
    """A configuration file, a plant whose lifecycle is stepped by hand, and the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.state_dir = folder / "state"
        self.state_dir.mkdir(parents=True)
        self.config = folder / "config.yaml"
        camera = {"kind": "folder", "path": "images"}
        release = write_release(folder / "installed")
        tree = {
            "thing": "thing-1",
            "line": "line-1",
            "state_dir": "state",
            "transport": {"kind": "none"},
            "inspections": {INSPECTION: {"release": str(release), "cameras": {"cam": camera}}},
        }
        self.config.write_text(yaml.safe_dump(tree))
        self.plant = LifecycleHarness(folder / "plant").start()
        self._capsys = capsys
        self._server = serve(self.state_dir, {INSPECTION: self.plant.lifecycle})

    @property
    def models(self) -> Path:
        """Journal and store, as the configuration's agent would have them."""
        return self.state_dir / "models" / INSPECTION

    def stop(self) -> None:
        self._server.close()

    def let_update(self) -> None:
        """Give the configuration `updates`, and the state directory what the plant has."""
        updates = {"repository": "/media/releases", "root": "1.root.json", "site": "hall-1"}
        self.config.write_text(yaml.safe_dump(yaml.safe_load(self.config.read_text()) | {"updates": updates}))
        shutil.copytree(self.plant.models_dir, self.models)

    def kensa(self, *words: str) -> tuple[int, str]:
        """Run `kensa model COMMAND CONFIG ...`; exit code, and standard output or the error."""
        count = 2 if words[0] == "ab" else 1
        code = cli.main(["model", *words[:count], str(self.config), *words[count:]])
        out = self._capsys.readouterr()
        return code, out.out if code == 0 else out.out + out.err

    def json(self, *words: str) -> dict[str, Any]:
        code, out = self.kensa(*words, "--json")
        assert code == 0, out
        answer: dict[str, Any] = json.loads(out)
        return answer


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    made = Site(tmp_path, capsys)
    yield made
    made.stop()


def serve(state_dir: Path, lifecycles: dict[str, Lifecycle]) -> ControlServer:
    server = ControlServer(state_dir=state_dir, handlers=control_handlers.model_handlers(lifecycles))
    server.start()
    return server


# --- the way of a release ---------------------------------------------------------------------------------------------


def test_a_new_line_shows_the_factory_release(site: Site) -> None:
    code, out = site.kensa("show")
    assert code == 0
    assert out.startswith("top: IDLE since it was set up\n")
    assert "active      the factory release" in out
    assert site.kensa("history") == (0, "nothing has happened yet: the factory release is active\n")


def test_a_wanted_release_comes_to_the_line_and_a_rollback_goes_back(site: Site) -> None:
    first, second = site.plant.publish(), site.plant.publish()
    for ref in (first, second):
        code, out = site.kensa("desire", ref.release_id)
        assert (code, "is requested" in out) == (0, True)
        site.plant.step_until_idle()
    code, out = site.kensa("show")
    assert f"active      {second.release_id}  counter 2" in out
    assert f"before      {first.release_id}" in out
    assert "`kensa model rollback` goes back to it" in out
    assert "requested by control (reached)" in out
    assert site.kensa("rollback", "--why", "the old one was better")[0] == 0
    site.plant.step_until_idle()
    assert site.plant.active_version() == first.version
    code, out = site.kensa("show")
    assert "refused     " in out
    assert "by the gate operator (rolled_back)" in out
    assert "A person ended it: the old one was better" in out
    assert "not again   " in out
    assert "refused, so a rollback leads to the factory release" in out
    assert site.json("show")["inspections"][INSPECTION]["active"]["release"] == first.release_id
    code, out = site.kensa("history")
    assert "committed idle the slot holds it" in " ".join(out.split())
    assert site.kensa("retry", second.release_id)[0] == 0
    site.plant.step_until_idle()
    assert site.json("show")["inspections"][INSPECTION]["deny_list"] == []


def test_a_refusal_shows_gate_figures_limits_and_what_to_do(site: Site) -> None:
    ref = site.plant.publish()
    site.kensa("desire", ref.release_id)
    site.plant.step_until(LifecycleState.TRIAL)
    site.plant.step_until_idle(failing=True)
    code, out = site.kensa("show")
    assert code == 0
    assert f"refused     {ref.release_id}, by the gate errors" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["figure", "measured", "limit"] in lines
    assert "what to do  the text says what fails: correct the model or the camera's image" in out


def test_two_releases_under_one_name_and_version_are_told_apart_wherever_they_stand_side_by_side(site: Site) -> None:
    """The same folder was released again under the next counter, with another model in it."""
    first = site.plant.publish("1.0.0")
    site.kensa("desire", first.release_id)
    site.plant.step_until_idle()
    folder = site.plant.folder / "published" / "again"
    write_stand_in(folder, version="1.0.0", counter=9)
    second = site.plant.repository.publish(folder)
    site.plant.published.append(second)
    assert (second.release_id, second.digest != first.digest) == (first.release_id, True)
    site.plant.desire(second.release_id, mode="ab")

    site.plant.step_until(LifecycleState.AB)

    values = site.json("show")["inspections"][INSPECTION]
    both = [f"1.0.0 (manifest {ref.digest[:8]}" for ref in (first, second)]
    assert all(text in model_text.format_summary(values) for text in both)
    shadow = encode_reported({INSPECTION: site.plant.lifecycle.status()}, gone=(), token=INSPECTION).decode()
    assert all(text in shadow for text in both)
    assert "has the name of the active release" in site.kensa("history")[1]
    assert "another model" in site.kensa("history")[1]
    site.kensa("rollback", "--why", "which one is this?")
    site.plant.step_until_idle()
    assert f"not again   {second.release_id} (operator, manifest {second.digest[:12]})" in site.kensa("show")[1]
    assert f"refused {second.release_id} (manifest {second.digest[:12]})" in model_text.format_summary(
        site.json("show")["inspections"][INSPECTION]
    )
    assert site.plant.active_version() == first.version


def test_a_person_lets_a_held_release_go_on(site: Site) -> None:
    site.plant.desire(site.plant.publish(), mode="ab")
    site.plant.step_until(LifecycleState.AB)
    site.plant.step()
    site.plant.parts.run(1_000)
    site.plant.parts.run(12, failing=True)
    site.plant.lifecycle.step()
    assert "`kensa model continue` lets it go on" in " ".join(site.kensa("show")[1].split())

    code, out = site.kensa("continue")
    site.plant.step()

    assert (code, "continues, its tests start again" in out) == (0, True)
    assert "a person let it continue: The candidate gave no judgement on" in site.kensa("history")[1]


def test_nothing_is_held_so_nothing_can_continue(site: Site) -> None:
    assert site.kensa("continue")[0] == 5


def test_what_is_older_than_the_floor_is_told_once_with_what_to_do(site: Site) -> None:
    old, new = site.plant.publish(), site.plant.publish()
    for ref in (old, new, old):
        site.kensa("desire", ref.release_id)
        site.plant.step_until_idle()
    out = " ".join(site.kensa("show")[1].split())
    assert "by the gate trust (counter_below_floor)" in out
    assert "add their folder again with `kensa release add` (it gets a new counter) and publish" in out
    assert "what to do" not in out


def test_the_first_failed_fetch_is_told_and_gone_once_one_works(site: Site) -> None:
    ref = site.plant.publish()
    site.plant.repository.inject("fetch", RepositoryFault.ERROR)
    site.kensa("desire", ref.release_id)
    site.plant.step_until(LifecycleState.FETCHING)
    site.plant.lifecycle.step()
    shown = site.json("show")["inspections"][INSPECTION]
    assert shown["last_try"] == {"reason": "unreachable", "text": "The simulated cloud does not answer."}
    assert shown["alarm"] is None
    assert "  last try    unreachable: The simulated cloud does not answer." in site.kensa("show")[1]
    site.plant.step_until_idle()
    assert site.json("show")["inspections"][INSPECTION]["last_try"] is None
    assert site.plant.active_version() == ref.version


def test_without_an_agent_the_journal_is_shown_and_left_alone(site: Site) -> None:
    ref = site.plant.publish()
    site.kensa("desire", ref.release_id)
    site.plant.step_until_idle()
    site.stop()
    code, out = site.kensa("show")
    assert (code, "no agent answers" in out) == (5, True)  # its configuration has no updates
    site.let_update()
    journal = site.models / "journal.json"
    journal.write_bytes(b"damaged")
    before = sorted(site.models.rglob("*"))
    code, out = site.kensa("show")
    assert code == 0
    assert out.startswith("No agent runs here. This is the state that the last one recorded")
    assert f"active      {ref.release_id}" in out
    assert "ALARM       The journal was damaged; the one before it counts." in out
    assert site.json("show")["running"] is False
    assert site.kensa("show", "--inspection", "side")[0] == 64
    assert sorted(site.models.rglob("*")) == before


def test_a_rollout_shows_its_share_and_its_figures(site: Site) -> None:
    ref = site.plant.publish()
    site.kensa("desire", ref.release_id)
    site.plant.step_until(LifecycleState.TRIAL)
    site.plant.step()
    code, out = site.kensa("show")
    assert code == 0
    assert f"candidate   {ref.release_id}" in out
    assert "inspects 50% of the parts beside the active one" in out
    assert "progress    " in out
    assert site.json("history")["history"][-1]["after"] == "trial"


# --- A/B --------------------------------------------------------------------------------------------------------------


def test_an_ab_test_is_started_compared_and_promoted(site: Site) -> None:
    ref = site.plant.publish()
    assert "no A/B test has run" in site.kensa("ab", "report")[1]
    assert site.json("ab", "report")["report"] is None
    code, out = site.kensa("ab", "start", ref.release_id, "--share", "25")
    assert (code, "25% of the parts" in out) == (0, True)
    site.plant.step_until(LifecycleState.AB)
    for _ in range(3):
        site.plant.step(blind=True)
    code, out = site.kensa("ab", "report")
    assert "parts inspected by both" in out
    assert "McNemar p" in out
    assert "the last disagreements:" in out
    assert site.json("ab", "report")["report"]["let_through"] > 0
    assert "25% of the parts" in site.kensa("show")[1]
    assert site.kensa("ab", "promote")[0] == 0
    site.plant.step_until_idle()
    assert site.plant.active_version() == ref.version


def test_an_ab_test_is_stopped_without_blame(site: Site) -> None:
    site.kensa("ab", "start", site.plant.publish().release_id)
    site.plant.step_until(LifecycleState.AB)
    assert site.kensa("ab", "stop")[0] == 0
    site.plant.step_until_idle()
    values = site.json("show")["inspections"][INSPECTION]
    assert (values["state"], values["deny_list"]) == ("idle", [])


def _compared(images: list[str | None]) -> PairedCounts:
    counts = PairedCounts()
    for number, image in enumerate(images):
        champion, challenger = Judgement(Outcome.DEFECT, "spot", 0.9, ()), Judgement(Outcome.OK, "ok", 0.1, ())
        key = f"line-1/cam/1/{number}"
        counts.add(Observation(key, "cam", champion, challenger, 900, 800, 2_000, image=image))
    return counts


def test_the_parts_that_they_disagree_on_are_drawn_on_one_sheet(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = site.state_dir / "frames"
    frames.mkdir()
    (frames / "1.jpg").write_bytes(encode_jpeg(spot_images()[0][1], quality=90))
    (site.state_dir.parent / "outside.jpg").write_bytes((frames / "1.jpg").read_bytes())
    report = _compared([None, "frames/1.jpg", "frames/displaced.jpg", "../outside.jpg", "frames/1.jpg"]).report()
    monkeypatch.setattr(site.plant.lifecycle, "ab_report", lambda: report)
    sheet = site.state_dir.parent / "sheet.png"
    code, out = site.kensa("ab", "report", "--pictures", str(sheet))
    assert code == 0
    assert f"2 pictures in {sheet}" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert site.json("ab", "report", "--pictures", str(sheet))["pictures"] == str(sheet)
    code, out = site.kensa("ab", "report", "--pictures", str(sheet / "nowhere.png"))
    assert (code, "Choose another --pictures" in out) == (1, True)
    (frames / "1.jpg").unlink()
    sheet.unlink()
    code, out = site.kensa("ab", "report", "--pictures", str(sheet))
    assert code == 0
    assert "the last disagreements:" in out
    assert f"no picture, {sheet} is not written: no frame of a disagreement is kept" in out
    assert site.json("ab", "report", "--pictures", str(sheet))["pictures"] is None
    monkeypatch.setattr(site.plant.lifecycle, "ab_report", lambda: _compared([]).report())
    code, out = site.kensa("ab", "report", "--pictures", str(sheet))
    assert (code, "the two have not disagreed yet" in out) == (0, True)
    assert not sheet.exists()


# --- what is refused at the door --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("desire", "parts"), 64, "write name/version"),
        (("desire", "../../etc/1.0.0"), 64, "write name/version"),
        (("ab", "start", "parts/1.0.0", "--share", "0"), 64, "above 0"),
        (("ab", "start", "parts/1.0.0", "--share", "many"), 64, "invalid"),
        (("show", "--inspection", "bottom"), 5, "there is no inspection 'bottom' here; known: top"),
        (("rollback",), 5, "no other model to return to"),
        (("retry", "parts/1.0.0"), 5, "not on the deny list"),
        (("ab", "promote"), 5, "No A/B test is running"),
        (("ab", "stop"), 5, "No A/B test is running"),
        (("verify", "--inspection", "bottom"), 64, "there is no inspection"),
        (("forget",), 64, "invalid choice"),
    ],
)
def test_wrong_use_is_answered_with_what_is_allowed(site: Site, words: tuple[str, ...], code: int, said: str) -> None:
    got, out = site.kensa(*words)
    assert got == code
    assert said in out


def test_status_shows_the_models_beside_the_heartbeat(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    (site.state_dir / "control.sock").unlink()
    beat = heartbeat_publisher.build_heartbeat(
        health_snapshots.IDENTITY, previous=None, current=health_snapshots.snapshot()
    )
    status: dict[str, Any] = {"status": lambda _: {"heartbeat": beat.model_dump(mode="json"), "active_conditions": []}}
    for lifecycles, expected in (({INSPECTION: site.plant.lifecycle}, 1), ({}, 0)):
        server = ControlServer(
            state_dir=site.state_dir, handlers={**status, **control_handlers.model_handlers(lifecycles)}
        )
        server.start()
        assert cli.main(["status", str(site.config)]) == 0
        assert capsys.readouterr().out.count("model top: idle, factory release") == expected
        assert cli.main(["status", str(site.config), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["thing"], len(told["models"])) == ("thing-1", expected)
        server.close()


def test_several_inspections_must_be_told_apart(site: Site, tmp_path: Path) -> None:
    other = LifecycleHarness(tmp_path / "other").start()
    server = serve(site.state_dir, {"top": site.plant.lifecycle, "side": other.lifecycle})
    code, out = site.kensa("desire", "parts/1.0.0")
    assert (code, "name one with --inspection (side, top)" in out) == (5, True)
    assert site.kensa("desire", "parts/1.0.0", "--inspection", "side")[0] == 0
    assert list(site.json("show")["inspections"]) == ["side", "top"]
    server.close()


def test_an_agent_without_updates_says_so(site: Site) -> None:
    server = serve(site.state_dir, {})
    for words in (("show",), ("desire", "parts/1.0.0"), ("ab", "report")):
        code, out = site.kensa(*words)
        assert (code, "takes no updates" in out) == (5, True)
    server.close()


def test_without_an_agent_the_remedy_is_named(site: Site) -> None:
    (site.state_dir / "control.sock").unlink()
    code, out = site.kensa("show")
    assert (code, "Is `kensa run` running" in out) == (5, True)


@pytest.mark.parametrize(
    "request_",
    [
        {"release": 1},
        {"release": "parts/1.0.0", "mode": "force"},
        {"release": "parts/1.0.0", "share": math.nan},
        {"release": "parts/1.0.0", "share": True},
        {"release": "parts/1.0.0", "inspection": ["top"]},
        {"release": None},
    ],
)
def test_a_hostile_request_is_refused(site: Site, request_: dict[str, Any]) -> None:
    handle: Callable[..., Any] = control_handlers.model_handlers({INSPECTION: site.plant.lifecycle})["model.desire"]
    with pytest.raises(ControlError):
        handle(request_)


def test_a_reason_without_end_is_refused(site: Site) -> None:
    handle: Callable[..., Any] = control_handlers.model_handlers({INSPECTION: site.plant.lifecycle})["model.rollback"]
    with pytest.raises(ControlError, match="1 to 200"):
        handle({"why": "x" * 201})


# --- without an agent -------------------------------------------------------------------------------------------------


def test_the_installed_release_is_verified(site: Site) -> None:
    (site.state_dir / "control.sock").unlink()
    code, out = site.kensa("verify")
    assert code == 0
    assert out.startswith("ok      top (")
    assert "golden images classified as where the release was made" in out
    folder = site.config.parent / "installed"
    assert cli.main(["model", "verify", "--release", str(folder), "--json"]) == 0


def test_a_release_whose_bytes_changed_is_refused(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    folder = site.config.parent / "installed"
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(bytes(content))
    code, out = site.kensa("verify")
    assert code == 3
    assert out.startswith("REFUSED top (")
    assert cli.main(["model", "verify"]) == 64
    assert "give CONFIG, or --release DIR" in capsys.readouterr().err


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", Gate)
def test_every_gate_has_a_remedy(gate: Gate) -> None:
    status = model_status.status(refusal=replace(model_status.REFUSAL, gate=gate))
    lines = model_text.format_refusal(control_handlers.status_values(status))
    assert any(line.startswith("  what to do  ") for line in lines)
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("state", LifecycleState)
def test_every_state_is_explained(state: LifecycleState) -> None:
    values = {**control_handlers.status_values(model_status.status(state=state)), "deny_list": []}
    lines = model_text.format_status(values, now_utc_s=1_790_000_000.0)
    assert "older than the agent" not in lines[1]


def test_figures_and_limits_stand_side_by_side() -> None:
    assert model_text.format_refusal(control_handlers.status_values(model_status.ROLLED_BACK))[3:7] == [
        "              figure           measured  limit",
        "              e_value              1832   1000",
        "              only_champion          17      -",
        "              only_challenger         0      -",
    ]


def test_a_newer_agent_is_still_understood() -> None:
    values = {**control_handlers.status_values(model_status.status(state="dreaming")), "deny_list": []}
    values["refusal"] = {"gate": "taste", "reason": "r", "text": "t", "figures": {}, "limits": {}}
    lines = model_text.format_status(values, now_utc_s=0.0)
    assert "older than the agent" in lines[1]
    assert model_text.format_history([{"utc_s": 1e300, "state": "a", "event": "b", "after": "c", "release_id": None,
                                "note": None}])[1].split() == ["unknown", "-", "a", "c", "b"]  # fmt: skip


def test_status_has_one_line_for_a_model() -> None:
    line = model_text.format_summary(control_handlers.status_values(model_status.IN_TRIAL))
    assert line == "model surface: TRIAL, parts/1.0.0, candidate parts/1.1.0 at 25%"
    line = model_text.format_summary(control_handlers.status_values(model_status.ROLLED_BACK))
    assert "refused parts/1.1.0 (verdicts: finds_fewer_defects)\n  ALARM Too many rollbacks today." in line


@pytest.mark.parametrize(
    "text", ["parts/1.0.0", "parts/1.0.0-rc.1", "parts/1.0", "a b/1.0.0", "parts/1.0.0\n", "p/1234567.0.0"]
)
def test_release_ids_of_the_wire_and_of_the_lifecycle_are_the_same(site: Site, text: str) -> None:
    with nullcontext() if wire.is_release_id(text) else pytest.raises(LifecycleError, match="is no release"):
        site.plant.lifecycle.desire(DesiredRelease(text))
