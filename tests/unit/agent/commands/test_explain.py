"""`kensa explain` finds a verdict and shows its reasons, or lists the known keys."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from agent import app, cli, config, preprocess
from agent.adapters import verdict_image
from agent.commands import explain
from agent.errors import KensaError
from agent.preprocess import InputPlan, InputTile
from agent.records import Geometry
from tests.kits.releases import write_release

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import Pixels

SPOT = (128, 64, 64, 64)  # x, y, width, height in the frame of 256 x 256


def picture_of(*, spot: bool) -> Pixels:
    """A dark part, lit from one side: what is perfectly flat is not judged."""
    pixels = np.broadcast_to(np.linspace(10, 30, 256), (256, 256)).astype(np.uint8)
    if spot:
        x, y, w, h = SPOT
        pixels[y : y + h, x : x + w] = 250
    return pixels


def write_site(folder: Path) -> Path:
    """A line with two pictures: 0.png is ok, 1.png has a spot."""
    write_release(folder / "release")
    (folder / "images").mkdir()
    cv2.imwrite(str(folder / "images" / "0.png"), picture_of(spot=False))
    cv2.imwrite(str(folder / "images" / "1.png"), picture_of(spot=True))
    path = folder / "kensa.yaml"
    path.write_text(
        """\
thing: thing-1
line: line-1
state_dir: ./state
inspections:
  top:
    release: ./release
    intake: {policy: wait}
    check_pictures: false  # plain pictures, so that the scores are round
    cameras:
      cam: {kind: folder, path: ./images}
transport: {kind: none}
workers: 1
"""
    )
    return path


def inspect(path: Path) -> None:
    with app.build(config.load(path)) as agent:
        assert agent.wait(30.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A line that has run and stopped; tests only read it."""
    path = write_site(tmp_path_factory.mktemp("site"))
    inspect(path)
    return path


def epoch_of(folder: Path) -> int:
    """The number of the one start on the state directory in `folder`."""
    return int((folder / "state" / "boot_epoch").read_text())


def key_of(folder: Path, seq: int) -> str:
    return f"line-1/cam/{epoch_of(folder)}/{seq}"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.main(["explain", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_defect_is_explained_with_score_threshold_model_and_place(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"

    code, text, _ = run(capsys, key_of(site.parent, 1), "--config", str(site), "--out", str(out))

    assert code == 0
    assert text.startswith("DEFECT  spot  score 0.980 (threshold 0.500, unsure from 0.400)")
    assert "spots 1.0.0, release 0, untrusted, sha256" in text
    assert "64 x 64 px at x 128, y 64" in text  # the 8x8 cell of the input that holds the spot
    assert key_of(site.parent, 1) in text
    assert str(out) in text


def test_the_picture_is_a_png_with_frame_and_evidence(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.png"
    run(capsys, key_of(site.parent, 1), "--config", str(site), "--out", str(out))

    drawn = cv2.imread(str(out))

    assert drawn is not None
    assert drawn.shape[1] > drawn.shape[0] > 500
    assert len(np.unique(drawn)) > 100


def test_an_ok_part_says_why_there_is_no_frame(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = run(capsys, key_of(site.parent, 0), "--state-dir", str(site.parent / "state"))

    assert code == 0
    assert text.startswith("OK  ok  score 0.107")
    assert "not kept: frames of ok parts are not kept" in text
    assert "picture" not in text


def test_json_has_the_whole_verdict(site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.png"

    _, text, _ = run(capsys, key_of(site.parent, 1), "--config", str(site), "--out", str(out), "--json")
    told: dict[str, Any] = json.loads(text)

    assert told["key"] == key_of(site.parent, 1)
    assert told["verdict"]["outcome"] == "defect"
    assert told["verdict"]["box"] == [128, 64, 64, 64]
    assert told["threshold"] == 0.5
    assert told["frame"].endswith(f"frames/top/cam-{epoch_of(site.parent)}-1.jpg")
    assert told["picture"] == str(out)


def test_another_release_in_the_configuration_gives_no_threshold(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_release(tmp_path / "other", golden=b"g")
    tree = json.loads((other / "manifest.json").read_text())
    tree["files"]["model.onnx"]["sha256"] = "0" * 64
    (other / "manifest.json").write_text(json.dumps(tree))
    changed = site.with_name(f"other-{tmp_path.name}.yaml")
    changed.write_text(site.read_text().replace("./release", str(other)))

    _, text, _ = run(capsys, key_of(site.parent, 1), "--config", str(changed), "--out", str(tmp_path / "x.png"))

    assert "score 0.980\n" in text
    assert "threshold" not in text


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("cam/1/1", "'cam/1/1' is not a verdict key: use line/camera/boot_epoch/seq, such as l1/cam/3/1042"),
        ("line-1/cam/one/1", "is not a verdict key"),
        ("", "is not a verdict key"),
        ("x" * 10_000, "is not a verdict key"),
        ("line-1/cam/EPOCH/77", "Known of this camera: line-1/cam/EPOCH/0 to 1."),
        ("line-1/cam/9/0", "Known of this camera: line-1/cam/EPOCH/0 to 1."),
        ("line-1/cm/1/0", "No camera line-1/cm is known: did you mean line-1/cam? known are line-1/cam"),
    ],
)
def test_a_key_that_finds_nothing_is_answered_with_what_is_known(
    site: Path, capsys: pytest.CaptureFixture[str], key: str, complaint: str
) -> None:
    epoch = str(epoch_of(site.parent))
    key, complaint = key.replace("EPOCH", epoch), complaint.replace("EPOCH", epoch)

    code, out, err = run(capsys, key, "--state-dir", str(site.parent / "state"))

    assert code != 0
    assert out == ""
    assert complaint in err
    assert "Traceback" not in err
    assert len(err) < 1_000


def test_an_empty_or_missing_state_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "It holds no verdicts at all" in run(capsys, "l/c/1/1", "--state-dir", str(tmp_path))[2]
    assert "is no directory" in run(capsys, "l/c/1/1", "--state-dir", str(tmp_path / "x"))[2]


def test_a_running_agent_answers_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_site(tmp_path)
    with app.build(config.load(path)) as agent:
        assert agent.wait(30.0)
        deadline = time.monotonic() + 120.0
        code, text = 1, ""
        while code and time.monotonic() < deadline:  # the camera has ended; the worker may still be at it
            code, text, _ = run(capsys, key_of(tmp_path, 1), "--config", str(path), "--out", str(tmp_path / "x.png"))

    assert code == 0
    assert text.startswith("DEFECT")


def test_frames_that_are_gone_or_damaged_are_told_and_never_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_site(tmp_path)
    inspect(path)
    kept = tmp_path / "state" / "frames" / "top" / f"cam-{epoch_of(tmp_path)}-1.jpg"
    arguments = (key_of(tmp_path, 1), "--config", str(path), "--out", str(tmp_path / "x.png"))

    kept.with_suffix(".npz").write_bytes(b"PK damaged")
    assert run(capsys, *arguments)[0] == 0
    kept.write_bytes(kept.read_bytes()[:100])
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert f"the kept frame {kept} cannot be read" in err
    kept.unlink()
    code, text, _ = run(capsys, *arguments)
    assert code == 0
    assert "not kept: newer frames have displaced it (keep.frames, keep.max_bytes)" in text


def test_a_picture_that_cannot_be_written_is_an_error_with_a_remedy(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, key_of(site.parent, 1), "--config", str(site), "--out", str(tmp_path / "no" / "x.png"))

    assert code == 1
    assert "Choose another --out" in err


def test_a_damaged_database_is_an_error_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "history.db").write_bytes(b"not a database" * 1_000)

    with pytest.raises(KensaError, match=r"history\.db cannot be read"):
        explain.find_verdict(tmp_path, "l/c/1/1")


def test_the_evidence_is_drawn_where_its_tile_lies_on_the_frame() -> None:
    geometry = Geometry(mode="tiles", height=32, width=32, channels=1, reduction=2)
    plan = preprocess.plan_inputs(geometry, height=400, width=600, roi=(200, 100, 128, 128))
    evidence = np.zeros((len(plan.tiles), 4, 4), np.float32)
    evidence[3, 1, 2] = 1.0  # of the tile at the bottom right

    warm = verdict_image._overlay_heatmap(np.zeros((400, 600, 3), np.uint8), verdict_image.Heatmap(evidence, plan), 1.0)
    y, x = np.unravel_index(int(warm.sum(axis=2).argmax()), (400, 600))

    # tile 3 begins at 64 px, a cell is 16 px of the frame
    assert 200 + 64 + 2 * 16 <= x < 200 + 64 + 3 * 16
    assert 100 + 64 + 1 * 16 <= y < 100 + 64 + 2 * 16
    assert not warm[:100].any()
    assert not warm[:, :200].any()


@pytest.mark.parametrize("shape", [(40, 60), (40, 60, 3), (1080, 1920, 3), (3, 3000), (1, 1)])
def test_any_frame_can_be_drawn(shape: tuple[int, ...]) -> None:
    height, width = shape[:2]
    plan = InputPlan(
        (0, 0, width, height), 0, (16, 16), (InputTile(0, 0), InputTile(16, 0)), width / 32, height / 16, (16, 16)
    )
    heat = verdict_image.Heatmap(np.ones((2, 2, 2), np.float32), plan)
    caption = verdict_image.Caption("defect", "検査 scratch", (("key", "l/c/1/1"),))

    png = verdict_image.draw_verdict(np.zeros(shape, np.uint8), caption=caption, box=(0, 0, width, height), heat=heat)

    assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) is not None
