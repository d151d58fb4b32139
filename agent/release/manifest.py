"""The manifest of a release, `manifest.json`: one parser for the pipeline and the device.

A release is a flat folder: `manifest.json`, `model.onnx`, `golden.npz`. The manifest lists length and sha256 of the
others, so trust in the manifest extends to the bytes. Nothing here loads a model.

On the way from fetch to slot, the next module is `agent.release.release_store`.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_serializer, model_validator

from agent import preprocess
from agent.errors import ManifestError
from agent.records import DecisionRule, Geometry, ModelIdentity
from agent.release.rollout_policy import RolloutPolicy
from agent.strict import Strict

if TYPE_CHECKING:
    from pathlib import Path

MAX_MANIFEST_BYTES: Final = 256 * 1024
MAX_SIDE_PX: Final = 2048  # of a model input; larger ones are cut into tiles
MANIFEST_NAME: Final = "manifest.json"
MODEL_NAME: Final = "model.onnx"
GOLDEN_NAME: Final = "golden.npz"

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SemVer = Annotated[str, StringConstraints(pattern=r"^\d{1,6}\.\d{1,6}\.\d{1,6}(-[0-9A-Za-z.-]{1,32})?$")]
Unit = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class FileEntry(Strict):
    """One of the release's other files."""

    sha256: Sha256
    length_bytes: int = Field(gt=0, le=256 * 1024 * 1024)


class GeometrySpec(Strict):
    """`records.Geometry` as JSON; see there for the meaning."""

    mode: Literal["whole", "tiles"]
    height: int = Field(ge=16, le=MAX_SIDE_PX)
    width: int = Field(ge=16, le=MAX_SIDE_PX)
    channels: Literal[1, 3]
    reduction: Literal[1, 2, 4] = 1
    overlap_px: int = Field(default=0, ge=0)
    roi: tuple[int, int, int, int] | None = None

    @model_validator(mode="after")
    def _overlap_is_less_than_a_tile(self) -> Self:
        if self.overlap_px >= min(self.height, self.width):
            msg = (
                f"overlap_px {self.overlap_px} must be less than the tile's shorter side {min(self.height, self.width)}"
            )
            raise ValueError(msg)
        return self

    def to_record(self) -> Geometry:
        """Return the frozen record that the hot path uses."""
        return Geometry(**self.model_dump())


class DecisionSpec(Strict):
    """`records.DecisionRule` as JSON; `classes` and `defects` come from the manifest's own lists."""

    thresholds: dict[Name, Unit]
    unsure_band: Unit = 0.0
    score: Literal["classes", "evidence"] = "classes"
    aggregation: Literal["max", "top_mean"] = "max"
    top_fraction: float = Field(default=0.2, gt=0.0, le=1.0)


class Lineage(Strict):
    """Where the bytes come from: enough to reproduce them."""

    dataset_sha256: Sha256  # of the sorted list of (path, sha256, class, split)
    code_version: str = Field(max_length=128)
    seed: int
    parameters: dict[str, Any]  # every training and quantisation parameter
    libraries: dict[str, str]  # name -> version
    cpu: str = Field(max_length=128)  # CPU type that trained; bytes are reproducible on the same one only
    threads: int
    training_job: str | None = Field(default=None, max_length=256)
    created_utc: str = Field(max_length=32)  # the only fields that may differ between two equal trainings: times
    duration_s: float = 0.0


class Manifest(Strict):
    """A complete, validated `manifest.json`."""

    schema_version: Literal[1] = 1
    name: Name
    version: SemVer
    counter: int = Field(default=0, ge=0)
    classes: tuple[Name, ...] = Field(min_length=1, max_length=64)
    defects: tuple[Name, ...]
    geometry: GeometrySpec
    preprocess_sha256: Sha256
    decision: DecisionSpec
    outputs: tuple[Literal["scores", "evidence"], ...]
    metrics: dict[str, Any] = Field(default_factory=dict)  # {"fp32": {...}, "int8": {...}}
    rollout: RolloutPolicy = RolloutPolicy()  # shadow length, trial shares, limits of the tests
    lineage: Lineage
    files: dict[Literal["model.onnx", "golden.npz"], FileEntry]

    @field_serializer("rollout")
    def _rollout_as_given(self, rollout: RolloutPolicy) -> dict[str, Any]:
        """Write only what was given: `{}` stays `{}`, and a default that changes later changes no signed bytes."""
        return rollout.model_dump(mode="json", exclude_unset=True)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            msg = f"classes repeat a name: {list(self.classes)}"
            raise ValueError(msg)
        if unknown := set(self.defects) - set(self.classes):
            msg = f"defects {sorted(unknown)} are not among the classes {list(self.classes)}"
            raise ValueError(msg)
        if set(self.decision.thresholds) != set(self.defects):
            given = sorted(self.decision.thresholds)
            msg = f"thresholds are given for {given}, but the defects are {sorted(self.defects)}"
            raise ValueError(msg)
        if self.outputs not in {("scores",), ("scores", "evidence")}:
            msg = f"outputs are {list(self.outputs)}, allowed are ['scores'] and ['scores', 'evidence']"
            raise ValueError(msg)
        if self.decision.score == "evidence" and "evidence" not in self.outputs:
            msg = "decision.score is 'evidence', but the model has no output 'evidence'"
            raise ValueError(msg)
        if MODEL_NAME not in self.files or GOLDEN_NAME not in self.files:
            msg = f"files must list {MODEL_NAME} and {GOLDEN_NAME}, got {sorted(self.files)}"
            raise ValueError(msg)
        expected = preprocess.digest(self.geometry.to_record())
        if self.preprocess_sha256 != expected:
            msg = (
                f"preprocess_sha256 is {self.preprocess_sha256[:12]}..., this Kensa's preprocessing gives "
                f"{expected[:12]}...: the model was trained with another preprocessing version; retrain it, or install "
                "the matching Kensa"
            )
            raise ValueError(msg)
        return self

    def rule(self) -> DecisionRule:
        """Return the decision rule as the hot path uses it."""
        return DecisionRule(
            classes=self.classes,
            defects=frozenset(self.defects),
            thresholds=dict(self.decision.thresholds),
            unsure_band=self.decision.unsure_band,
            score=self.decision.score,
            aggregation=self.decision.aggregation,
            top_fraction=self.decision.top_fraction,
        )

    def identity(self, *, trusted: bool) -> ModelIdentity:
        """Return name, version and digest for verdicts."""
        return ModelIdentity(self.name, self.version, self.files[MODEL_NAME].sha256, self.counter, trusted)

    def to_json(self) -> bytes:
        """Return canonical bytes: sorted keys, two spaces, newline at the end."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON object hook: duplicate keys are an attack or a mistake, and parsers disagree on which one counts."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            msg = f"key {key!r} occurs twice"
            raise ValueError(msg)
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        msg = f"number {text} is not finite"
        raise ValueError(msg)
    return value


def parse_manifest(data: bytes, *, source: str = MANIFEST_NAME) -> Manifest:
    """Parse untrusted bytes. Raises ManifestError naming `source`, the key, what was given and what is allowed."""
    if len(data) > MAX_MANIFEST_BYTES:
        msg = f"{source}: {len(data)} bytes, at most {MAX_MANIFEST_BYTES} are allowed"
        raise ManifestError(msg)
    try:
        tree = json.loads(data, object_pairs_hook=_refuse_duplicates, parse_constant=_finite, parse_float=_finite)
        return Manifest.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {'.'.join(str(p) for p in e['loc']) or '(whole)'}: {e['msg']}" for e in error.errors()]
        raise ManifestError(f"{source} is refused:\n" + "\n".join(lines)) from error
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{source} is not a valid manifest: {error}") from error


def read_manifest(release_dir: Path) -> Manifest:
    """Read and parse `release_dir/manifest.json`. Raises ManifestError."""
    path = release_dir / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as error:
        raise ManifestError(
            f"{path}: {error.strerror}. A release is a folder with manifest.json, model.onnx and golden.npz, "
            "as `kensa train --out` writes it."
        ) from error
    return parse_manifest(data, source=str(path))
