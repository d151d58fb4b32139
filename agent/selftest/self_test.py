"""The self-test: every gate that needs no live frame, in the order of `release_records.Gate`.

On the way from fetch to slot, the next module is `agent.lifecycle.trial_runner`.
"""

from __future__ import annotations

import logging
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.adapters.onnx import OnnxModel, read_verified, save_optimised
from agent.errors import (
    ContractError,
    FetchError,
    InferenceError,
    IntegrityError,
    ManifestError,
    ReleaseError,
    ReleaseRefusedError,
    SelfTestError,
)
from agent.release import golden_set, graph_policy
from agent.release import manifest as manifests
from agent.release.acceptance_set import AcceptanceSet
from agent.release_records import Gate, SelfTestResult
from agent.selftest import accuracy_gates, measurement

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agent.children.selftest_protocol import SelfTestRequest
    from agent.records import DecisionRule
    from agent.release.golden_set import GoldenSet
    from agent.release_records import SelfTestLimits
    from agent.selftest.accuracy_gates import Figures

_FILES: Final = (manifests.MANIFEST_NAME, manifests.MODEL_NAME, manifests.GOLDEN_NAME)
_TIMER_NOISE_MS: Final = 0.1  # a difference of this size is measurement noise, whatever the ratio
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A model with the rule that the line would use, and the memory that it took."""

    model: OnnxModel
    rule: DecisionRule
    extra_bytes: int


def run_self_test(request: SelfTestRequest, announce: Callable[[str], None]) -> SelfTestResult:
    """Run every gate; `announce` is called with each stage as it begins.

    Raises ReleaseRefusedError and FetchError; other InferenceErrors and ReleaseErrors are the candidate's fault.
    """
    limits = request.limits
    champion = None
    if request.champion is not None:
        announce("champion")
        champion = _load_champion(request, request.champion)
    announce("load")
    candidate = _load_candidate(request)
    announce("golden")
    figures = accuracy_gates.check_own_golden(candidate.model, _read_golden(request.candidate, candidate.model), limits)
    if champion is not None and request.champion is not None:
        figures |= accuracy_gates.check_champion_golden(
            candidate.model,
            candidate.rule,
            champion.model,
            champion.rule,
            _read_champion_golden(request.champion, champion),
        )
    if request.acceptance is not None:
        announce("acceptance")
        parts = AcceptanceSet(request.acceptance)
        figures |= accuracy_gates.check_acceptance(
            parts, candidate.model, candidate.rule, roi=request.roi, recall=limits.acceptance_recall
        )
    announce("latency")
    figures |= _check_latency(candidate, champion, limits)
    figures |= _check_memory(candidate, limits)
    announce("optimise")
    optimised = _optimise(request, candidate.model)
    return SelfTestResult(figures, *optimised)


# --- loading ----------------------------------------------------------------------------------------------------------


def _load_champion(request: SelfTestRequest, folder: Path) -> _Loaded:
    """Load the running model. Raises FetchError: its faults are not the candidate's."""
    try:
        model = OnnxModel.load(folder)
        before = measurement.resident_bytes()
        measurement.warm_up(model, request.max_batch)
        return _Loaded(model, _site_rule(model, request), measurement.resident_bytes() - before)
    except (ReleaseError, InferenceError, MemoryError) as error:
        raise FetchError(
            "self_test_champion", f"the running release cannot be loaded beside the new one: {error}"
        ) from error


def _load_candidate(request: SelfTestRequest) -> _Loaded:
    """Load and warm the candidate: the first time that its bytes reach the runtime on this machine."""
    folder = request.candidate
    _check_files(folder)
    before = measurement.resident_bytes()
    try:
        manifest = manifests.read_manifest(folder)
        source = folder / manifests.MODEL_NAME
        graph_policy.check_graph(read_verified(source, manifest.files[manifests.MODEL_NAME]), source=str(source))
    except ManifestError as error:
        raise ReleaseRefusedError(Gate.CONTRACT, "manifest", str(error)) from error
    except IntegrityError as error:
        raise ReleaseRefusedError(Gate.CONTRACT, "damaged", str(error)) from error
    except ContractError as error:
        raise ReleaseRefusedError(Gate.CONTRACT, "graph_policy", str(error)) from error
    try:
        model = OnnxModel.load(folder)
    except ContractError as error:
        if "allocat" in str(error):
            raise  # out of memory; `run_and_report` reports it so
        raise ReleaseRefusedError(Gate.CONTRACT, "interface", str(error)) from error
    rule = _site_rule(model, request)
    measurement.warm_up(model, request.max_batch)
    return _Loaded(model, rule, max(0, measurement.resident_bytes() - before))


def _check_files(folder: Path) -> None:
    """Refuse links, whose bytes could change after the self-test. Raises ReleaseRefusedError."""
    for name in _FILES:
        try:
            mode = (folder / name).lstat().st_mode
        except OSError as error:
            raise ReleaseRefusedError(Gate.CONTRACT, "damaged", f"{folder / name}: {error.strerror}") from error
        if not stat.S_ISREG(mode):
            raise ReleaseRefusedError(
                Gate.CONTRACT, "not_a_file", f"{folder / name} is no regular file; links are refused"
            )


def _site_rule(model: OnnxModel, request: SelfTestRequest) -> DecisionRule:
    """Return the model's rule with the site's overrides, as `kensa run` applies them. Raises ReleaseRefusedError."""
    rule = model.rule
    if unknown := sorted(set(request.thresholds) - rule.defects):
        raise ReleaseRefusedError(
            Gate.CONTRACT,
            "classes",
            f"the site sets thresholds for {', '.join(unknown)}, which are no defect classes of {model.identity.name} "
            f"{model.identity.version}; its defects are {', '.join(sorted(rule.defects))}",
        )
    band = rule.unsure_band if request.unsure_band is None else request.unsure_band
    return replace(rule, thresholds={**rule.thresholds, **request.thresholds}, unsure_band=band)


def _read_golden(folder: Path, model: OnnxModel) -> GoldenSet:
    """Read the candidate's golden set. Raises ReleaseRefusedError."""
    path = folder / manifests.GOLDEN_NAME
    try:
        data = read_verified(path, model.manifest.files[manifests.GOLDEN_NAME])
        return golden_set.read_golden_set(data, model.manifest, source=str(path))
    except IntegrityError as error:
        raise ReleaseRefusedError(Gate.CONTRACT, "damaged", str(error)) from error
    except SelfTestError as error:
        raise ReleaseRefusedError(Gate.GOLDEN, "unreadable", str(error)) from error


def _read_champion_golden(folder: Path, champion: _Loaded) -> GoldenSet:
    """Read the running release's golden set. Raises FetchError."""
    try:
        return _read_golden(folder, champion.model)
    except ReleaseRefusedError as error:
        raise FetchError("self_test_champion", f"the running release's golden set cannot be used: {error}") from error


# --- latency, memory, optimised file ----------------------------------------------------------------------------------


def _check_latency(candidate: _Loaded, champion: _Loaded | None, limits: SelfTestLimits) -> Figures:
    if champion is None:
        return {"candidate_ms": round(measurement.latency_ms(candidate.model), 4)}
    seen = measurement.compare_latency(candidate.model, champion.model, enough=limits.latency_ratio)
    figures: Figures = {
        "candidate_ms": round(seen.candidate_ms, 4),
        "champion_ms": round(seen.champion_ms, 4),
        "latency_ratio": round(seen.ratio, 4),
    }
    if seen.ratio > limits.latency_ratio and seen.candidate_ms - seen.champion_ms > _TIMER_NOISE_MS:
        raise ReleaseRefusedError(
            Gate.LATENCY,
            "too_slow",
            f"one input takes the new model {seen.candidate_ms:.2f} ms, the running one {seen.champion_ms:.2f} ms: "
            f"{seen.ratio:.2f} times as long in the best of several measurements, at most {limits.latency_ratio:g} "
            "times is allowed",
            figures=figures,
            limits={"latency_ratio": limits.latency_ratio},
        )
    return figures


def _check_memory(candidate: _Loaded, limits: SelfTestLimits) -> Figures:
    figures: Figures = {"extra_memory_bytes": candidate.extra_bytes}
    if candidate.extra_bytes > limits.extra_memory_bytes:
        raise ReleaseRefusedError(
            Gate.MEMORY,
            "too_large",
            f"the new model takes {candidate.extra_bytes / 1e6:.1f} MB of memory, at most "
            f"{limits.extra_memory_bytes / 1e6:.1f} MB is allowed beside the running one",
            figures=figures,
            limits={"extra_memory_bytes": limits.extra_memory_bytes},
        )
    return figures


def _optimise(request: SelfTestRequest, model: OnnxModel) -> tuple[Path, str] | tuple[None, None]:
    """Write the optimised graph and check that its scores are bit-identical; without one the release loads as it is."""
    image = np.full((1, model.geometry.height, model.geometry.width, model.geometry.channels), 100, np.uint8)
    try:
        path, digest = save_optimised(request.candidate, request.scratch)
        quick = OnnxModel.load(request.candidate, optimised=path, optimised_sha256=digest)
        before, now = model.infer(image), quick.infer(image)
    except (ReleaseError, InferenceError, OSError) as error:
        _log.warning("no optimised graph: %s", error)
        return None, None
    if not np.array_equal(before.scores, now.scores):
        _log.warning("the optimised graph gives other scores; it is not used")
        path.unlink()
        return None, None
    return path, digest
