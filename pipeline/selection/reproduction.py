"""Trains a release again from its lineage and reports whether the bytes are the same.

Promise: the training uses exactly the data that the lineage names. Equal digests of model.onnx and golden.npz:
reproduced. Different ones on the same CPU type, threads, libraries and code: not reproduced. Elsewhere different ones
are expected, because products are summed in another order: then the metrics on the validation split decide, each within
`tolerance` of the lineage's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from agent.release.manifest import GOLDEN_NAME, MODEL_NAME, read_manifest
from pipeline import release_writer
from pipeline.cloud.storage import open_storage
from pipeline.dataset_reader import DatasetError
from pipeline.selection.trainer import load_planned_dataset, plan_from_manifest, train_plan

if TYPE_CHECKING:
    from agent.release.manifest import Lineage, Manifest
    from pipeline.progress import Progress

TOLERANCE: Final = 0.02  # of a share: 2 points
COMPARED_METRICS: Final = ("accuracy", "macro_f1", "auroc", "escape_rate", "false_reject_rate")
_MAX_FILE_BYTES: Final = 64 << 20

Outcome = Literal["identical", "close", "different"]


@dataclass(frozen=True, slots=True)
class ReproductionDifference:
    """One value that differs from the lineage."""

    what: str
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The result of a reproduction."""

    outcome: Outcome
    release_id: str
    digests: tuple[ReproductionDifference, ...]  # files whose bytes differ
    environment: tuple[ReproductionDifference, ...]  # of that training against this one
    metrics: tuple[tuple[str, float, float], ...]  # name, before, now
    tolerance: float
    files: release_writer.ReleaseFiles

    @property
    def is_reproduced(self) -> bool:
        """Whether the version counts as reproduced here."""
        return self.outcome == "identical" or (self.outcome == "close" and bool(self.environment))

    def text(self) -> str:
        """Sentences for a person."""
        lines = []
        if self.outcome == "identical":
            lines.append(f"{self.release_id}: {MODEL_NAME} and {GOLDEN_NAME} are identical, byte for byte.")
        elif self.is_reproduced:
            lines.append(
                f"{self.release_id}: the bytes differ, as expected in another environment; every metric is within "
                f"{100 * self.tolerance:g} points."
            )
        elif not self.environment:
            lines.append(
                f"{self.release_id} is NOT reproduced: CPU type, threads, libraries and code are the same, and the "
                "bytes differ."
            )
        else:
            lines.append(f"{self.release_id} is NOT reproduced: a metric differs by more than the tolerance.")
        lines += [f"  {one.what}: {one.before} -> {one.now}" for one in (*self.digests, *self.environment)]
        if self.outcome != "identical":
            lines += [f"  {name}: {old:.4f} -> {new:.4f} ({new - old:+.4f})" for name, old, new in self.metrics]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "release": self.release_id,
            "outcome": self.outcome,
            "ok": self.is_reproduced,
            "digests": [[d.what, d.before, d.now] for d in self.digests],
            "environment": [[d.what, d.before, d.now] for d in self.environment],
            "figures": {name: [old, new] for name, old, new in self.metrics},
            "tolerance": self.tolerance,
        }


def reproduce(release_dir: Path, data: Path, *, tolerance: float = TOLERANCE, progress: Progress) -> Reproduction:
    """Train the release in `release_dir` again. Raises DatasetError when `data` is not what it was trained on."""
    manifest = read_manifest(release_dir)
    plan = plan_from_manifest(manifest)
    dataset = load_planned_dataset(plan, data)
    labels = manifest.lineage.parameters.get("labels_sha256")
    if labels not in {None, release_writer.labels_sha256(dataset.samples)}:
        raise DatasetError(
            f"{data} has the images that {manifest.name} {manifest.version} was trained on, but other masks or "
            "groups. Restore the data set version."
        )
    files = train_plan(plan, data, progress=progress)
    return compare_with_lineage(manifest, files, tolerance=tolerance)


def compare_with_lineage(old: Manifest, files: release_writer.ReleaseFiles, *, tolerance: float) -> Reproduction:
    """Compare the second training with the lineage of the first."""
    new = files.manifest
    digests = tuple(
        ReproductionDifference(name, old.files[name].sha256[:12], new.files[name].sha256[:12])
        for name in (MODEL_NAME, GOLDEN_NAME)
        if old.files[name].sha256 != new.files[name].sha256
    )
    before, now = old.metrics.get("int8", {}), new.metrics.get("int8", {})
    figures = tuple(
        (name, float(before[name]), float(now[name]))
        for name in COMPARED_METRICS
        if before.get(name) is not None and now.get(name) is not None
    )
    close = bool(figures) and all(abs(a - b) <= tolerance for _, a, b in figures)
    return Reproduction(
        outcome="identical" if not digests else ("close" if close else "different"),
        release_id=f"{old.name} {old.version}",
        digests=digests,
        environment=environment_differences(old.lineage, new.lineage),
        metrics=figures,
        tolerance=tolerance,
        files=files,
    )


def environment_differences(old: Lineage, new: Lineage) -> tuple[ReproductionDifference, ...]:
    """The differences on which the bytes may depend."""
    pairs = [(name, getattr(old, name), getattr(new, name)) for name in ("cpu", "threads", "code_version")]
    names = sorted({*old.libraries, *new.libraries})
    pairs += [(name, old.libraries.get(name, "none"), new.libraries.get(name, "none")) for name in names]
    return tuple(ReproductionDifference(name, str(before), str(now)) for name, before, now in pairs if before != now)


def fetch_dataset(uri: str, into: Path) -> Path:
    """A data set version's folder on this machine: itself, or a copy of s3://... in `into`."""
    if "://" not in uri:
        return Path(uri)
    storage = open_storage(uri)
    for stored in storage.list():
        target = into / stored.key
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(storage.read(stored.key, limit=_MAX_FILE_BYTES))
    return into
