from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from agent.errors import CameraError, ConfigError, SourceEndedError
from agent.timing.clock import SystemClock
from simulator.line import LineConfig, SimulatedLine, SimulatedSource
from simulator.line.source import from_config

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from agent.records import Grab

SMALL = LineConfig(seed=8, pool=3, surfaces=("turned",), defect_rate=0.5)


class SteppingClock:
    """Time moves only when somebody waits."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def monotonic_ns(self) -> int:
        return self.now_ns

    def utc_ns(self) -> int:
        return self.now_ns

    def wait(self, event: threading.Event, timeout_s: float) -> bool:
        self.now_ns += round(timeout_s * 1e9)
        return event.is_set()


@pytest.fixture(scope="module")
def line() -> SimulatedLine:
    return SimulatedLine(SMALL)


def taken(source: SimulatedSource, count: int) -> list[Grab]:
    grabs = [source.read(timeout_s=1.0, buffer=None) for _ in range(count)]
    return [grab for grab in grabs if grab is not None]


def test_every_exposure_has_its_own_part_id_whose_truth_another_reader_finds(line: SimulatedLine) -> None:
    source = SimulatedSource(line=line, clock=SteppingClock())
    source.open()
    grabs = taken(source, 50)
    assert [grab.part_id for grab in grabs] == [f"S8-{index:07d}" for index in range(50)]
    reader = SimulatedLine(SMALL)
    for grab in grabs[:3]:
        assert grab.part_id is not None
        assert np.array_equal(grab.pixels, reader.render_picture(reader.truth(grab.part_id).picture))


def test_pictures_are_handed_over_by_reference_and_cannot_be_written(line: SimulatedLine) -> None:
    source = SimulatedSource(line=line, clock=SteppingClock())
    source.open()
    grabs = taken(source, 40)
    assert len({grab.pixels.ctypes.data for grab in grabs}) == 3
    with pytest.raises(ValueError, match="read-only"):
        grabs[0].pixels[0, 0] = 0


def test_a_paced_source_is_due_at_absolute_times_and_none_comes_before(line: SimulatedLine) -> None:
    clock = SteppingClock()
    source = SimulatedSource(line=line, clock=clock, fps=100.0)
    source.open()
    start = clock.now_ns
    assert [grab.due_ns - start for grab in taken(source, 4)] == [0, 10_000_000, 20_000_000, 30_000_000]
    assert source.read(timeout_s=0.001, buffer=None) is None
    assert taken(source, 1)[0].due_ns - start == 40_000_000


def test_a_finite_line_ends_after_its_last_part(line: SimulatedLine) -> None:
    source = SimulatedSource(line=line, clock=SteppingClock(), parts=2, first_part=5)
    source.open()
    assert [grab.part_id for grab in taken(source, 2)] == ["S8-0000005", "S8-0000006"]
    with pytest.raises(SourceEndedError, match="S8-0000006"):
        source.read(timeout_s=1.0, buffer=None)


def test_a_reconnection_goes_on_with_the_next_part(line: SimulatedLine) -> None:
    source = SimulatedSource(line=line, clock=SteppingClock())
    source.open()
    taken(source, 2)
    source.close()
    source.close()
    with pytest.raises(CameraError, match="not open"):
        source.read(timeout_s=1.0, buffer=None)
    source.open()
    assert taken(source, 1)[0].part_id == "S8-0000002"


def test_without_a_pool_every_part_is_rendered_when_it_is_due() -> None:
    fresh = SimulatedLine(SMALL.model_copy(update={"pool": 0}))
    source = SimulatedSource(line=fresh, clock=SteppingClock())
    source.open()
    first, second = taken(source, 2)
    assert np.array_equal(second.pixels, fresh.render(1))
    assert not np.array_equal(first.pixels, second.pixels)


def test_a_cached_pool_is_mapped_and_equals_a_rendered_one(line: SimulatedLine, tmp_path: Path) -> None:
    for _ in range(2):
        source = SimulatedSource(line=line, clock=SteppingClock(), cache_dir=tmp_path / "cache")
        source.open()
        grab = taken(source, 1)[0]
        assert grab.part_id is not None
        assert np.array_equal(grab.pixels, line.render_picture(line.truth(grab.part_id).picture))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_truncated_cache_is_rendered_anew(line: SimulatedLine, tmp_path: Path) -> None:
    SimulatedSource(line=line, clock=SteppingClock(), cache_dir=tmp_path).open()
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:5000])
    source = SimulatedSource(line=line, clock=SteppingClock(), cache_dir=tmp_path)
    source.open()
    assert taken(source, 1)[0].pixels.any()


def test_a_cache_that_cannot_be_used_is_a_camera_error(line: SimulatedLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    source = SimulatedSource(line=line, clock=SteppingClock(), cache_dir=tmp_path / "file")
    with pytest.raises(CameraError, match="cache"):
        source.open()


def test_options_make_a_source() -> None:
    options = {"seed": 9, "camera": "colour1080", "surfaces": ["cast"], "pool": 2, "fps": None, "parts": 4}
    source = from_config(options, clock=SteppingClock())
    source.open()
    assert [grab.part_id for grab in taken(source, 4)] == [f"S9-000000{index}" for index in range(4)]
    assert source.line.config == LineConfig(seed=9, surfaces=("cast",), pool=2)


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"fsp": 30}, ["options.fsp", "given 30", "fps"]),
        ({"camera": "phone"}, ["options.camera", "'phone'", "'colour1080' or 'mono5mp'"]),
        ({"surfaces": ["wood"]}, ["options.surfaces.0", "'wood'", "'brushed', 'cast' or 'turned'"]),
        ({"fps": 0, "seed": "x"}, ["options.fps", "given 0", "greater than 0", "options.seed", "'x'"]),
    ],
)
def test_a_refused_option_is_named_with_what_was_given_and_what_is_allowed(
    options: dict[str, object], texts: list[str]
) -> None:
    with pytest.raises(ConfigError) as refused:
        from_config(options, clock=SteppingClock())
    assert all(text in str(refused.value) for text in texts)


@pytest.mark.parametrize(("fault", "level"), [("dark_lamp", 15.0), ("lens_cap", 8.0), ("white_out", 255.0)])
def test_a_configured_fault_spoils_the_parts_that_it_names(fault: str, level: float) -> None:
    options = {"seed": 8, "pool": 3, "surfaces": ["turned"], "fps": None, "image_fault": fault}
    source = from_config({**options, "image_fault_after_parts": 1, "image_fault_parts": 2}, clock=SystemClock())
    source.open()
    means = [float(grab.pixels.mean()) for _ in range(4) if (grab := source.read(timeout_s=1.0, buffer=None))]
    good, first, second, again = means
    assert good > 30.0
    assert again > 30.0
    if fault == "white_out":
        assert first == second == level
    else:
        assert max(first, second) < level


def test_a_frozen_camera_repeats_its_picture_and_needs_a_line_that_does_not() -> None:
    options = {
        "seed": 8,
        "pool": 0,
        "surfaces": ["turned"],
        "fps": None,
        "image_fault": "frozen",
        "image_fault_after_parts": 1,
    }
    source = from_config(options, clock=SystemClock())
    source.open()
    first, second, third = (source.read(timeout_s=1.0, buffer=None) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert np.array_equal(second.pixels, third.pixels)
    assert not np.array_equal(first.pixels, second.pixels)
    with pytest.raises(ConfigError, match="needs pool: 0, or vary"):
        from_config({**options, "pool": 3}, clock=SystemClock())
