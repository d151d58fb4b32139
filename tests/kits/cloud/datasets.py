"""Collected frames as an agent writes them, and labels for them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from agent.records import Judgement, ModelIdentity, Origin, Outcome, Verdict
from agent.wire import encode_verdict
from agent.wire.collected_frame import CollectedImage, CollectReason, collected_stem, encode_collected
from pipeline.datasets.dataset_builder import build_dataset as build_version
from pipeline.datasets.label_store import Label

if TYPE_CHECKING:
    from agent.records import Box, Pixels
    from pipeline.cloud.storage import Storage

NOW = datetime(2026, 6, 1, tzinfo=UTC)
MODEL = ModelIdentity("spots", "1.0.0", "ab" * 32, 1, trusted=True)
START_US = 1_767_225_600_000_000  # 2026-01-01

build = partial(build_version, now=lambda: NOW)


def surface(seed: int, side: int = 48) -> Pixels:
    """A rough grey surface that no other seed has."""
    random = np.random.default_rng(seed)
    coarse = random.normal(120, 40, (12, 12))
    rough = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) + random.normal(0, 4, (side, side))
    return np.clip(rough, 0, 255).astype(np.uint8)


def encoded(pixels: Pixels, kind: str = "png", quality: int = 95) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality] if kind == "jpg" else []
    done, data = cv2.imencode(f".{kind}", pixels, flags)
    assert done
    return data.tobytes()


@dataclass(slots=True)
class Line:
    """Keeps frames in `storage`, ten seconds apart unless told otherwise."""

    storage: Storage
    site: str = "plant-a"
    line: str = "line-1"
    thing: str = "thing-1"
    boot_epoch: int = 1
    inspection: str = "surface"
    keys: list[str] = field(default_factory=list)

    def keep(  # noqa: PLR0913 - each has its default
        self,
        seq: int,
        *,
        pixels: Pixels | None = None,
        camera: str = "cam",
        at_s: float | None = None,
        part: str | None = None,
        outcome: Outcome = Outcome.DEFECT,
        score: float = 0.95,
        reason: CollectReason = CollectReason.DEFECT,
        rate: float | None = None,
        kind: str = "png",
        crop: Box | None = None,
        **changes: Any,
    ) -> str:
        """Keep one frame; returns the verdict's key. `changes` replace fields of the sidecar's image."""
        pixels = surface(seq) if pixels is None else pixels
        data = encoded(pixels, kind)
        seconds = 10.0 * seq if at_s is None else at_s
        origin = Origin(
            self.thing, self.line, self.inspection, camera, self.boot_epoch, "c" * 64, "p" * 64, MODEL, ("ok", "spot")
        )
        class_name = "spot" if outcome is Outcome.DEFECT else "ok"
        verdict = Verdict(
            origin=origin,
            seq=seq,
            captured_utc_ns=(START_US + int(seconds * 1e6)) * 1_000,
            judgement=Judgement(outcome, class_name, score, (1 - score, score)),
            latency_us=1_000,
            part_id=part,
        )
        height, width = pixels.shape[:2]
        image = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "format": kind}
        image |= {"width": width, "height": height, **changes}
        sidecar = encode_collected(
            reason=reason,
            sample_rate=rate,
            site=self.site,
            image=CollectedImage.model_validate(image),
            crop=crop,
            verdict=json.loads(encode_verdict(verdict)),
        )
        stem = collected_stem(self.site, verdict)
        self.storage.write(f"{stem}.{kind}", data)
        self.storage.write(f"{stem}.json", sidecar)
        self.keys.append(verdict.key)
        return verdict.key


def label(
    key: str,
    name: str,
    *,
    labeller: str = "ann",
    source: str = "job-1",
    at: str = "2026-02-01T00:00:00Z",
    defect: bool | None = None,
) -> Label:
    """A label of one key; every class but `ok` and `exclude` is a defect."""
    return Label(key, at, name, name not in {"ok", "exclude"} if defect is None else defect, source, labeller)
