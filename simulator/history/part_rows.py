"""A line's day as SQL: parts, their truth, and the models' verdicts.

All chance is the hash of a part's number, counted from a start of its own for each day and stream: rows do not depend
on threads or on other days. (DuckDB's hash of two values is no chance: for two streams it differs by the same bits.)
The text is built from the simulator's own settings only, numbers and names that `quoted` checks.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

from simulator.history.timeline import CAMERAS, CLASSES, FADING_CAMERA, MODEL, thing_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simulator.history.timeline import HistorySettings, LineDay, ModelVersion

DEFECT_FROM: Final = 0.5  # of a score
UNSURE_FROM: Final = 0.42
_TWO_64: Final = "18446744073709551616.0"
_SAFE: Final = re.compile(r"[A-Za-z0-9_.:\- ]*")
_CLASS_SHARES: Final = (0.50, 0.80, 0.94, 1.0)  # cumulative, in the order of CLASSES
_START_S: Final = 6 * 3_600  # two shifts, 06:00 to 22:00
_LENGTH_S: Final = 16 * 3_600


def quoted(text: str) -> str:
    """Return an SQL string of a name that holds nothing but letters, digits and `_ . : -`. Raises ValueError."""
    if not _SAFE.fullmatch(text):
        raise ValueError(f"{text!r} is no name for the simulated plant")
    return f"'{text}'"


def _chance(shift: LineDay, settings: HistorySettings, stream: str) -> str:
    """An expression that is uniform in [0, 1) over `i`."""
    name = f"{settings.seed}:{shift.line.name}:{shift.index}:{stream}"
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")
    return f"(hash(i + {start}) / {_TWO_64})"


def _score(model: ModelVersion, drift: float, prefix: str) -> str:
    """The score that `model` gives: good parts low, defects high, but for its escapes and false rejects."""
    fading = f"CASE WHEN camera = {quoted(FADING_CAMERA)} THEN {drift:.6f} ELSE 0.0 END"
    good = f"least(0.999, 0.02 + 0.40 * pow({prefix}_fine, 4) + {fading})"
    return (
        f"CASE WHEN is_defect AND {prefix}_slip < {model.escape:.6f} THEN {good} "
        f"WHEN is_defect THEN 0.999 - 0.35 * {prefix}_fine * {prefix}_fine "
        f"WHEN {prefix}_slip < {model.false_reject:.6f} THEN 0.5 + 0.3 * {prefix}_fine ELSE {good} END"
    )


def _outcome(score: str) -> str:
    return f"CASE WHEN {score} >= {DEFECT_FROM} THEN 'defect' WHEN {score} >= {UNSURE_FROM} THEN 'unsure' ELSE 'ok' END"


def _true_class(shift: LineDay, settings: HistorySettings) -> str:
    chance = _chance(shift, settings, "class")
    cases = " ".join(
        f"WHEN {chance} < {share} THEN {quoted(name)}" for name, share in zip(CLASSES, _CLASS_SHARES, strict=True)
    )
    return f"CASE {cases} END"


def _by_camera(values: dict[str, str]) -> str:
    return f"CASE camera {' '.join(f'WHEN {quoted(key)} THEN {value}' for key, value in values.items())} END"


def parts_sql(shift: LineDay, settings: HistorySettings, first_seq: Mapping[str, int]) -> str:
    """Return a SELECT of all parts of the day: the columns of `verdicts`, and behind them the truth and its fate.

    `first_seq` is each camera's next sequence number.
    """
    challenger = shift.challenger
    other_score = _score(challenger, shift.drift, "other") if challenger else "0.0"
    stricter = "challenged AND other_score > own_score"
    return f"""
WITH numbered AS ({_numbered(shift, settings)}
), scored AS (
  SELECT *, {_score(shift.model, shift.drift, "own")} AS own_score, {other_score} AS other_score FROM numbered
), inspected AS (
  SELECT *, CASE WHEN is_unknown THEN 0.0 WHEN {stricter} THEN other_score ELSE own_score END AS decisive FROM scored
), named AS (
  SELECT *, CASE WHEN is_unknown THEN 'unknown' ELSE {_outcome("decisive")} END AS outcome FROM inspected
)
SELECT {_verdict(shift, first_seq)},
  is_defect, CASE WHEN is_defect THEN defect_class ELSE 'good' END AS true_class, is_lost, is_dropped, is_twice,
  NOT is_lost AND NOT is_dropped AS is_here, is_sampled, is_labelled, is_mistaken
FROM named"""  # noqa: S608 - of the simulator's own numbers and checked names


def _numbered(shift: LineDay, settings: HistorySettings) -> str:
    """Every part's number, and all that chance decides about it."""

    def chance(stream: str) -> str:
        return _chance(shift, settings, stream)

    cameras = "['" + "','".join(CAMERAS) + "']"
    rate = f"{shift.defect_rate:.8f} * (1 + 0.25 * sin(6.2831853 * i / {max(1, shift.rows)}.0))"
    tried = shift.challenger is not None
    return f"""
  SELECT i, {cameras}[1 + CAST(i % {len(CAMERAS)} AS INTEGER)] AS camera,
    {chance("defect")} < {rate} AS is_defect, {_true_class(shift, settings)} AS defect_class,
    {chance("fine")} AS own_fine, {chance("slip")} AS own_slip,
    {chance("other fine") if tried else "0.0"} AS other_fine, {chance("other slip") if tried else "0.0"} AS other_slip,
    {chance("arm") if tried else "1.0"} < 0.5 AS challenged,
    {chance("late")} AS late, {chance("unknown")} < 0.0003 AS is_unknown,
    {chance("lost")} < {settings.lost:.8f} AS is_lost, {chance("dropped")} < {settings.dropped:.8f} AS is_dropped,
    {chance("again")} < {settings.duplicates:.8f} AS is_twice,
    {chance("sample")} < {settings.sample_rate:.8f} AS is_sampled,
    {chance("labelled")} < {settings.labelled:.8f} AS is_labelled, {chance("mistaken")} < 0.01 AS is_mistaken
  FROM range({shift.rows}) AS r(i)"""  # noqa: S608 - of the simulator's own numbers and checked names


def _verdict(shift: LineDay, first_seq: Mapping[str, int]) -> str:
    """The columns of `verdicts`, in their order."""
    start = f"TIMESTAMP {quoted(f'{shift.day:%Y-%m-%d} 00:00:00')}"
    step_us = _LENGTH_S * 1_000_000 // max(1, shift.rows)
    model, challenger = shift.model, shift.challenger
    arm = "CASE WHEN challenged THEN 'challenger' ELSE 'champion' END" if challenger else "CAST(NULL AS VARCHAR)"
    return f"""{_by_camera({c: quoted(thing_name(shift.line, c)) for c in CAMERAS})} AS thing, camera,
  'surface' AS inspection, CAST({shift.boot_epoch} AS BIGINT) AS boot_epoch,
  CAST({_by_camera({c: str(first) for c, first in first_seq.items()})} + i // {len(CAMERAS)} AS BIGINT) AS seq,
  concat({quoted(shift.line.name)}, '/', camera, '/{shift.boot_epoch}/', seq) AS key,
  {start} + to_microseconds({_START_S * 1_000_000} + i * {step_us} + CAST(late * {step_us // 2} AS BIGINT))
    AS captured_at,
  outcome,
  CASE outcome WHEN 'ok' THEN 'good' WHEN 'unknown' THEN NULL ELSE
    CASE WHEN is_defect AND own_fine < 0.93 THEN defect_class ELSE {quoted(CLASSES[0])} END END AS class,
  round(decisive, 4) AS score,
  CAST({shift.line.latency_us} * (0.85 + 0.3 * own_fine + 3.0 * pow(late, 60)) AS BIGINT) AS latency_us,
  {quoted(MODEL)} AS model_name, {quoted(model.version)} AS model_version, {quoted(model.sha256)} AS model_sha256,
  CAST({model.counter} AS BIGINT) AS model_counter, true AS model_trusted,
  CAST(NULL AS VARCHAR) AS part_id, {arm} AS arm,
  CASE WHEN challenged THEN {_outcome("other_score")} END AS challenger_outcome,
  CASE WHEN challenged THEN {quoted(challenger.sha256 if challenger else "")} END AS challenger_sha256,
  late > 0.995 AS replay,
  CASE WHEN outcome IN ('defect', 'unsure') THEN concat('frames/', camera, '/', seq, '.jpg') END AS image,
  CASE WHEN is_unknown THEN 'the camera delivered half a frame' END AS reason,
  CASE WHEN outcome = 'defect' THEN CAST(1800 * own_slip AS BIGINT) END AS box_x,
  CASE WHEN outcome = 'defect' THEN CAST(1000 * own_fine AS BIGINT) END AS box_y,
  CASE WHEN outcome = 'defect' THEN CAST(64 AS BIGINT) END AS box_width,
  CASE WHEN outcome = 'defect' THEN CAST(48 AS BIGINT) END AS box_height,
  'd1f0c3' AS preprocess_digest, 'a7b2e9' AS config_digest"""
