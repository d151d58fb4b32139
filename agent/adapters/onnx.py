"""ONNX Runtime behind the `Model` port: loads a release folder and runs inference on batches.

Promise: the bytes that were hashed are the bytes that are loaded (read once, checked against the manifest, passed to
the runtime through a memfd, so that loading releases the GIL); the graph must meet the model contract or is refused
by name. A graph that this machine's runtime optimised before is used in its place when its name and digest fit; it was
made here, gives the same bits, and loads in less time. One that does not fit is never an error.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnxruntime as ort

from agent.errors import ContractError, InferenceError, IntegrityError, ReleaseError
from agent.images import plausibility
from agent.records import Scores
from agent.release import golden_set, graph_policy
from agent.release import manifest as manifests
from agent.release import optimised_graph as optimised_files

if TYPE_CHECKING:
    from pathlib import Path

    from agent.images.plausibility import ImageLimits
    from agent.records import DecisionRule, Geometry, ModelIdentity, Pixels

_RUNTIME: Final = f"onnxruntime {ort.__version__}"
_OPTIONS: Final = "cpu, all optimisations, 1 thread"  # change it with `_options`: part of the file's key
_MAX_OPTIMISED_BYTES: Final = 1024**3
WARM_UP_PAUSE_S: Final = 0.02  # between the runs of a warm-up beside a line, which keeps its cores
_log = logging.getLogger(__name__)


def _options() -> ort.SessionOptions:
    """Return the options: one thread a call and no spinning, because the workers are the parallelism."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # its errors come as exceptions, which carry the same text
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def open_session(
    data: bytes, *, source: str, already_optimised: bool = False, save_to: Path | None = None
) -> ort.InferenceSession:
    """Load model bytes; `save_to` also writes the optimised graph there.

    Raises ContractError naming `source` when the runtime refuses them.
    """
    options = _options()
    if already_optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save_to is not None:
        options.optimized_model_filepath = str(save_to)
    fd = os.memfd_create("kensa-model", os.MFD_CLOEXEC)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        return ort.InferenceSession(f"/proc/self/fd/{fd}", options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base class
        msg = f"{source}: ONNX Runtime {ort.__version__} refuses the model: {_first_line(error)}"
        raise ContractError(msg) from error
    finally:
        os.close(fd)


def read_verified(path: Path, entry: manifests.FileEntry) -> bytes:
    """Read one release file, bounded by the manifest's length. Raises IntegrityError."""
    try:
        with path.open("rb") as file:
            data = file.read(entry.length_bytes + 1)
    except OSError as error:
        msg = f"{path}: {error.strerror}; the release is incomplete, fetch or export it again"
        raise IntegrityError(msg) from error
    actual = hashlib.sha256(data).hexdigest()
    if len(data) != entry.length_bytes or actual != entry.sha256:
        msg = (
            f"{path} is not the file that the manifest names: sha256 {actual[:12]}..., expected {entry.sha256[:12]}... "
            f"({entry.length_bytes} bytes). It was changed or damaged; fetch or export the release again"
        )
        raise IntegrityError(msg)
    return data


def optimised_file_name(model_sha256: str) -> str:
    """Return the file name of the optimised graph of these model bytes for this runtime and processor."""
    return optimised_files.optimised_graph_name(model_sha256, runtime=_RUNTIME, options=_OPTIONS)


def save_optimised(release_dir: Path, into: Path | None = None) -> tuple[Path, str]:
    """Write the optimised graph of `release_dir` to the folder `into`, or beside its files; return path and sha256.

    Runs the runtime's optimiser on the release's own bytes: for a process apart from the line. The file appears whole
    or not at all. Raises a ReleaseError for the release, OSError when the file cannot be written.
    """
    entry = manifests.read_manifest(release_dir).files[manifests.MODEL_NAME]
    source = release_dir / manifests.MODEL_NAME
    data = read_verified(source, entry)
    path = (into or release_dir) / optimised_file_name(entry.sha256)
    part = path.with_suffix(".part")
    part.touch()  # its own error is clearer than the runtime's
    try:
        open_session(data, source=str(source), save_to=part)
        with part.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path, digest


def _open_optimised(path: Path, sha256: str | None, expected: str) -> ort.InferenceSession | None:
    """Return the session of a graph that was optimised here, or None with the reason in the log."""
    if path.name != expected:
        _log.info("%s was made for another runtime, processor or model; loading model.onnx", path)
        return None
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            data = file.read(min(os.fstat(file.fileno()).st_size, _MAX_OPTIMISED_BYTES))
    except OSError as error:
        _log.warning("%s cannot be read (%s); loading model.onnx", path, error.strerror)
        return None
    if hashlib.sha256(data).hexdigest() != sha256:
        _log.warning("%s differs from the file that was written at the self-test; loading model.onnx", path)
        return None
    try:
        return open_session(data, source=str(path), already_optimised=True)
    except ContractError as error:
        _log.warning("%s; loading model.onnx", error)
        return None


def read_image_limits(release_dir: Path, manifest: manifests.Manifest) -> ImageLimits | None:
    """Measure the golden set of `release_dir`; None, with a warning in the log, where it cannot be read."""
    path = release_dir / manifests.GOLDEN_NAME
    try:
        data = read_verified(path, manifest.files[manifests.GOLDEN_NAME])
        return plausibility.measure_limits(golden_set.first_images(data, manifest, source=str(path)))
    except ReleaseError as error:
        _log.warning("no image is checked for brightness and contrast: %s", error)
        return None


def warm_up(model: OnnxModel, max_batch: int, *, pause_s: float = WARM_UP_PAUSE_S) -> None:
    """Run every batch size up to `max_batch` once, so that the line's first batches find warm buffers.

    Sleeps `pause_s` between the runs. Raises InferenceError.
    """
    geometry = model.geometry
    grey = np.full((max_batch, geometry.height, geometry.width, geometry.channels), 128, np.uint8)
    for size in range(max_batch, 0, -1):  # the largest first: its buffers serve the others
        model.infer(grey[:size])
        time.sleep(pause_s)


class OnnxModel:
    """A loaded release; immutable, `infer` may be called from several threads at once."""

    def __init__(
        self,
        *,
        session: ort.InferenceSession,
        manifest: manifests.Manifest,
        trusted: bool,
        image_limits: ImageLimits | None = None,
    ) -> None:
        """Check the session against the manifest. `image_limits` are those of its golden set. Raises ContractError."""
        self._session = session
        self.manifest = manifest
        self._identity = manifest.identity(trusted=trusted)
        self._geometry = manifest.geometry.to_record()
        self._rule = manifest.rule()
        self._outputs = list(manifest.outputs)
        self._image_limits = image_limits
        try:
            self._check(session)
        except UnicodeDecodeError as error:  # the runtime decodes names and dimensions on access
            name = f"{self._identity.name} {self._identity.version}"
            raise ContractError(f"model {name} breaks the contract: a name or dimension is no UTF-8 text") from error

    @classmethod
    def load(
        cls,
        release_dir: Path,
        *,
        trusted: bool = False,
        optimised: Path | None = None,
        optimised_sha256: str | None = None,
    ) -> OnnxModel:
        """Read, verify and load `release_dir`. Raises a ReleaseError that names the file and what is wrong.

        `optimised` is a file of `save_optimised` with its digest; where it fits it is loaded in place of the release's
        own bytes, which are read and checked all the same.
        """
        manifest = manifests.read_manifest(release_dir)
        path, entry = release_dir / manifests.MODEL_NAME, manifest.files[manifests.MODEL_NAME]
        data = read_verified(path, entry)
        graph_policy.check_graph(data, source=str(path))
        session = None
        if optimised is not None:
            session = _open_optimised(optimised, optimised_sha256, optimised_file_name(entry.sha256))
        if session is None:
            session = open_session(data, source=str(path))
        limits = read_image_limits(release_dir, manifest)
        return cls(session=session, manifest=manifest, trusted=trusted, image_limits=limits)

    @property
    def identity(self) -> ModelIdentity:
        """See `ports.Model`."""
        return self._identity

    @property
    def geometry(self) -> Geometry:
        """See `ports.Model`."""
        return self._geometry

    @property
    def rule(self) -> DecisionRule:
        """See `ports.Model`."""
        return self._rule

    @property
    def preprocess_digest(self) -> str:
        """See `ports.Model`."""
        return self.manifest.preprocess_sha256

    @property
    def image_limits(self) -> ImageLimits | None:
        """See `ports.Model`."""
        return self._image_limits

    def infer(self, batch: Pixels) -> Scores:
        """See `ports.Model`."""
        try:
            results = self._session.run(self._outputs, {"image": batch})
        except Exception as error:  # the runtime's exceptions share no base class
            name = f"{self._identity.name} {self._identity.version}"
            raise InferenceError(f"{name} failed on a batch of {len(batch)}: {_first_line(error)}") from error
        return Scores(results[0], results[1] if len(results) > 1 else None)

    def _check(self, session: ort.InferenceSession) -> None:
        """Compare the graph's interface with the contract of the manifest, then run one grey image through it."""
        geometry, classes = self._geometry, len(self._rule.classes)
        problems: list[str] = []
        inputs = session.get_inputs()
        expected = [geometry.height, geometry.width, geometry.channels]
        if len(inputs) != 1 or inputs[0].name != "image":
            problems.append(f"inputs are {[i.name for i in inputs]}, expected exactly ['image']")
        elif inputs[0].type != "tensor(uint8)" or list(inputs[0].shape[1:]) != expected:
            problems.append(f"input is {inputs[0].type} {inputs[0].shape}, expected tensor(uint8) [N, {expected}]")
        elif isinstance(inputs[0].shape[0], int):
            problems.append(f"the batch dimension is fixed to {inputs[0].shape[0]}, expected a dynamic N")
        names: list[str] = [o.name for o in session.get_outputs()]
        if missing := [name for name in self._outputs if name not in names]:
            problems.append(f"outputs are {names}, missing {missing}")
        if not problems:
            grey = np.full((2, *expected), 128, np.uint8)
            problems = self._check_result(self.infer(grey), classes)
        if problems:
            msg = f"model {self._identity.name} {self._identity.version} breaks the contract: {'; '.join(problems)}"
            raise ContractError(msg)

    def _check_result(self, result: Scores, classes: int) -> list[str]:
        """Return what is wrong with the shapes and dtypes of a batch of two."""
        problems: list[str] = []
        scores: Any = result.scores
        if scores.dtype != np.float32 or scores.shape != (2, classes):
            problems.append(f"scores are {scores.dtype} {list(scores.shape)}, expected float32 [N, {classes}]")
        evidence: Any = result.evidence
        if evidence is not None and (evidence.dtype != np.float32 or evidence.ndim != 3 or len(evidence) != 2):  # noqa: PLR2004
            problems.append(f"evidence is {evidence.dtype} {list(evidence.shape)}, expected float32 [N, h, w]")
        return problems
