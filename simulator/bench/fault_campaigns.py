"""`kensa bench faults`: runs and counts every fault campaign.

Each has one entry in `CAMPAIGNS`; the tests run a seeded tenth.

Each campaign says what it did (`count` of something), what must come of it, and what came of it in this run.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simulator.bench.bench_report import BenchReport, ResultTable, silenced
from simulator.campaigns.alarms.reject_chart_simulation import run_reject_chart
from simulator.campaigns.alarms.unusable_images import REAL_SETS, run_good_images, run_real_images, run_unusable_images
from simulator.campaigns.connectivity.agent_restarts import BROKER_KINDS, broker_unavailable_reason, run_agent_restarts
from simulator.campaigns.connectivity.faulty_broker_campaign import run_faulty_broker
from simulator.campaigns.crashes.collector_kills import run_collector_kills
from simulator.campaigns.crashes.lifecycle_kills import run_lifecycle_kills
from simulator.campaigns.crashes.outbox_kills import run_outbox_kills
from simulator.campaigns.crashes.power_cuts import power_cuts_unavailable_reason, run_power_cuts
from simulator.campaigns.mutations.mutated_metadata import run_mutated_metadata
from simulator.campaigns.mutations.mutated_models import run_mutated_models
from simulator.campaigns.rollout.bad_model_rollouts import run_bad_model_rollouts
from simulator.campaigns.rollout.rollout_simulation import ALWAYS_DEFECT, ALWAYS_OK, run_equally_good, run_rollouts
from simulator.campaigns.soak.soak_run import run_soak
from simulator.paths import DEFAULT_RELEASE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from simulator.campaigns.connectivity.agent_restarts import BrokerKind
    from simulator.campaigns.rollout.rollout_simulation import CandidateProfile

_CASES_PER_CHILD: Final = 250  # mutated files, of which one also goes through the real child process
_QUICK_SHARE: Final = 0.1
_CUTS_PER_START: Final = 0.4  # 40 cuts for 100 starts
_MEDIAN_PARTS, _MOST_PARTS = 1_000, 2_000  # until a bad model has left the line


@dataclass(frozen=True, slots=True)
class CampaignOutcome:
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
    run: Callable[[int, int], CampaignOutcome]
    unavailable_reason: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """One campaign of this run; `counted` is None where the machine could not, and `missing` says why."""

    name: str
    what: str
    target: str
    count: int
    outcome: CampaignOutcome | None
    unavailable_reason: str | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        if self.outcome is None:
            return {"count": self.count, "target": self.target, "met": None, "missing": self.unavailable_reason}
        told = {"count": self.count, "target": self.target, "met": self.outcome.met, "seconds": self.seconds}
        return told | self.outcome.counts


def _outbox_kills(count: int, seed: int) -> CampaignOutcome:
    found = run_outbox_kills(kills=count, seed=seed)
    clean = found.lost + found.repeated_epochs == 0
    return CampaignOutcome(f"{found.lost} of {found.committed:,}", clean, asdict(found))


def _power_cuts(count: int, seed: int) -> CampaignOutcome:
    found = run_power_cuts(power_cuts=count, seed=seed)
    clean = found.lost + found.stale_epochs == 0
    return CampaignOutcome(f"{found.lost} of {found.committed:,}", clean, asdict(found))


def _lifecycle_kills(count: int, seed: int) -> CampaignOutcome:
    found = run_lifecycle_kills(kills=count, seed=seed)
    text = f"{found.unverified_models}, {found.floor_fell}, {found.last_good_lost} ({found.commits} commits)"
    return CampaignOutcome(text, found.is_clean, found.to_json())


def _mutated_models(count: int, seed: int) -> CampaignOutcome:
    signed = count // 2
    children = max(1, signed // _CASES_PER_CHILD)
    found = run_mutated_models(
        release=DEFAULT_RELEASE, files=count - signed, signed=signed - children, children=children, seed=seed
    )
    text = f"{found.loaded} loaded of {found.files:,}; signed: {found.different} passed and classify otherwise"
    return CampaignOutcome(text, found.is_clean, asdict(found) | {"is_clean": found.is_clean})


def _mutated_metadata(count: int, seed: int) -> CampaignOutcome:
    children = max(1, count // _CASES_PER_CHILD)
    found = run_mutated_metadata(release=DEFAULT_RELEASE, files=count, children=children, seed=seed)
    text = f"{found.accepted}, {found.crashed + found.hung} ({found.harmless} harmless)"
    return CampaignOutcome(text, found.is_clean, asdict(found) | {"is_clean": found.is_clean})


def _equally_good(count: int, seed: int) -> CampaignOutcome:
    found = run_equally_good(releases=count, seed=seed)
    false = found.releases - found.committed
    return CampaignOutcome(str(false), false <= max(1, count // 200), asdict(found))


def _constant_model(candidate: CandidateProfile) -> Callable[[int, int], CampaignOutcome]:
    def run(count: int, seed: int) -> CampaignOutcome:
        found = run_rollouts([candidate], releases=count, seed=seed)
        met = not found.committed and found.median_frames <= _MEDIAN_PARTS and found.most_frames <= _MOST_PARTS
        return CampaignOutcome(f"{found.median_frames:,.0f}, {found.most_frames:,}", met, asdict(found))

    return run


def _bad_model_rollouts(count: int, seed: int) -> CampaignOutcome:
    found = run_bad_model_rollouts(release=DEFAULT_RELEASE, seeds=count, seed=seed)
    elsewhere = [outcome.kind for outcome in found.outcomes if not outcome.as_expected]
    live = "; ".join(f"{c.kind} {c.median_parts:,.0f}, {c.most_frames:,}" for c in found.live_only)
    text = f"{len(found.bad_committed)} ({', '.join(elsewhere) or 'none'} elsewhere); live parts: {live}"
    return CampaignOutcome(text, found.is_clean, found.to_json())


def _collector_kills(count: int, seed: int) -> CampaignOutcome:
    found = run_collector_kills(kills=count, seed=seed)
    text = f"{found.lost}, {found.duplicated}, {found.damaged} ({found.arrived:,} frames)"
    return CampaignOutcome(text, found.is_clean, found.to_json())


def _unusable_images(count: int, seed: int) -> CampaignOutcome:
    found = run_unusable_images(release=DEFAULT_RELEASE, count=count, seed=seed)
    late, silent = sum(f.late_ok for f in found), [f.kind for f in found if f.alarm is None]
    text = f"{late} of {sum(sum(f.outcomes.values()) for f in found):,}"
    text += f"; no alarm for {', '.join(silent)}" if silent else ""
    return CampaignOutcome(text, not late and not silent, {"kinds": [asdict(f) for f in found], "late_ok": late})


def _good_images(count: int, seed: int) -> CampaignOutcome:
    simulated = run_good_images(release=DEFAULT_RELEASE, count=count, seed=seed)
    data = Path(os.environ.get("KENSA_DATA", ""))
    real = {
        name: run_real_images(data / name, seed=seed) for name in REAL_SETS if (data / name / "manifest.csv").is_file()
    }
    refused = sum(sum(found.refused.values()) for found in (simulated, *real.values()))
    pictures = sum(found.pictures for found in real.values())
    text = f"{refused} of {simulated.pictures:,} simulated and {pictures:,} real ones"
    counts = {"simulated": asdict(simulated), "real": {name: asdict(found) for name, found in real.items()}}
    return CampaignOutcome(text if real else f"{text} (set KENSA_DATA)", not refused, counts)


def _reject_chart(count: int, seed: int) -> CampaignOutcome:
    found = run_reject_chart(repeats=count, seed=seed)
    doubling = found.doubling
    figures = f"{doubling.quantile(0.5):,}, {doubling.mean:,.0f}, {doubling.quantile(0.9):,}"
    text = f"{found.worst:.2f} at worst; doubling found after (median, mean, 90 %) {figures} parts"
    met = found.worst <= 1.0 and doubling.quantile(0.5) <= _MEDIAN_PARTS
    return CampaignOutcome(text, met, found.to_json())


def _soak(count: int, seed: int) -> CampaignOutcome:
    found = run_soak(hours=count, seed=seed)
    text = (
        f"{len(found.problems)} ({found.parts:,} parts, {found.kills} kills, {sum(found.requested.values())} releases)"
    )
    return CampaignOutcome(text, found.is_clean, found.to_json())


def _agent_restarts(kind: BrokerKind) -> Campaign:
    def run(count: int, seed: int) -> CampaignOutcome:
        found = run_agent_restarts(kind, starts=count, cuts=max(1, round(count * _CUTS_PER_START)), seed=seed)
        text = f"{found.lost} of {found.sent:,}, {found.first_s_max:.1f} s ({found.cuts} cuts)"
        return CampaignOutcome(text, found.is_clean, found.to_json())

    return Campaign(
        f"starts_{kind}",
        f"{{count}} starts at {kind} with 50 defects/s, and cuts: verdicts lost, longest wait for the first",
        "0, <= 10 s",
        100,
        run,
        lambda: broker_unavailable_reason(kind),
    )


def _faulty_broker(count: int, _seed: int) -> CampaignOutcome:
    found = run_faulty_broker(verdicts=count)
    text = f"{found.deleted_unacknowledged} of {found.sent:,}, {len(found.stuck)}, {found.forbidden_late_s:.2f} s"
    return CampaignOutcome(text, found.is_clean, found.to_json())


CAMPAIGNS: Final = (
    Campaign("outbox_kills", "{count:,} kills: committed verdicts lost", "0", 1_000, _outbox_kills),
    Campaign(
        "power_cuts", "{count} power cuts: committed verdicts lost", "0", 40, _power_cuts, power_cuts_unavailable_reason
    ),
    Campaign(
        "lifecycle_kills",
        "{count:,} kills of the model lifecycle: unverified models, floor fell, last good lost",
        "0, 0, 0",
        1_000,
        _lifecycle_kills,
    ),
    Campaign(
        "collector_kills",
        "{count} kills of agent and collecting child, cuts, expired credentials: frames lost, twice, damaged",
        "0, 0, 0",
        200,
        _collector_kills,
    ),
    Campaign("mutated_models", "{count:,} mutated models, half of them signed", "0 loaded", 10_000, _mutated_models),
    Campaign(
        "mutated_metadata",
        "{count:,} mutated metadata files: believed, crashed or hung",
        "0, 0",
        3_000,
        _mutated_metadata,
    ),
    Campaign("equally_good", "{count} equally good releases: false rollbacks", "<= 1 in 200", 200, _equally_good),
    Campaign(
        "always_ok",
        "{count} x always ok at 2 % defects: parts until it is off the line, median and most",
        "<= 1,000, <= 2,000",
        20,
        _constant_model(ALWAYS_OK),
    ),
    Campaign(
        "always_defect",
        "{count} x always defect at 2 % defects: parts until it is off the line, median and most",
        "<= 1,000, <= 2,000",
        20,
        _constant_model(ALWAYS_DEFECT),
    ),
    Campaign(
        "bad_models",
        "every kind of bad model through the real gates, {count} seeds on live parts: committed",
        "0; <= 1,000, <= 2,000",
        20,
        _bad_model_rollouts,
    ),
    Campaign(
        "unusable_images",
        "{count:,} images each: ten times too dark, black, white, flat, frozen (raw, MJPEG): `ok` from the third on",
        "0",
        10_000,
        _unusable_images,
    ),
    Campaign(
        "good_images", "{count:,} good images, and the real ones: refused as unusable", "0", 100_000, _good_images
    ),
    *(_agent_restarts(kind) for kind in BROKER_KINDS),
    Campaign(
        "reject_chart",
        "{count} x 30 shifts of several lines: false alarms in 30 shifts; parts until 2 % doubled is found",
        "<= 1, <= 1,000 (median)",
        400,
        _reject_chart,
    ),
    Campaign(
        "faulty_broker",
        "every behaviour of the faulty broker, 3.1.1 and 5, {count} verdicts each: deleted unacknowledged, stuck; "
        "wait on allowed topics beside a denied one",
        "0, 0, <= 2 s",
        100,
        _faulty_broker,
    ),
    Campaign("soak", "{count} h of line time with a release every hour: broken invariants", "0", 24, _soak),
)
SECTIONS: Final = tuple(campaign.name for campaign in CAMPAIGNS)


@dataclass(frozen=True, slots=True)
class FaultsResult:
    """All campaigns of a run."""

    campaigns: tuple[CampaignResult, ...]
    seed: int
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether every campaign that could run met its target."""
        return all(campaign.outcome is None or campaign.outcome.met for campaign in self.campaigns)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`, by the campaigns' names."""
        told: dict[str, Any] = {campaign.name: campaign.to_json() for campaign in self.campaigns}
        return told | {"seed": self.seed, "seconds": self.seconds, "is_clean": self.is_clean}


def run_faults(
    *,
    only: Sequence[str] = SECTIONS,
    share: float = 1.0,
    seed: int = 0,
    report: Callable[[str], None] = lambda _text: None,
) -> FaultsResult:
    """Run the campaigns in `only`, each with `share` of its count; every count in the result is measured in this run.

    `report` receives a line for each campaign as it begins and ends.
    """
    began = time.monotonic()
    results = [_run(c, max(1, round(c.count * share)), seed, report) for c in CAMPAIGNS if c.name in only]
    return FaultsResult(tuple(results), seed, round(time.monotonic() - began, 1))


def _run(campaign: Campaign, count: int, seed: int, report: Callable[[str], None]) -> CampaignResult:
    began = time.monotonic()
    what, missing = campaign.what.format(count=count), campaign.unavailable_reason()
    counted = None
    if missing is None:
        report(f"{campaign.name}: {what}")
        counted = campaign.run(count, seed)
    seconds = round(time.monotonic() - began, 1)
    ended = f"not done: {missing}" if counted is None else f"{counted.text} ({'met' if counted.met else 'not met'})"
    report(f"{campaign.name}: {ended}, {seconds:.0f} s")
    return CampaignResult(campaign.name, what, campaign.target, count, counted, missing, seconds)


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench faults`."""
    share = _QUICK_SHARE if arguments.quick else 1.0
    with silenced("agent"):
        result = run_faults(only=arguments.only or SECTIONS, share=share, seed=arguments.seed, report=report)
    table = ResultTable("kensa bench faults", "counted")
    for campaign in result.campaigns:
        if campaign.outcome is None:
            table.add_shown(campaign.what, f"not done: {campaign.unavailable_reason}", campaign.target)
        else:
            table.add_result(campaign.what, campaign.target, campaign.outcome.text, met=campaign.outcome.met)
    return BenchReport(table, result.to_json())
