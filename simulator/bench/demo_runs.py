"""`kensa bench demo`: runs the demo many times, and measures the error rates of its two releases.

Each run is a process of its own, `kensa demo --json`, over each broker that may be chosen; "without mosquitto" means
that the broker is named. A run counts when it ends with 0 and the subscriber has every verdict. Runs side by side share
the processors, so latencies of such a campaign mean nothing; completeness does, and gets harder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.adapters.onnx import OnnxModel
from agent.decision import part_score
from agent.preprocess import Preprocessor
from agent.release import manifest as manifests
from agent.sequential_tests import wilson
from simulator.bench.bench_report import BenchReport, ResultTable
from simulator.demos.common.release_accuracy import share_text
from simulator.demos.line.release_scenario import FADE, THRESHOLD
from simulator.doubles.network.mqtt_broker import BROKERS, has_iotcore, mosquitto_program
from simulator.line import CAMERAS, LineConfig, SimulatedLine
from simulator.paths import DEFAULT_RELEASE, FIRST_RELEASE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from agent.records import Pixels

_COMMAND: Final = (sys.executable, "-c", "import sys; from agent.cli import main; sys.exit(main())", "demo", "--json")
_BUSY_LOOP: Final = "while True: pass"
_SEED: Final = 11  # of the line on which releases are compared; the demo's own has 7
_TIMEOUT_S: Final = 300.0  # beyond the planned time of a run


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoBenchSettings:
    """How much is run."""

    runs: int = 20  # over each broker
    seconds: float = 90.0  # of each run; from 90 on all releases arrive
    parallel: int = 1  # runs side by side
    burn: int = 0  # processes that keep a core busy meanwhile
    parts: int = 3_000  # by which the releases are compared, half of them defective
    brokers: tuple[str, ...] = ()  # empty: all that are here


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One run."""

    broker: str
    code: int
    inspected: int
    delivered: int
    committed: bool  # the better release came to its end
    rolled_back: bool  # and so did the bad one
    problems: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """Whether it ended well, with every verdict at the subscriber."""
        return self.code == 0 and self.inspected == self.delivered > 0


@dataclass(frozen=True, slots=True)
class ReleaseErrors:
    """One release on fresh parts of the demo's line in one light."""

    release: str
    light: str
    defective: int
    escapes: int
    good: int
    false_rejects: int


@dataclass(frozen=True, slots=True)
class DemoBenchResult:
    """All of it."""

    settings: DemoBenchSettings
    runs: tuple[DemoRun, ...]
    releases: tuple[ReleaseErrors, ...]
    missing_brokers: tuple[str, ...] = field(default=())  # brokers that are not installed

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `json.dumps`."""
        return {
            "settings": asdict(self.settings),
            "runs": [asdict(one) | {"complete": one.is_complete} for one in self.runs],
            "releases": [
                asdict(one)
                | {
                    "escape_interval": wilson(one.escapes, one.defective),
                    "false_reject_interval": wilson(one.false_rejects, one.good),
                }
                for one in self.releases
            ],
            "missing": list(self.missing_brokers),
        }


def run_command(arguments: argparse.Namespace, *, report: Callable[[str], None]) -> BenchReport:
    """`kensa bench demo`."""
    settings = DemoBenchSettings(
        runs=1 if arguments.quick else arguments.runs,
        seconds=6.0 if arguments.quick else arguments.seconds or 90.0,
        parallel=arguments.parallel,
        burn=arguments.burn,
        parts=200 if arguments.quick else arguments.parts,
        brokers=tuple(arguments.broker or ()),
    )
    result = run_demos(settings, report=report)
    table = ResultTable(f"kensa bench demo · {settings.seconds:g} s a run, {settings.burn} cores burned", "counted")
    for broker in dict.fromkeys(one.broker for one in result.runs):
        ran = [one for one in result.runs if one.broker == broker]
        complete, ended = sum(one.is_complete for one in ran), sum(one.committed and one.rolled_back for one in ran)
        what = f"{broker}: exit 0 and every verdict at the subscriber"
        table.add_result(what, "all", f"{complete} of {len(ran)}", met=complete == len(ran))
        table.add_shown(f"{broker}: both releases came to their ends", f"{ended} of {len(ran)}")
    for broker in result.missing_brokers:
        table.add_shown(broker, "not run: it is not installed", "all")
    for one in result.releases:
        escaped, rejected = share_text(one.escapes, one.defective), share_text(one.false_rejects, one.good)
        table.add_shown(f"{one.light}: defects that {one.release} lets escape", escaped)
        table.add_shown(f"{one.light}: good parts that {one.release} rejects", rejected)
    return BenchReport(table, result.to_json())


def run_demos(settings: DemoBenchSettings, *, report: Callable[[str], None]) -> DemoBenchResult:
    """Compare the releases, then run the demos. `report` receives a line for each run as it ends."""
    valued = tuple(_measure_releases(settings.parts, report)) if settings.parts else ()
    here = {"mosquitto": mosquitto_program() is not None, "iotcore": has_iotcore(), "amqtt": True}
    asked = settings.brokers or BROKERS
    brokers = [broker for broker in asked if here[broker]]
    jobs = [(number, broker) for number in range(settings.runs) for broker in brokers]
    with _keep_cores_busy(settings.burn), ThreadPoolExecutor(settings.parallel, thread_name_prefix="demo") as threads:
        ran = tuple(threads.map(lambda job: _run(job, settings, report), jobs))
    return DemoBenchResult(settings, ran, valued, tuple(broker for broker in asked if not here[broker]))


@contextmanager
def _keep_cores_busy(cores: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY_LOOP]) for _ in range(cores)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _run(job: tuple[int, str], settings: DemoBenchSettings, report: Callable[[str], None]) -> DemoRun:
    number, broker = job
    with tempfile.TemporaryDirectory(prefix="kensa-demo-") as folder:
        options = ("--seconds", str(settings.seconds), "--broker", broker, "--out", folder)
        try:
            done = subprocess.run(
                [*_COMMAND, *options],
                capture_output=True,
                text=True,
                check=False,
                timeout=settings.seconds + _TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            ran = DemoRun(broker, -1, 0, 0, committed=False, rolled_back=False, problems=("it did not end",))
        else:
            ran = _parse_report(broker, done)
    fate = "complete" if ran.is_complete else f"NOT complete: {'; '.join(ran.problems) or f'exit code {ran.code}'}"
    report(f"run {number + 1} on {broker}: {ran.delivered} of {ran.inspected} verdicts, {fate}")
    return ran


def _parse_report(broker: str, done: subprocess.CompletedProcess[str]) -> DemoRun:
    report: dict[str, Any] = json.loads(done.stdout or "{}")
    results = [release["result"] for release in (report.get("updates") or {}).get("releases", [])]
    problems = tuple(report.get("problems", [])) or (() if done.returncode == 0 else (done.stderr.strip()[-500:],))
    return DemoRun(
        broker,
        done.returncode,
        report.get("inspected", 0),
        report.get("delivered", 0),
        committed="committed" in results,
        rolled_back=any(result in {"rolled back", "refused"} for result in results[1:]),
        problems=problems,
    )


# --- what the releases are worth --------------------------------------------------------------------------------------


def _measure_releases(parts: int, report: Callable[[str], None]) -> Iterator[ReleaseErrors]:
    releases = ((FIRST_RELEASE, None), (DEFAULT_RELEASE, THRESHOLD))
    for light, fade in (("good light", 0.0), ("faded lamp", FADE)):
        report(f"making {parts} parts in {light}")
        inputs, defective = _inputs(parts, fade)
        for folder, threshold in releases:
            rejected = _rejected(folder, threshold, inputs)
            pairs = list(zip(rejected, defective, strict=True))
            yield ReleaseErrors(
                release=f"{folder.name}{f' at {threshold:g}' if threshold else ''}",
                light=light,
                defective=sum(defective),
                escapes=sum(bad and not found for found, bad in pairs),
                good=len(defective) - sum(defective),
                false_rejects=sum(found and not bad for found, bad in pairs),
            )


def _inputs(parts: int, fade: float) -> tuple[Pixels, list[bool]]:
    """Model inputs [N, H, W, C] of fresh parts of the colour camera, half of them defective, and which those are."""
    line = SimulatedLine(
        LineConfig(
            seed=_SEED, vary=True, pool=32, defect_rate=0.5, drift_shape="ramp", drift_amplitude=fade,
            drift_period_parts=2, flicker=0.02, exposure_step=0.02,
        )
    )  # fmt: skip
    geometry = manifests.read_manifest(DEFAULT_RELEASE).geometry.to_record()
    preprocessor = Preprocessor(geometry, roi=CAMERAS["colour1080"].roi)
    inputs = np.empty((parts, geometry.height, geometry.width, geometry.channels), np.uint8)
    frame: Pixels | None = None
    first = line.config.drift_period_parts  # from here on the lamp has faded
    for number in range(parts):
        frame = line.varied.frame(first + number, frame)
        preprocessor.write_to(frame, inputs[number : number + 1])
    return inputs, [line.truth(first + number).is_defective for number in range(parts)]


def _rejected(folder: Path, threshold: float | None, inputs: Pixels) -> Sequence[bool]:
    """Whether each input is rejected: the release's own rule, with another threshold where given."""
    model, rejected = OnnxModel.load(folder), []
    for number in range(len(inputs)):
        result = model.infer(inputs[number : number + 1])
        value, index, _ = part_score(model.rule, result.scores, result.evidence)
        limit = threshold if threshold is not None else model.rule.thresholds[model.rule.classes[index]]
        rejected.append(value >= limit)
    return rejected
