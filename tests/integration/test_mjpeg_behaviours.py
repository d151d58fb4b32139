"""The MJPEG reader decodes every known server behaviour, or its error names the cause."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from agent.images.decode import validate_encoded
from simulator.bench.inspection.mjpeg_readers import jpegs, measure, read_with_agent
from simulator.doubles.cameras.mjpeg_servers import PASSWORD, SERVER_BEHAVIOURS, serve_behaviour

TAKEN = [name for name, behaviour in SERVER_BEHAVIOURS.items() if behaviour.expected_error is None]
REFUSED = [name for name, behaviour in SERVER_BEHAVIOURS.items() if behaviour.expected_error is not None]
SNAPSHOTS = {"one picture", "one picture without a length"}  # OpenCV reads the one and ends; a line needs a stream


def encoded(count: int, *params: int) -> list[bytes]:
    rng = np.random.default_rng(3)
    return [
        cv2.imencode(".jpg", rng.integers(0, 256, (48, 64, 3), np.uint8), params)[1].tobytes() for _ in range(count)
    ]


@pytest.mark.parametrize("name", TAKEN)
def test_pictures_come_as_they_were_sent(name: str) -> None:
    behaviour, sent = SERVER_BEHAVIOURS[name], jpegs(5)
    with serve_behaviour(behaviour, sent) as url:
        pictures, said = read_with_agent(url)
    assert pictures == [behaviour.transform(jpeg) for jpeg in sent], said
    assert all(validate_encoded(picture).shape == (48, 64, 3) for picture in pictures)
    assert PASSWORD not in said


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name: str) -> None:
    behaviour = SERVER_BEHAVIOURS[name]
    with serve_behaviour(behaviour, jpegs(2)) as url:
        pictures, said = read_with_agent(url)
    assert pictures == []
    assert behaviour.expected_error is not None
    assert behaviour.expected_error in said
    assert "s3cret" not in said
    assert "wrong" not in said


@pytest.mark.parametrize("name", SERVER_BEHAVIOURS)
def test_what_opencvs_reader_takes_is_taken(name: str) -> None:
    row = measure(name, jpegs(3))
    assert row.agent >= row.opencv or name in SNAPSHOTS, row


@pytest.mark.parametrize("params", [(cv2.IMWRITE_JPEG_RST_INTERVAL, 2), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize("name", ["no length", "JPEGs one after another"])
def test_restart_markers_and_scans_do_not_end_a_picture(name: str, params: tuple[int, int]) -> None:
    sent = encoded(3, *params)
    with serve_behaviour(SERVER_BEHAVIOURS[name], sent) as url:
        assert read_with_agent(url)[0] == sent
