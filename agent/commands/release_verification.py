"""Verifies a release folder on this machine, for `kensa model` and `kensa doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.adapters.onnx import OnnxModel, read_verified
from agent.errors import InferenceError, SelfTestError
from agent.release import golden_set
from agent.release.manifest import GOLDEN_NAME
from agent.release_records import SelfTestLimits

if TYPE_CHECKING:
    from pathlib import Path


def compare_golden(folder: Path, model: OnnxModel) -> golden_set.GoldenComparison:
    """Run the golden set of the release in `folder`. Raises ReleaseError, InferenceError."""
    source = folder / GOLDEN_NAME
    data = read_verified(source, model.manifest.files[GOLDEN_NAME])
    return golden_set.compare_with_golden(model, golden_set.read_golden_set(data, model.manifest, source=str(source)))


def describe_agreement(result: golden_set.GoldenComparison) -> str:
    """Return how far the answers of this machine agree with the golden ones."""
    return (
        f"{result.same_outcome} of {result.images} golden images classified as where the release was made, scores "
        f"within {result.largest_difference:.4f}"
    )


def verify_release(folder: Path) -> str:
    """Verify the release in `folder`; return a description of it. Raises ReleaseError."""
    model, limits = OnnxModel.load(folder), SelfTestLimits()
    try:
        result = compare_golden(folder, model)
    except InferenceError as error:
        raise SelfTestError(f"{folder}: the golden images cannot be classified: {error}") from error
    identity = model.identity
    seen = (
        f"{identity.name} {identity.version}, sha256 {identity.sha256[:12]}...: every byte as in the manifest; "
        f"{describe_agreement(result)} (allowed {limits.golden_difference})"
    )
    enough = result.same_outcome >= limits.golden_agreement * result.images
    if not enough or result.largest_difference > limits.golden_difference:
        raise SelfTestError(f"{seen}. This CPU or runtime computes other results: retrain with --target-cpu any")
    return seen
