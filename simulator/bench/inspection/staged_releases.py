"""Releases for the swap benchmark: copies under other versions, optimised as by the self-test."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.adapters.onnx import OnnxModel, save_optimised, warm_up
from agent.errors import KensaError
from agent.slot import Lease

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class StagedRelease:
    """A release folder and its optimised graph."""

    folder: Path
    version: str
    optimised: Path
    optimised_sha256: str

    def load(self, like: Lease, *, max_batch: int) -> Lease:
        """Load and warm up, as the lifecycle does; the site's rule is the running lease's."""
        model = OnnxModel.load(self.folder, optimised=self.optimised, optimised_sha256=self.optimised_sha256)
        warm_up(model, max_batch)
        return Lease(model, like.rule)


def stage_release(release: Path, folder: Path, *, version: str) -> StagedRelease:
    """Copy a release under another version and with other bytes (the same graph), and optimise it.

    A field of the model file that comes twice counts as its last occurrence, so that naming another producer version at
    the end gives a model that computes the same and has another digest.
    """
    shutil.copytree(release, folder, ignore=shutil.ignore_patterns("float.onnx", "optimised-*"))
    text = version.encode()
    model = (release / "model.onnx").read_bytes() + b"\x1a" + bytes([len(text)]) + text  # ModelProto.producer_version
    (folder / "model.onnx").write_bytes(model)
    tree = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tree["version"] = version
    tree["files"]["model.onnx"] = {"sha256": hashlib.sha256(model).hexdigest(), "length_bytes": len(model)}
    (folder / "manifest.json").write_text(json.dumps(tree), encoding="utf-8")
    return StagedRelease(folder, version, *save_optimised(folder))


def measure_second_model(staged: Sequence[StagedRelease]) -> float:
    """MB that a second model adds to a process with one, both loaded and warmed as on the line."""
    program = (
        "import sys, psutil; from pathlib import Path; from agent.adapters.onnx import OnnxModel, warm_up; held = []\n"
        "for folder, file, digest in zip(*[iter(sys.argv[1:])] * 3):\n"
        "    held.append(OnnxModel.load(Path(folder), optimised=Path(file), optimised_sha256=digest))\n"
        "    warm_up(held[-1], 8, pause_s=0)\n"
        "    print(psutil.Process().memory_info().rss)"
    )
    arguments = [text for s in staged for text in (str(s.folder), str(s.optimised), s.optimised_sha256)]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise KensaError(f"the memory of a second model could not be measured:\n{done.stderr[-2_000:]}")
    one, two = map(int, done.stdout.split())
    return (two - one) / 1e6
