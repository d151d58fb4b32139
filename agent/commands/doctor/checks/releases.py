"""Checks each inspection's release: manifest, digests, graph, golden set, site thresholds, speed."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.adapters.onnx import OnnxModel
from agent.app.factories import make_site_lease
from agent.commands.doctor.check_result import CheckResult, fail, ok, warn
from agent.commands.doctor.checks.machine.processor import own_processor_has_dot_product
from agent.commands.release_verification import compare_golden, describe_agreement
from agent.errors import ConfigError, InferenceError, ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agent.commands.doctor.check_context import CheckContext
    from agent.config import InspectionConfig

_ROUNDS: Final = 15  # short: `kensa bench` measures exactly
# difference of a score between two CPU types; int8 rounds differently at single steps
_MAX_GOLDEN_DIFFERENCE: Final = 0.05
_REMEDY: Final = "fetch or export the release again; the line keeps its last good one"


def run_checks(context: CheckContext) -> Iterator[CheckResult]:
    """Check each inspection's release; one that two inspections share is loaded once."""
    config = context.config
    loaded: dict[Path, OnnxModel | None] = {}
    for name, inspection in config.inspections.items():
        path = inspection.release.resolve()
        if path not in loaded:
            loaded[path] = None
            try:
                loaded[path] = OnnxModel.load(path)
            except ReleaseError as error:
                yield fail(f"release {name}", str(error), _REMEDY)
        model = loaded[path]
        if model is not None:
            yield from _release(name, path, model, inspection, is_factory=config.updates is not None)


def _release(
    name: str, path: Path, model: OnnxModel, inspection: InspectionConfig, *, is_factory: bool
) -> Iterator[CheckResult]:
    identity, check = model.identity, f"release {name}"
    seen = (
        f"{identity.name} {identity.version}, sha256 {identity.sha256[:12]}..., {_milliseconds(model):.2f} ms an input"
    )
    if is_factory:
        yield ok(check, f"{seen}; the factory release, which no signature vouches for")
    else:
        yield warn(
            check, f"{seen}, untrusted", "an unsigned local folder is for development: sign releases for a plant"
        )
    if model.manifest.lineage.parameters.get("target_cpu") == "vnni" and not own_processor_has_dot_product():
        yield warn(
            f"{check} cpu",
            "quantised with --target-cpu vnni, which this processor lacks: sums saturate",
            "train it with --target-cpu any",
        )
    try:
        make_site_lease(model, inspection, name=name)
    except ConfigError as error:
        yield fail(f"{check} thresholds", str(error), "name defect classes of the model only")
    yield _golden(f"{check} golden", path, model)


def _milliseconds(model: OnnxModel) -> float:
    """Return the median time of one input, on one thread."""
    geometry, times = model.geometry, []
    grey = np.full((1, geometry.height, geometry.width, geometry.channels), 128, np.uint8)
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        model.infer(grey)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1_000


def _golden(check: str, path: Path, model: OnnxModel) -> CheckResult:
    try:
        result = compare_golden(path, model)
    except (ReleaseError, InferenceError) as error:
        return fail(check, str(error), _REMEDY)
    seen = describe_agreement(result)
    if result.same_outcome < result.images:
        return fail(
            check, seen, "this CPU or runtime computes other results: retrain with --target-cpu any, or report it"
        )
    if result.largest_difference > _MAX_GOLDEN_DIFFERENCE:
        return warn(check, seen, "another CPU type rounds int8 differently: check the margins to the thresholds")
    return ok(check, seen)
