"""Releases with a golden set of a useful size, and an examination in one call."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.children.selftest_client import SelfTestClient
from agent.ports import SelfTestJob
from agent.release_records import SelfTestLimits, SelfTestResult
from tests.kits.releases import golden_arrays, spot_images, write_release

if TYPE_CHECKING:
    from pathlib import Path

PARTS = 120  # half of them with a spot


def golden_bytes(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def labelled_release(folder: Path, **changes: Any) -> Path:
    """The honest spot release with 120 labelled golden parts."""
    return write_release(folder, golden=golden_bytes(golden_arrays(*spot_images(PARTS))), **changes)


def examine(
    candidate: Path,
    *,
    champion: Path | None = None,
    acceptance: Path | None = None,
    stop: threading.Event | None = None,
    site: dict[str, Any] | None = None,
    **limits: float,
) -> SelfTestResult:
    """Examine in a real child; `limits` replace those of SelfTestLimits."""
    chosen = SelfTestLimits(**limits)  # type: ignore[arg-type]  # memory_bytes is an int where a test gives one
    examiner = SelfTestClient(scratch=candidate.parent / "scratch", **(site or {}))
    return examiner.run_self_test(
        SelfTestJob(
            candidate=candidate,
            champion=champion,
            acceptance=acceptance,
            limits=chosen,
            stop=stop or threading.Event(),
        )
    )
