"""`kensa bench faults`: every campaign of faults, counted. One entry in `CAMPAIGNS` each; the tests run a seeded tenth.

Each campaign says what it did (`count` of something), what must come of it, and what came of it in this run.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simulator.faults.broker_starts import KINDS, missing_for, run_broker_starts
from simulator.faults.charts import run_charts
from simulator.faults.collect_kills import run_collect_kills
from simulator.faults.day import run as run_day
from simulator.faults.kills import run_kills
from simulator.faults.lifecycle_kills import run_lifecycle_kills
from simulator.faults.metadata import run_metadata_faults
from simulator.faults.mutated_models import run_model_faults
from simulator.faults.nasty import run_nasty
from simulator.faults.pictures import REAL_SETS, run_good, run_real, run_spoilt
from simulator.faults.power import missing_for_power_cuts, run_power_cuts
from simulator.faults.repertoire import run_repertoire
from simulator.faults.rollouts import ALWAYS_DEFECT, ALWAYS_OK, run_equally_good, run_rollouts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simulator.faults.broker_starts import Kind
    from simulator.faults.rollouts import Candidate

_RELEASE: Final = Path(__file__).resolve().parents[2] / "releases" / "default"
_CASES_A_CHILD: Final = 250  # mutated files, of which one also goes through the real child process
_CUTS_A_START: Final = 0.4  # 40 cuts for 100 starts
_MEDIAN_PARTS, _MOST_PARTS = 1_000, 2_000  # until a bad model has left the line


@dataclass(frozen=True, slots=True)
class Counted:
    """What came of a campaign: in words for the table, and all counts."""

    text: str
    met: bool
    counts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Campaign:
    """One kind of faults. `run(count, seed)`; `missing` says why this machine cannot."""

    name: str
    what: str  # for the table; {count} is filled in
    target: str
    count: int  # of the published run
    run: Callable[[int, int], Counted]
    missing: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """One campaign of this run; `counted` is None where the machine could not, and `missing` says why."""

    name: str
    what: str
    target: str
    count: int
    counted: Counted | None
    missing: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        if self.counted is None:
            return {"count": self.count, "target": self.target, "met": None, "missing": self.missing}
        told = {"count": self.count, "target": self.target, "met": self.counted.met, "seconds": self.seconds}
        return told | self.counted.counts


def _kills(count: int, seed: int) -> Counted:
    found = run_kills(kills=count, seed=seed)
    clean = found.lost + found.repeated_epochs == 0
    return Counted(f"{found.lost} of {found.committed:,}", clean, asdict(found))


def _power_cuts(count: int, seed: int) -> Counted:
    found = run_power_cuts(power_cuts=count, seed=seed)
    clean = found.lost + found.stale_epochs == 0
    return Counted(f"{found.lost} of {found.committed:,}", clean, asdict(found))


def _lifecycle_kills(count: int, seed: int) -> Counted:
    found = run_lifecycle_kills(kills=count, seed=seed)
    text = f"{found.unverified_models}, {found.floor_fell}, {found.last_good_lost} ({found.commits} commits)"
    return Counted(text, found.is_clean, found.to_json())


def _models(count: int, seed: int) -> Counted:
    signed = count // 2
    children = max(1, signed // _CASES_A_CHILD)
    found = run_model_faults(
        release=_RELEASE, files=count - signed, signed=signed - children, children=children, seed=seed
    )
    text = f"{found.loaded} loaded of {found.files:,}; signed: {found.different} passed and judge otherwise"
    return Counted(text, found.is_clean, asdict(found) | {"is_clean": found.is_clean})


def _metadata(count: int, seed: int) -> Counted:
    children = max(1, count // _CASES_A_CHILD)
    found = run_metadata_faults(release=_RELEASE, files=count, children=children, seed=seed)
    text = f"{found.accepted}, {found.crashed + found.hung} ({found.harmless} harmless)"
    return Counted(text, found.is_clean, asdict(found) | {"is_clean": found.is_clean})


def _equally_good(count: int, seed: int) -> Counted:
    found = run_equally_good(releases=count, seed=seed)
    false = found.releases - found.committed
    return Counted(str(false), false <= max(1, count // 200), asdict(found))


def _always(candidate: Candidate) -> Callable[[int, int], Counted]:
    def run(count: int, seed: int) -> Counted:
        found = run_rollouts([candidate], releases=count, seed=seed)
        met = not found.committed and found.median_frames <= _MEDIAN_PARTS and found.most_frames <= _MOST_PARTS
        return Counted(f"{found.median_frames:,.0f}, {found.most_frames:,}", met, asdict(found))

    return run


def _repertoire(count: int, seed: int) -> Counted:
    found = run_repertoire(release=_RELEASE, seeds=count, seed=seed)
    elsewhere = [fate.kind for fate in found.fates if not fate.as_expected]
    live = "; ".join(f"{c.kind} {c.median_parts:,.0f}, {c.most_frames:,}" for c in found.hidden)
    text = f"{len(found.bad_committed)} ({', '.join(elsewhere) or 'none'} elsewhere); live parts: {live}"
    return Counted(text, found.is_clean, found.to_json())


def _collect_kills(count: int, seed: int) -> Counted:
    found = run_collect_kills(kills=count, seed=seed)
    text = f"{found.lost}, {found.twice}, {found.damaged} ({found.arrived:,} frames)"
    return Counted(text, found.is_clean, found.to_json())


def _spoilt(count: int, seed: int) -> Counted:
    found = run_spoilt(release=_RELEASE, count=count, seed=seed)
    late, silent = sum(f.late_ok for f in found), [f.kind for f in found if f.alarm is None]
    text = f"{late} of {sum(sum(f.outcomes.values()) for f in found):,}"
    text += f"; no alarm for {', '.join(silent)}" if silent else ""
    return Counted(text, not late and not silent, {"kinds": [asdict(f) for f in found], "late_ok": late})


def _good(count: int, seed: int) -> Counted:
    simulated = run_good(release=_RELEASE, count=count, seed=seed)
    data = Path(os.environ.get("KENSA_DATA", ""))
    real = {name: run_real(data / name, seed=seed) for name in REAL_SETS if (data / name / "manifest.csv").is_file()}
    refused = sum(sum(found.refused.values()) for found in (simulated, *real.values()))
    pictures = sum(found.pictures for found in real.values())
    text = f"{refused} of {simulated.pictures:,} simulated and {pictures:,} real ones"
    counts = {"simulated": asdict(simulated), "real": {name: asdict(found) for name, found in real.items()}}
    return Counted(text if real else f"{text} (set KENSA_DATA)", not refused, counts)


def _charts(count: int, seed: int) -> Counted:
    found = run_charts(repeats=count, seed=seed)
    doubling = found.doubling
    figures = f"{doubling.quantile(0.5):,}, {doubling.mean:,.0f}, {doubling.quantile(0.9):,}"
    text = f"{found.worst:.2f} at worst; doubling found after (median, mean, 90 %) {figures} parts"
    met = found.worst <= 1.0 and doubling.quantile(0.5) <= _MEDIAN_PARTS
    return Counted(text, met, found.to_json())


def _day(count: int, seed: int) -> Counted:
    found = run_day(hours=count, seed=seed)
    text = f"{len(found.problems)} ({found.parts:,} parts, {found.kills} kills, {sum(found.wished.values())} releases)"
    return Counted(text, found.is_clean, found.to_json())


def _broker_starts(kind: Kind) -> Campaign:
    def run(count: int, seed: int) -> Counted:
        found = run_broker_starts(kind, starts=count, cuts=max(1, round(count * _CUTS_A_START)), seed=seed)
        text = f"{found.lost} of {found.sent:,}, {found.first_s_max:.1f} s ({found.cuts} cuts)"
        return Counted(text, found.is_clean, found.to_json())

    return Campaign(
        f"starts_{kind}",
        f"{{count}} starts at {kind} with 50 defects/s, and cuts: verdicts lost, longest wait for the first",
        "0, <= 10 s",
        100,
        run,
        lambda: missing_for(kind),
    )


def _nasty(count: int, _seed: int) -> Counted:
    found = run_nasty(verdicts=count)
    text = f"{found.deleted_unacknowledged} of {found.sent:,}, {len(found.stuck)}, {found.forbidden_late_s:.2f} s"
    return Counted(text, found.is_clean, found.to_json())


CAMPAIGNS: Final = (
    Campaign("kills", "{count:,} kills: committed verdicts lost", "0", 1_000, _kills),
    Campaign("power_cuts", "{count} power cuts: committed verdicts lost", "0", 40, _power_cuts, missing_for_power_cuts),
    Campaign(
        "lifecycle_kills",
        "{count:,} kills of the model lifecycle: unverified models, floor fell, last good lost",
        "0, 0, 0",
        1_000,
        _lifecycle_kills,
    ),
    Campaign(
        "collect_kills",
        "{count} kills of agent and collecting child, cuts, expired credentials: frames lost, twice, damaged",
        "0, 0, 0",
        200,
        _collect_kills,
    ),
    Campaign("mutated_models", "{count:,} mutated models, half of them signed", "0 loaded", 10_000, _models),
    Campaign(
        "mutated_metadata", "{count:,} mutated metadata files: believed, crashed or hung", "0, 0", 3_000, _metadata
    ),
    Campaign("equally_good", "{count} equally good releases: false rollbacks", "<= 1 in 200", 200, _equally_good),
    Campaign(
        "always_ok",
        "{count} x always ok at 2 % defects: parts until it is off the line, median and most",
        "<= 1,000, <= 2,000",
        20,
        _always(ALWAYS_OK),
    ),
    Campaign(
        "always_defect",
        "{count} x always defect at 2 % defects: parts until it is off the line, median and most",
        "<= 1,000, <= 2,000",
        20,
        _always(ALWAYS_DEFECT),
    ),
    Campaign(
        "repertoire",
        "every kind of bad model through the real gates, {count} seeds on live parts: committed",
        "0; <= 1,000, <= 2,000",
        20,
        _repertoire,
    ),
    Campaign(
        "pictures",
        "{count:,} pictures each: ten times too dark, black, white, flat, frozen (raw, MJPEG): `ok` from the third on",
        "0",
        10_000,
        _spoilt,
    ),
    Campaign("good_pictures", "{count:,} good pictures, and the real ones: refused as unusable", "0", 100_000, _good),
    *(_broker_starts(kind) for kind in KINDS),
    Campaign(
        "reject_chart",
        "{count} x 30 shifts of several lines: false alarms in 30 shifts; parts until 2 % doubled is found",
        "<= 1, <= 1,000 (median)",
        400,
        _charts,
    ),
    Campaign(
        "nasty_broker",
        "every behaviour of the nasty broker, 3.1.1 and 5, {count} verdicts each: deleted unacknowledged, stuck; "
        "wait on allowed topics beside a forbidden one",
        "0, 0, <= 2 s",
        100,
        _nasty,
    ),
    Campaign("day", "{count} h of line time with a release every hour: broken invariants", "0", 24, _day),
)
NAMES: Final = tuple(campaign.name for campaign in CAMPAIGNS)


@dataclass(frozen=True, slots=True)
class FaultsResult:
    """All campaigns of a run."""

    campaigns: tuple[CampaignResult, ...]
    seed: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether every campaign that could run met its target."""
        return all(campaign.counted is None or campaign.counted.met for campaign in self.campaigns)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`, by the campaigns' names."""
        told: dict[str, Any] = {campaign.name: campaign.to_json() for campaign in self.campaigns}
        return told | {"seed": self.seed, "seconds": self.seconds, "is_clean": self.is_clean}


def run_faults(
    *, only: Sequence[str] = NAMES, share: float = 1.0, seed: int = 0, say: Callable[[str], None] = lambda _text: None
) -> FaultsResult:
    """Run the campaigns in `only`, each with `share` of its count; every count in the result is measured in this run.

    `say` hears of each campaign as it begins and ends.
    """
    began = time.monotonic()
    results = [_run(c, max(1, round(c.count * share)), seed, say) for c in CAMPAIGNS if c.name in only]
    return FaultsResult(tuple(results), seed, round(time.monotonic() - began, 1))


def _run(campaign: Campaign, count: int, seed: int, say: Callable[[str], None]) -> CampaignResult:
    began = time.monotonic()
    what, missing = campaign.what.format(count=count), campaign.missing()
    counted = None
    if missing is None:
        say(f"{campaign.name}: {what}")
        counted = campaign.run(count, seed)
    seconds = round(time.monotonic() - began, 1)
    ended = f"not done: {missing}" if counted is None else f"{counted.text} ({'met' if counted.met else 'not met'})"
    say(f"{campaign.name}: {ended}, {seconds:.0f} s")
    return CampaignResult(campaign.name, what, campaign.target, count, counted, missing, seconds)
