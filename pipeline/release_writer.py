"""Writes the release folder: the files of a device, and beside them float.onnx and report.html.

model.onnx, golden.npz and manifest.json go to devices; float.onnx and report.html stay.

Promise: equal inputs give equal bytes. `golden.npz` has fixed zip dates; the manifest is canonical JSON and differs
only in `lineage.created_utc` and `lineage.duration_s`. The folder is written aside and renamed: it is never incomplete.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import agent
from agent.errors import OperatorError
from agent.release.manifest import GOLDEN_NAME, MANIFEST_NAME, MODEL_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from agent.records import Pixels, Scores
    from agent.release.manifest import Manifest
    from pipeline.dataset_reader import Sample

FLOAT_NAME: Final = "float.onnx"  # the reference for agreement; devices do not get it
REPORT_NAME: Final = "report.html"
# 100 defects among six classes: 45 already detect a model that misses one in ten at 99 % (0.9 ** 45 < .01).
MAX_GOLDEN_IMAGES: Final = 120
MAX_GOLDEN_BYTES: Final = 18_200_000  # of pixels, before compression: 120 colour inputs of 224 x 224
_ZIP_DATE: Final = (1980, 1, 1, 0, 0, 0)
_SOURCES: Final = (  # the bytes of a training depend on these and on _TRAINING_SOURCES
    "agent/decision.py",
    "agent/images/decode.py",
    "agent/preprocess.py",
    "pipeline/dataset_reader.py",
    "pipeline/evaluation/model_evaluation.py",
    "pipeline/evaluation/model_runner.py",
    "pipeline/evaluation/metrics.py",
    "pipeline/model_inputs.py",
    "pipeline/release_writer.py",
)
_TRAINING_SOURCES: Final = "pipeline/training/*.py"
_LIBRARIES: Final = ("numpy", "onnx", "onnxruntime", "opencv-python-headless", "torch")


@dataclass(frozen=True, slots=True)
class ReleaseFiles:
    """The contents of a release folder."""

    model: bytes
    golden: bytes
    float_model: bytes
    manifest: Manifest
    report: str


def choose_golden_rows(labels: npt.NDArray[np.int64], input_bytes: int) -> npt.NDArray[np.int64]:
    """Choose rows for the golden set: classes in turn, so that each is represented, bounded in number and bytes."""
    limit = min(MAX_GOLDEN_IMAGES, max(1, MAX_GOLDEN_BYTES // input_bytes), len(labels))
    rank = np.zeros(len(labels), np.int64)
    for name in np.unique(labels):
        rows = np.flatnonzero(labels == name)
        rank[rows] = np.arange(len(rows))
    return np.sort(np.lexsort((labels, rank))[:limit])


def encode_golden_set(images: Pixels, result: Scores, labels: npt.NDArray[np.int64]) -> bytes:
    """Serialise `images` [N, H, W, C], the int8 model's `scores` (and `evidence`) on them, and `labels` [N]."""
    arrays: dict[str, npt.NDArray[Any]] = {"images": images, "labels": labels, "scores": result.scores}
    if result.evidence is not None:
        arrays["evidence"] = result.evidence
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, array in sorted(arrays.items()):
            entry = zipfile.ZipInfo(f"{name}.npy", _ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(entry, data.getvalue(), compresslevel=9)
    return out.getvalue()


def sha256(data: bytes) -> str:
    """Lower-case hex."""
    return hashlib.sha256(data).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries that affect the result; one that is not installed was not used."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def cpu_type() -> str:
    """The CPU's name, generation and the widest instruction sets that matter here: equal bytes need an equal CPU type.

    Virtual machines shorten the name ("AMD EPYC"); family and model distinguish the generations.
    """
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp")
    numbers = (("cpu family", "family"), ("model", "model"), ("CPU implementer", "implementer"), ("CPU part", "part"))
    generation = (f"{word} {fields[key]}" for key, word in numbers if key in fields)
    return " ".join([name, *generation, *(flag for flag in known if flag in flags)])[:128]


def code_version() -> str:
    """The package's version and a digest of the sources that training depends on, so that no git is needed."""
    root = Path(agent.__file__).parent.parent
    digest = hashlib.sha256()
    for name in (*_SOURCES, *sorted(path.relative_to(root).as_posix() for path in root.glob(_TRAINING_SOURCES))):
        digest.update(name.encode() + b"\0" + (root / name).read_bytes() + b"\0")
    return f"kensa {agent.__version__} sources {digest.hexdigest()[:16]}"


def labels_sha256(samples: Sequence[Sample]) -> str:
    """SHA-256 over the properties that the data set's digest omits, in the order of names: group, defect, mask."""
    digest = hashlib.sha256()
    for sample in samples:
        mask = sha256(sample.mask_path.read_bytes()) if sample.mask_path is not None else ""
        digest.update(f"{sample.name}\t{sample.group}\t{int(sample.is_defect)}\t{mask}\n".encode())
    return digest.hexdigest()


def check_output_folder(out: Path) -> None:
    """Refuse to replace a folder that is not a release, before any work is done. Raises OperatorError."""
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MANIFEST_NAME).is_file())):
        raise OperatorError(f"--out {out} exists and is not a release folder; name a new folder or remove it.")


def write_release(out: Path, files: ReleaseFiles) -> None:
    """Write the folder beside `out`, then put it in place of an earlier release. Raises OperatorError."""
    check_output_folder(out)
    contents: Mapping[str, bytes] = {
        MODEL_NAME: files.model,
        GOLDEN_NAME: files.golden,
        FLOAT_NAME: files.float_model,
        REPORT_NAME: files.report.encode(),
        MANIFEST_NAME: files.manifest.to_json(),
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
        made.chmod(0o755)
        for name, data in contents.items():
            (made / name).write_bytes(data)
        if out.exists():
            shutil.rmtree(out)
        made.rename(out)
    except OSError as error:
        raise OperatorError(f"--out {out} cannot be written: {error.strerror}. Choose another folder.") from error


def compare_release(new: ReleaseFiles, old_dir: Path, old: Manifest) -> Sequence[str]:
    """Report line by line whether the release in `old_dir` has the same bytes, and how its metrics differ."""
    lines = []
    digests = (
        (MODEL_NAME, old.files[MODEL_NAME].sha256, sha256(new.model)),
        (GOLDEN_NAME, old.files[GOLDEN_NAME].sha256, sha256(new.golden)),
    )
    for name, before, now in digests:
        lines.append(f"{name}: identical ({now[:12]})" if before == now else f"{name}: {before[:12]} -> {now[:12]}")
    mine, theirs = new.manifest.lineage, old.lineage
    for field in ("dataset_sha256", "code_version", "seed", "cpu", "threads"):
        before, now = getattr(theirs, field), getattr(mine, field)
        if before != now:
            lines.append(f"{field}: {before} -> {now}")
    for what in ("parameters", "libraries"):
        before, now = getattr(theirs, what), getattr(mine, what)
        lines += [
            f"{what}.{key}: {before.get(key)} -> {now.get(key)}"
            for key in sorted({*before, *now})
            if before.get(key) != now.get(key)
        ]
    lines += _figure_lines(old.metrics.get("int8", {}), new.manifest.metrics.get("int8", {}))
    return [f"compared with {old_dir}:", *(f"  {line}" for line in lines)]


def _figure_lines(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    lines = []
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, float) and isinstance(new, float) and old != new:
            lines.append(f"int8 {key}: {old:.4f} -> {new:.4f} ({new - old:+.4f})")
    return lines
