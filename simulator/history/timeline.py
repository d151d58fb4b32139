"""The events of the plant, day by day, which `generate` writes as tables.

Pure: settings in, one `LineDay` for each line and day out. Every number that shapes the verdicts of a day is here; only
chance is left to SQL. The story, in shares of the whole time: 1.0.0 inspects from the start; 1.1.0 comes to the canary
line at 20 % and to the others at 25 %; 1.2.0 is tried on the canary at 40 % and rolled back; from 50 % on the light of
one camera fades until 1.3.0, trained on what it saw, comes at 75 %, again to the canary first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL: Final = "surface"
CLASSES: Final = ("scratch", "dent", "stain", "crack")  # of defects, the most frequent first
CAMERAS: Final = ("top", "left", "right", "bottom")  # two devices a line, two cameras each
TRIAL_DAYS: Final = 2
EPOCH_DAYS: Final = 7  # between two starts of the agents
_WEAR_DAYS: Final = 21  # between two changes of the tool
_DRIFT_MOST: Final = 0.13  # of a good part's score, at the end of the fading


@dataclass(frozen=True, slots=True)
class ProductionLine:
    """A production line and what is its own."""

    name: str
    defect_rate: float  # share of parts, with a new tool
    wear: float  # by which share of it a tool's life raises it
    latency_us: int  # of most verdicts


LINES: Final = (
    ProductionLine("press-1", 0.012, 0.6, 2_300),
    ProductionLine("press-2", 0.020, 1.2, 2_500),
    ProductionLine("coat-1", 0.007, 0.2, 3_900),
)
CANARY: Final = LINES[2]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version and how well it classifies."""

    version: str
    counter: int
    escape: float  # share of true defects that look good to it
    false_reject: float  # share of good parts that look bad to it
    robust: bool = False  # whether it bears the fading light

    @property
    def sha256(self) -> str:
        """A digest that stands for model.onnx."""
        return hashlib.sha256(f"{MODEL}-{self.version}".encode()).hexdigest()


FIRST: Final = ModelVersion("1.0.0", 1, 0.030, 0.0060)
BETTER: Final = ModelVersion("1.1.0", 2, 0.022, 0.0040)
BAD: Final = ModelVersion("1.2.0", 3, 0.020, 0.0300)
ROBUST: Final = ModelVersion("1.3.0", 4, 0.018, 0.0035, robust=True)


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """How much history. Equal settings give equal rows (on one version of DuckDB, whose hash is the chance)."""

    rows: int = 100_000  # verdicts about, over all lines and days; duplicates and losses aside
    days: int = 90
    first_day: date = date(2026, 1, 5)
    site: str = "kyoto"
    seed: int = 0
    sample_rate: float = 0.02  # of good parts that are collected and labelled
    labelled: float = 0.9  # share of collected frames that have a label
    duplicates: float = 0.001  # share of rows that arrive twice
    lost: float = 0.0002  # share of verdicts that a device gives up
    dropped: float = 0.0005  # share of frames that a device does not inspect
    lines: tuple[ProductionLine, ...] = field(default=LINES)

    def __post_init__(self) -> None:
        """Raises ValueError for settings that give no history."""
        if self.rows < 1 or not 1 <= self.days <= 3_650 or not self.lines:  # noqa: PLR2004 - ten years
            raise ValueError(f"a history needs rows, 1 to 3650 days and lines, got {self.rows} rows, {self.days} days")


@dataclass(frozen=True, slots=True)
class LineDay:
    """One line's day."""

    site: str
    line: ProductionLine
    day: date
    index: int  # of the day, from 0
    rows: int
    model: ModelVersion
    challenger: ModelVersion | None  # in a trial, for half of the parts
    defect_rate: float
    drift: float  # added to the scores of the fading camera's good parts

    @property
    def boot_epoch(self) -> int:
        """The agents start anew every week."""
        return 1 + self.index // EPOCH_DAYS


def thing_name(line: ProductionLine, camera: str) -> str:
    """The device that a camera is on."""
    return f"{line.name}-{'a' if CAMERAS.index(camera) < len(CAMERAS) // 2 else 'b'}"


FADING_CAMERA: Final = "left"


def day_at(settings: HistorySettings, share: float) -> int:
    """The index of the day at `share` of the whole time."""
    return int(settings.days * share)


def release_day(settings: HistorySettings, line: ProductionLine, model: ModelVersion) -> int:
    """The index of the day from which `model` inspects `line`, after its trial; for `BAD`, that of its trial."""
    canary = line.name == CANARY.name
    shares = {
        FIRST.version: 0.0,
        BETTER.version: 0.20 if canary else 0.25,
        BAD.version: 0.40,
        ROBUST.version: 0.72 if canary else 0.75,
    }
    return day_at(settings, shares[model.version])


def models_on(settings: HistorySettings, line: ProductionLine, index: int) -> tuple[ModelVersion, ModelVersion | None]:
    """The model that inspects on day `index`, and the one that is tried beside it."""
    model = max(
        (m for m in (FIRST, BETTER, ROBUST) if release_day(settings, line, m) <= index), key=lambda m: m.counter
    )
    for tried in (BETTER, ROBUST):
        if 0 < release_day(settings, line, tried) - index <= TRIAL_DAYS:
            return model, tried
    tried_bad = line.name == CANARY.name and 0 <= index - release_day(settings, line, BAD) < 1
    return model, BAD if tried_bad and settings.days > 1 else None


def line_days(settings: HistorySettings) -> Iterator[LineDay]:
    """All lines' days, day by day."""
    each = settings.days * len(settings.lines)
    for index in range(settings.days):
        fading = (index / settings.days - 0.5) / 0.25
        for number, line in enumerate(settings.lines):
            model, challenger = models_on(settings, line, index)
            cell = index * len(settings.lines) + number
            yield LineDay(
                site=settings.site,
                line=line,
                day=settings.first_day + timedelta(days=index),
                index=index,
                rows=settings.rows * (cell + 1) // each - settings.rows * cell // each,
                model=model,
                challenger=challenger,
                defect_rate=line.defect_rate * (1.0 + line.wear * (index % _WEAR_DAYS) / _WEAR_DAYS),
                drift=0.0 if model.robust or line.name != LINES[0].name else _DRIFT_MOST * max(0.0, min(1.0, fading)),
            )
