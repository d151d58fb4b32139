"""`kensa bench trials`: how often rollouts refuse releases whose disagreements come in runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.campaigns.rollout.trial_simulation import KINDS, run_trials

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from simulator.campaigns.rollout.trial_simulation import DisagreementProfile, TrialCounts

_MOST_REFUSED: Final = 0.01  # of good releases whose disagreements come in runs, on the deny list within all parts
_MOST_REFUSED_ALONE: Final = 0.002  # likewise, independent parts at the rate that is just good
_MEDIAN_PARTS: Final = 250  # until 5 % independent disagreement is refused
_GOOD, _TOO_MUCH = 0.01, 0.05


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One kind of release: what must come of it (None: shown only) and what did."""

    counts: TrialCounts
    target: str
    met: bool | None

    @property
    def figure(self) -> str:
        """For the table."""
        c = self.counts
        refused = f"{c.refused} of {c.rollouts:,} refused ({c.share_refused:.2%}), {c.refused_before_commit} before"
        at = "" if c.median_refused_at is None else f", median part {c.median_refused_at:,.0f}"
        return f"{refused} the commit{at}; {c.ever_held} held"


def run_refusal_rates(
    *, rollouts: int = 3_000, seed: int = 0, processes: int = 2, report: Callable[[str], None] = lambda _text: None
) -> list[TrialRow]:
    """Simulate `rollouts` of every kind; `report` receives a line for each as it ends."""
    rows = []
    for kind in KINDS:
        row = _evaluate(kind, run_trials(kind, rollouts=rollouts, seed=seed, processes=processes))
        report(f"{row.counts.kind}: {row.figure}")
        rows.append(row)
    return rows


def to_json(rows: list[TrialRow]) -> dict[str, Any]:
    """Return plain values for `json.dumps`, by the kinds' names."""
    return {row.counts.kind: {"target": row.target, "met": row.met, **asdict(row.counts)} for row in rows}


def _evaluate(kind: DisagreementProfile, counts: TrialCounts) -> TrialRow:
    if kind.rate < _GOOD:
        return TrialRow(counts, f"<= {_MOST_REFUSED:.0%} refused", counts.share_refused <= _MOST_REFUSED)
    if kind.rate == _GOOD:
        met = counts.refused_before_commit <= _MOST_REFUSED_ALONE * counts.rollouts
        return TrialRow(counts, f"<= {_MOST_REFUSED_ALONE:.1%} refused before the commit", met)
    if kind.rate < _TOO_MUCH:
        return TrialRow(counts, "shown", None)
    at = counts.median_refused_at
    return TrialRow(counts, f"median <= {_MEDIAN_PARTS} parts", at is not None and at <= _MEDIAN_PARTS)


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench trials`."""
    rollouts = arguments.rollouts // 10 if arguments.quick else arguments.rollouts
    rows = run_refusal_rates(rollouts=rollouts, seed=arguments.seed, processes=arguments.processes, report=report)
    title = f"kensa bench trials · {rollouts:,} rollouts a kind, {rows[0].counts.parts:,} parts each"
    table = ResultTable(title, "counted", what="true disagreement")
    for row in rows:
        if row.met is None:
            table.add_shown(row.counts.kind, row.figure, row.target)
        else:
            table.add_result(row.counts.kind, row.target, row.figure, met=row.met)
    return BenchReport(table, to_json(rows))
