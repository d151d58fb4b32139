"""The site's own labelled parts: kept, bounded, found again, and judged as the line judges."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from agent import cli
from agent.errors import OperatorError
from agent.records import DecisionRule, Judgement, Outcome
from agent.release import acceptance_set
from agent.release.acceptance_set import AcceptanceSet, is_correct
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path

RULE = DecisionRule(("ok", "spot", "dent"), frozenset({"spot", "dent"}), {"spot": 0.5, "dent": 0.5})
LABELS = ("ok", "defect", "spot")


def picture(*, spot: bool, shade: int = 20) -> bytes:
    pixels = np.full((64, 64), shade, np.uint8)
    if spot:
        pixels[16:32, 32:48] = 240
    return bytes(cv2.imencode(".png", pixels)[1])


@pytest.fixture
def parts(tmp_path: Path) -> AcceptanceSet:
    return AcceptanceSet(tmp_path / "acceptance" / "top")


def add(parts: AcceptanceSet, data: bytes, label: str = "ok") -> acceptance_set.LabelledPart:
    return parts.add(data, label=label, by="me", origin="test.png", now_utc_ns=1_800_000_000_000_000_000)[0]


# --- the set ----------------------------------------------------------------------------------------------------------


def test_a_part_is_kept_with_label_who_and_when(parts: AcceptanceSet) -> None:
    part = add(parts, picture(spot=True), "spot")

    assert AcceptanceSet(parts.folder).parts() == (part,)
    assert (part.label, part.by, part.origin, part.added_utc) == ("spot", "me", "test.png", "2027-01-15T08:00:00+00:00")
    assert parts.read(part) == picture(spot=True)


def test_the_same_picture_again_replaces_its_label(parts: AcceptanceSet) -> None:
    add(parts, picture(spot=True), "ok")
    _, is_new = parts.add(picture(spot=True), label="defect", by="you", origin="again", now_utc_ns=0)

    assert not is_new
    assert [part.label for part in parts.parts()] == ["defect"]


def test_what_is_no_picture_is_refused_by_name(parts: AcceptanceSet) -> None:
    with pytest.raises(OperatorError, match=r"test\.png is no image"):
        add(parts, b"not a picture")
    assert parts.parts() == ()


def test_a_label_that_is_no_name_is_refused(parts: AcceptanceSet) -> None:
    with pytest.raises(OperatorError, match="label"):
        add(parts, picture(spot=True), "no such/label")


def test_the_set_is_bounded(parts: AcceptanceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptance_set, "MAX_PARTS", 2)
    add(parts, picture(spot=False, shade=1))
    add(parts, picture(spot=False, shade=2))

    with pytest.raises(OperatorError, match="is full"):
        add(parts, picture(spot=False, shade=3))
    add(parts, picture(spot=False, shade=2), "defect")  # one of them again is no third
    assert len(parts.parts()) == 2


def test_a_part_is_removed_by_the_start_of_its_digest(parts: AcceptanceSet) -> None:
    kept, gone = add(parts, picture(spot=False)), add(parts, picture(spot=True))

    parts.remove(gone.short_digest)

    assert parts.parts() == (kept,)
    assert not (parts.folder / gone.file_name).exists()
    with pytest.raises(OperatorError, match="names 0 of 1"):
        parts.remove("ffff")
    with pytest.raises(OperatorError, match="names 0 of 1"):
        parts.remove("")


def test_a_changed_picture_and_a_damaged_index_are_named(parts: AcceptanceSet) -> None:
    part = add(parts, picture(spot=False))
    (parts.folder / part.file_name).write_bytes(picture(spot=True))
    with pytest.raises(OperatorError, match="is not the image that was added"):
        parts.read(part)

    (parts.folder / "index.json").write_text('{"parts": [{"sha256": "../../etc/passwd"}]}')
    with pytest.raises(OperatorError, match="is damaged"):
        parts.parts()


@pytest.mark.parametrize(
    ("outcome", "class_name", "right"),
    [
        (Outcome.OK, "ok", (True, False, False)),
        (Outcome.DEFECT, "spot", (False, True, True)),
        (Outcome.DEFECT, "dent", (False, True, False)),
        (Outcome.UNSURE, "spot", (False, True, True)),
        (Outcome.UNKNOWN, None, (False, False, False)),
    ],
)
def test_right_is_what_nobody_would_have_to_correct(
    outcome: Outcome, class_name: str | None, right: tuple[bool, ...]
) -> None:
    judgement = Judgement(outcome, class_name, 0.5, ())

    assert tuple(is_correct(label, judgement, RULE) for label in LABELS) == right


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A configuration with one inspection; good.png and bad.png lie beside it."""
    write_release(tmp_path / "release")
    (tmp_path / "good.png").write_bytes(picture(spot=False))
    (tmp_path / "bad.png").write_bytes(picture(spot=True))
    path = tmp_path / "kensa.yaml"
    path.write_text(
        """\
thing: thing-1
line: line-1
state_dir: ./state
inspections:
  top:
    release: ./release
    cameras:
      cam: {kind: folder, path: ./images}
transport: {kind: none}
"""
    )
    return path


def kensa(*arguments: object) -> int:
    from agent.commands.acceptance import main  # noqa: PLC0415 - as the command finds it
    from agent.errors import KensaError  # noqa: PLC0415

    try:
        return main([str(argument) for argument in arguments])
    except KensaError as error:
        print(error)  # noqa: T201 - where the test reads it
        return error.exit_code


def test_added_parts_are_judged_by_the_running_release(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kensa("add", site, "--label", "ok", site.parent / "good.png") == 0
    assert kensa("add", site, "--inspection", "top", "--label", "spot", "--by", "qa", site.parent / "bad.png") == 0
    assert kensa("run", site) == 0
    assert "spots 1.0.0: 2 of 2 labelled parts of top classified right" in capsys.readouterr().out


def test_a_part_that_is_judged_wrong_is_named_and_ends_with_3(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kensa("add", site, "--label", "ok", site.parent / "good.png", site.parent / "bad.png")

    assert kensa("run", site) == 3
    assert "WRONG" in (shown := capsys.readouterr().out)
    assert "bad.png" in shown
    assert "1 of 2" in shown
    assert kensa("run", site, "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert [part["outcome"] for part in told["wrong"]] == ["defect"]


def test_another_release_can_be_asked(site: Path) -> None:
    kensa("add", site, "--label", "defect", site.parent / "bad.png")
    blunt = {"thresholds": {"spot": 0.99}, "unsure_band": 0.0}
    other = write_release(site.parent / "other", version="2.0.0", decision=blunt)

    assert kensa("run", site) == 0
    assert kensa("run", site, "--release", other) == 3


def test_the_sites_thresholds_lie_over_the_releases(site: Path) -> None:
    kensa("add", site, "--label", "defect", site.parent / "bad.png")
    site.write_text(site.read_text().replace("release: ./release", "release: ./release\n    thresholds: {spot: 0.99}"))
    site.write_text(site.read_text().replace("thresholds:", "unsure_band: 0.0\n    thresholds:"))

    assert kensa("run", site) == 3


def test_list_and_remove(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kensa("add", site, "--label", "ok", site.parent / "good.png")
    capsys.readouterr()
    assert kensa("list", site, "--json") == 0
    number = json.loads(capsys.readouterr().out)[0]["sha256"][:12]

    assert kensa("remove", site, number) == 0
    assert kensa("list", site) == 0
    assert "top: 0 parts" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["add", "--label", "dent", "good.png"], 2, "ok, defect, ok, spot"),
        (["add", "--label", "ok", "none.png"], 2, "No such file"),
        (["add", "--label", "ok", "line-1/cam/1/7"], 1, "state"),
        (["add", "--inspection", "side", "--label", "ok", "good.png"], 2, "the configuration has top"),
        (["run"], 2, "has no labelled parts yet"),
        (["remove", "abc"], 2, "names 0 of 0"),
    ],
)
def test_mistakes_are_told_with_what_is_there(
    site: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    command, *rest = [str(site.parent / a) if a.endswith(".png") else a for a in arguments]

    assert kensa(command, site, *rest) == code
    assert told in capsys.readouterr().out


def test_a_verdicts_kept_frame_becomes_a_part(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (site.parent / "images").mkdir()
    (site.parent / "images" / "0.png").write_bytes(picture(spot=True))
    assert cli.main(["run", str(site)]) == 0
    capsys.readouterr()

    epoch = (site.parent / "state" / "boot_epoch").read_text()
    assert kensa("add", site, "--label", "spot", f"line-1/cam/{epoch}/0") == 0
    assert f"added: verdict line-1/cam/{epoch}/0" in capsys.readouterr().out
    assert kensa("run", site) == 0
