"""Rolls out every kind of bad model through the real gates, up to live parts.

Each kind goes through a lifecycle of its own: fetched, stored, examined in the real child beside the running model and
its golden set, and, if it gets that far, shown to live parts. Those are rendered parts of the simulated line, drawn
with 2 % defects; running model and candidate both really inspect them. A copy of the good release goes first: it must
be committed, or the gates would prove nothing.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.adapters.onnx import OnnxModel
from agent.children.selftest_client import SelfTestClient
from agent.config import RolloutLimits
from agent.decision import decide_challenger, unknown_judgement
from agent.errors import InferenceError
from agent.lifecycle.lifecycle import Lifecycle
from agent.lifecycle.lifecycle_dependencies import LifecycleDependencies
from agent.preprocess import Preprocessor
from agent.records import Observation
from agent.release import manifest as manifests
from agent.release_records import DesiredRelease
from agent.slot import Lease, ModelSlot
from simulator.campaigns.rollout.rollout_simulation import RolloutCounts, count_rollouts, evaluate_rollout
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.lifecycle.bad_models import BAD_MODEL_KINDS, write_bad_release
from simulator.doubles.lifecycle.fake_repository import FakeReleaseFetcher, FakeRepository
from simulator.doubles.lifecycle.release_fixtures import NullTap
from simulator.line import SimulatedLine
from simulator.line.config import LineConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agent.lifecycle.active_release import LoadRequest
    from agent.ports import SelfTestJob
    from agent.preprocess import InputPlan
    from agent.records import Geometry, Judgement, Pixels
    from agent.release_records import SelfTestResult

GOOD_KIND: Final = "good"  # the control
# what only live parts show
LIVE_ONLY_KINDS: Final = tuple(name for name, kind in BAD_MODEL_KINDS.items() if not kind.reasons)
_DEFECT_RATE: Final = 0.02
_DEFECTS_IN_BANK: Final = 0.15
_MAX_PARTS: Final = 50_000  # then a rollout that has not ended counts as undecided
_US: Final = 2_000


@dataclass(frozen=True, slots=True)
class BadModelOutcome:
    """How one release fared."""

    kind: str
    gate: str | None  # that refused it
    reason: str | None
    parts: int  # of the line, from the beginning of the shadow to the refusal or the commit
    committed: bool
    as_expected: bool


@dataclass(frozen=True, slots=True)
class BadModelRollouts:
    """All kinds, and those that only live parts show over many seeds."""

    outcomes: list[BadModelOutcome]
    live_only: list[RolloutCounts] = field(default_factory=list)

    @property
    def bad_committed(self) -> list[str]:
        """Kinds that reached COMMITTED: must be none."""
        live = [counts.kind for counts in self.live_only if counts.committed]
        return [outcome.kind for outcome in self.outcomes if outcome.committed and outcome.kind != GOOD_KIND] + live

    @property
    def is_clean(self) -> bool:
        """Whether each was stopped by the gate that must, live ones in time, and the good one was not."""
        soon = all(c.median_parts <= 1_000 and c.most_frames <= 2_000 for c in self.live_only)  # noqa: PLR2004 the target
        return not self.bad_committed and soon and all(outcome.as_expected for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {**asdict(self), "bad_committed": self.bad_committed, "is_clean": self.is_clean}


class PartBank:
    """Rendered parts as a model sees them, and whether each is defective. No weak defects: they are anybody's guess."""

    def __init__(self, geometry: Geometry, *, parts: int, seed: int) -> None:
        """Render `parts` parts for models with this geometry; some 20 ms each."""
        line = SimulatedLine(LineConfig(seed=seed, defect_rate=_DEFECTS_IN_BANK, weak_share=0.0))
        preprocessor = Preprocessor(geometry)
        self._inputs: list[Pixels] = []
        self._plans: list[InputPlan] = []
        for index in range(parts):
            frame = line.render_roi(index)
            plan = preprocessor.plan_for(frame)
            inputs = np.zeros((len(plan.tiles), geometry.height, geometry.width, geometry.channels), np.uint8)
            preprocessor.write_to(frame, inputs)
            self._inputs.append(inputs)
            self._plans.append(plan)
        self._defective = np.array([line.truth(index).is_defective for index in range(parts)])

    def evaluate(self, lease: Lease) -> list[Judgement]:
        """Let a model inspect every part."""
        return [self._judgement(lease, inputs, plan) for inputs, plan in zip(self._inputs, self._plans, strict=True)]

    @staticmethod
    def _judgement(lease: Lease, inputs: Pixels, plan: InputPlan) -> Judgement:
        try:
            return decide_challenger(lease.rule, plan, lease.model.infer(inputs), start=0, inputs=len(inputs))
        except InferenceError as error:
            return unknown_judgement(str(error))

    def draw(self, rng: np.random.Generator) -> Iterator[int]:
        """Yield numbers of parts without end, 2 % of them defective."""
        good, bad = np.flatnonzero(~self._defective), np.flatnonzero(self._defective)
        while True:
            for is_bad, chance in rng.random((1_024, 2)):
                kind = bad if is_bad < _DEFECT_RATE else good
                yield int(kind[int(chance * len(kind))])


def _seen(number: int, champion: Judgement, challenger: Judgement, *, assigned: bool = True) -> Observation:
    return Observation(f"line/cam/1/{number}", "cam", champion, challenger, _US, _US, 2 * _US, assigned=assigned)


class _ShortExaminer(SelfTestClient):
    """The real one; `cpu_s` shortens its patience with a model that does not come back."""

    def __init__(self, scratch: Path, cpu_s: float | None) -> None:
        super().__init__(scratch=scratch)
        self._cpu_s = cpu_s

    def run_self_test(self, job: SelfTestJob) -> SelfTestResult:
        """See `ports.SelfTester`."""
        if self._cpu_s is not None:
            job = replace(job, limits=replace(job.limits, cpu_s=self._cpu_s))
        return super().run_self_test(job)


def _load(request: LoadRequest) -> Lease:
    model = OnnxModel.load(
        request.folder,
        trusted=request.trusted,
        optimised=request.optimised,
        optimised_sha256=request.optimised_sha256,
    )
    return Lease(model, model.rule)


class _InspectionLine:
    """One inspection whose parts come from a bank."""

    def __init__(self, folder: Path, factory: Path, bank: PartBank, *, seed: int, cpu_s: float | None) -> None:
        self.cloud = FakeRepository()
        self._slot = ModelSlot()
        self._clock = ManualClock()
        self._bank = bank
        self._numbers = bank.draw(np.random.default_rng(seed))
        self._cached_judgements: dict[int, list[Judgement]] = {}  # by the identity of the model
        self._leases: list[Lease] = []  # so that identities stay theirs
        self.parts = 0  # since the shadow began
        self.lifecycle = Lifecycle(
            LifecycleDependencies(
                inspection="top",
                state_dir=folder / "state",
                slot=self._slot,
                fetcher=FakeReleaseFetcher(self.cloud),
                self_tester=_ShortExaminer(folder / "scratch", cpu_s),
                load=_load,
                factory=factory,
                limits=RolloutLimits(),
                clock=self._clock,
                open_shadow_deployment=NullTap,
                on_status=lambda _status: None,
            )
        )
        self.lifecycle.start()

    def roll_out(self, folder: Path) -> None:
        """Publish and wish, and let parts pass until the rollout has ended or takes too long."""
        ref = self.cloud.publish(folder)
        self.lifecycle.desire(DesiredRelease(ref.release_id))
        begun = False
        while self.parts < _MAX_PARTS:
            self._clock.advance(min(self.lifecycle.step(), 1.0))
            status = self.lifecycle.status()
            begun = begun or status.candidate is not None
            if begun and status.candidate is None and status.state == "idle":
                return
            self._inspect_parts()

    def _inspect_parts(self) -> None:
        lease = self._slot.lease()
        if lease is None:
            return
        trial = lease.trial
        if isinstance(lease.frame_tap, NullTap):
            challenger, observe = lease.frame_tap.challenger, lease.frame_tap.observe
        elif trial is not None:
            challenger, observe = trial.challenger, trial.observe
        else:
            return
        number = next(self._numbers)
        self.parts += 1
        key = f"line/cam/1/{self.parts}"
        assigned = trial is None or trial.is_assigned(key)
        champion = self._judgements_of(lease)[number]
        said = self._judgements_of(challenger)[number] if assigned else champion
        observe(_seen(self.parts, champion, said, assigned=assigned))

    def _judgements_of(self, lease: Lease) -> list[Judgement]:
        found = self._cached_judgements.get(id(lease.model))
        if found is None:
            self._leases.append(lease)
            found = self._cached_judgements[id(lease.model)] = self._bank.evaluate(lease)
        return found


def _renumbered(folder: Path, *, counter: int, version: str) -> Path:
    """Give a release a version and a place in the order of releases."""
    manifest = manifests.read_manifest(folder).model_copy(update={"counter": counter, "version": version})
    (folder / manifests.MANIFEST_NAME).write_bytes(manifest.to_json())
    return folder


def _copied(release: Path, out: Path) -> Path:
    out.mkdir(parents=True)
    for name in (manifests.MANIFEST_NAME, manifests.MODEL_NAME, manifests.GOLDEN_NAME):
        (out / name).write_bytes((release / name).read_bytes())
    return out


def _roll_out_kind(
    kind: str, release: Path, folder: Path, bank: PartBank, *, seed: int, cpu_s: float | None
) -> BadModelOutcome:
    folder.mkdir()
    if kind == GOOD_KIND:
        candidate = _copied(release, folder / "candidate")
    else:
        candidate = write_bad_release(kind, release, folder / "candidate", version="2.0.0", seed=seed)
    _renumbered(candidate, counter=1, version="2.0.0")
    line = _InspectionLine(folder, release, bank, seed=seed, cpu_s=cpu_s)
    line.roll_out(candidate)
    status = line.lifecycle.status()
    line.lifecycle.close()
    refusal, committed = status.refusal, status.active is not None
    if kind == GOOD_KIND:
        expected = committed
    else:
        known = BAD_MODEL_KINDS[kind]
        expected = refusal is not None and refusal.gate in known.caught_by
        expected = expected and (not known.reasons or (refusal is not None and refusal.reason in known.reasons))
    return BadModelOutcome(
        kind,
        None if refusal is None else refusal.gate.value,
        None if refusal is None else refusal.reason,
        line.parts,
        committed,
        expected and committed == (kind == GOOD_KIND),
    )


def _roll_out_live_only(
    kind: str, release: Path, folder: Path, bank: PartBank, *, seeds: int, seed: int
) -> RolloutCounts:
    """Show a model that passes every examination to live parts, `seeds` times."""
    champion = OnnxModel.load(release)
    challenger = OnnxModel.load(write_bad_release(kind, release, folder / f"{kind}-live", version="2.0.0", seed=seed))
    ours, theirs = bank.evaluate(Lease(champion, champion.rule)), bank.evaluate(Lease(challenger, challenger.rule))

    def seen(rng: np.random.Generator) -> Iterator[Observation]:
        return (_seen(i, ours[part], theirs[part]) for i, part in enumerate(bank.draw(rng)))

    states = np.random.SeedSequence(seed).generate_state(seeds)
    generators = [np.random.default_rng(int(state)) for state in states]
    return count_rollouts([evaluate_rollout(seen(rng), rng=rng) for rng in generators], kind=kind)


def run_bad_model_rollouts(
    *,
    release: Path,
    seeds: int = 20,
    seed: int = 0,
    parts: int = 400,
    kinds: Sequence[str] = (GOOD_KIND, *BAD_MODEL_KINDS),
    cpu_s: float | None = None,
    work_dir: Path | None = None,
) -> BadModelRollouts:
    """Release every kind made from `release`; those that only live parts show, with `seeds` seeds.

    `parts` parts are rendered. `cpu_s` replaces the minute of processor time that an examination may take.
    """
    with tempfile.TemporaryDirectory(prefix="kensa-bad-models-", dir=work_dir) as name:
        folder = Path(name)
        factory = _copied(release, folder / "factory")
        bank = PartBank(manifests.read_manifest(factory).geometry.to_record(), parts=parts, seed=seed + 1)
        outcomes = [_roll_out_kind(kind, factory, folder / kind, bank, seed=seed, cpu_s=cpu_s) for kind in kinds]
        live_only = [
            _roll_out_live_only(k, factory, folder, bank, seeds=seeds, seed=seed) for k in kinds if k in LIVE_ONLY_KINDS
        ]
    return BadModelRollouts(outcomes, live_only)
