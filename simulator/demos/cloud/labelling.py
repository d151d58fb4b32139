"""Labels collected frames from the simulator's truth, as people would.

Writes a Ground Truth output manifest, with masks beside it.

Their work goes the way of any labelling job's: the manifest is read by `pipeline.datasets.label_formats`, and the
labels go into the store. A `wrong` batch says the opposite of the truth, as a hurried or a hostile labeller may.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import cv2

from pipeline.datasets.collected_frames import MASKS, scan_frames
from pipeline.datasets.label_formats import ATTRIBUTE, FrameIndex, ImportOptions, read_ground_truth
from pipeline.datasets.label_store import LabelStore
from simulator.demos.cloud.cloud_line import INSPECTION, MODEL, SITE, bin_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.cloud.storage import Storage
    from pipeline.datasets.collected_frames import CollectedFrame
    from simulator.line import PartTruth, SimulatedLine

_CLASSES: Final = ("ok", "stain")


def count_collected(data: Storage, *, version: str = "") -> int:
    """How many frames have arrived (that the model's `version` inspected)."""
    keys = (one.key for one in data.list(f"collected/v1/site={SITE}/") if one.key.endswith(".json"))
    return sum(not version or f"/model={MODEL}-{version}/" in key for key in keys)


def label_frames(
    data: Storage, lines: Mapping[str, SimulatedLine], *, job: str, version: str = "", wrong: bool = False
) -> int:
    """Label every frame (that the model's `version` inspected) that has no label yet; returns how many were stored.

    `lines` by camera.
    """
    found = scan_frames(data, site=SITE, inspection=INSPECTION)
    store, now = LabelStore(data), datetime.now(UTC)
    known = store.load()
    entries = []
    for kept in found.frames:
        model = kept.verdict.origin.model
        is_wanted = not version or (model is not None and model.version == version)
        if is_wanted and known.latest(kept.key) is None:
            truth = lines[kept.verdict.origin.camera].truth(str(kept.verdict.part_id))
            if truth.is_defective and not wrong:
                data.write(f"{MASKS}/{kept.key}.png", _mask(lines[kept.verdict.origin.camera], truth))
            entries.append(_entry(kept, truth.is_defective is not wrong, uri=data.uri, job=job, now=now))
    manifest = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    key = f"labelling/{job}/manifests/output/output.manifest"
    data.write(key, manifest)
    read = read_ground_truth(data.read(key), f"{data.uri}/{key}", FrameIndex(found), ImportOptions(now=now))
    return store.append(read.labels)


def _mask(line: SimulatedLine, truth: PartTruth) -> bytes:
    _, png = cv2.imencode(".png", bin_pixels(line.mask_roi(truth.index)))
    return png.tobytes()


def _entry(kept: CollectedFrame, defective: bool, *, uri: str, job: str, now: datetime) -> dict[str, Any]:  # noqa: FBT001 - of two
    meta = {
        "class-name": _CLASSES[defective],
        "confidence": 1.0,
        "human-annotated": "yes",
        "creation-date": now.strftime("%Y-%m-%dT%H:%M:%S"),
        "job-name": job,
        "type": "groundtruth/image-classification",
    }
    return {"source-ref": f"{uri}/{kept.image_path}", ATTRIBUTE: int(defective), f"{ATTRIBUTE}-metadata": meta}
