"""Mutated model files against the gates: the inspecting process must not crash or load one.

Two attackers. One changes files on the disk: the digest of the manifest must stop every one, in the process that
inspects. The other also signs what he changed, so that only policy, self-test and golden sets stand in his way; those
cases run the examination's own code in limited worker processes that are replaced when they die, and some of them go
through the real examining child. A mutated model may pass when the change means nothing (a name, an unused byte): it
counts as `harmless` if it classifies fresh images as the honest model does, and as `different` if not.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.adapters.onnx import OnnxModel
from agent.children.selftest_client import SelfTestClient
from agent.children.selftest_protocol import SelfTestRequest
from agent.errors import FetchError, InferenceError, IntegrityError, ReleaseError, ReleaseRefusedError
from agent.ports import SelfTestJob
from agent.release import golden_set
from agent.release import manifest as manifests
from agent.release_records import SelfTestLimits
from simulator.campaigns.forkserver import forkserver_context
from simulator.campaigns.mutations.onnx_mutations import mutate_onnx
from simulator.campaigns.mutations.worker_pool import CRASHED, HUNG, run_in_workers

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from agent.records import Pixels

_log = logging.getLogger(__name__)
_CASES_PER_WORKER: Final = 40
_CASE_S: Final = 30.0  # a case that takes longer hangs
_LIMITS: Final = SelfTestLimits(cpu_s=120.0)  # of a whole worker
_FRESH: Final = 32  # images on which a model that passed is compared with the honest one
_NOISE: Final = 25  # grey levels


@dataclass(frozen=True, slots=True)
class ModelMutations:
    """What came of it."""

    files: int  # changed on the disk, with the manifest as it was
    loaded: int  # of them: must be 0
    signed: int  # changed, with a manifest to fit
    refused: int
    harmless: int  # passed and classify as before
    different: int  # passed the self-test and classify otherwise: the live gates' business
    crashed: int  # worker processes that died: refused as `self_test/crash` on a device
    hung: int  # likewise, as `self_test/timeout`
    through_the_child: int
    reasons: dict[str, int] = field(default_factory=dict)  # of the refusals

    @property
    def is_clean(self) -> bool:
        """Whether nothing was loaded that the manifest does not name. That this process lives says the rest."""
        return self.loaded == 0


def run_mutated_models(
    *, release: Path, files: int, signed: int, children: int, seed: int, work_dir: Path | None = None
) -> ModelMutations:
    """Try `files` changed files, `signed` changed and signed ones, `children` of those in the real child as well.

    `release` is an honest release; `work_dir` where folders are made, the system's temporary directory by default.
    """
    with tempfile.TemporaryDirectory(prefix="kensa-models-", dir=work_dir) as name:
        base = Path(name)
        loaded = sum(_is_loaded_changed(release, base / "changed", seed, index) for index in range(files))
        outcomes = _run_in_workers(release, base, seed, signed)
        outcomes.update(_run_in_selftest_child(release, base / "child", seed, index) for index in range(children))
    special = {name: outcomes.pop(name, 0) for name in ("harmless", "different", CRASHED, HUNG)}
    return ModelMutations(
        files=files,
        loaded=loaded,
        signed=signed,
        refused=sum(outcomes.values()),
        through_the_child=children,
        reasons=dict(sorted(outcomes.items())),
        **special,
    )


def _case(release: Path, seed: int, index: int) -> bytes:
    data = (release / manifests.MODEL_NAME).read_bytes()
    return mutate_onnx(data, random.Random(f"{seed}/{index}"))


def _is_loaded_changed(release: Path, folder: Path, seed: int, index: int) -> bool:
    """The first attacker, in this process. An error other than IntegrityError would come through: a crash."""
    if not folder.exists():
        shutil.copytree(release, folder, copy_function=shutil.copyfile)
    (folder / manifests.MODEL_NAME).write_bytes(_case(release, seed, index))
    try:
        OnnxModel.load(folder)
    except IntegrityError:
        return False
    return True


def _signed(release: Path, folder: Path, model: bytes) -> Path:
    """The release with `model` and a manifest that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = manifests.read_manifest(release)
    entry = manifests.FileEntry(sha256=hashlib.sha256(model).hexdigest(), length_bytes=max(1, len(model)))
    files = {manifests.MODEL_NAME: entry, manifests.GOLDEN_NAME: manifest.files[manifests.GOLDEN_NAME]}
    (folder / manifests.MODEL_NAME).write_bytes(model)
    shutil.copyfile(release / manifests.GOLDEN_NAME, folder / manifests.GOLDEN_NAME)
    (folder / manifests.MANIFEST_NAME).write_bytes(manifest.model_copy(update={"files": files}).to_json())
    return folder


# --- the second attacker ----------------------------------------------------------------------------------------------


def _run_in_workers(release: Path, base: Path, seed: int, count: int) -> Counter[str]:
    """Count the outcomes; a case that is neither refused nor harmless is logged, so that it can be replayed."""
    context = forkserver_context("agent.selftest.self_test", "simulator.campaigns.mutations.mutated_models")
    outcomes: Counter[str] = Counter()
    for case, outcome in run_in_workers(
        context, run_cases, release, base / "work", seed,
        cases=count, case_s=_CASE_S, cases_per_worker=_CASES_PER_WORKER,
    ):  # fmt: skip
        outcomes[outcome] += 1
        if outcome in {CRASHED, HUNG, "different"}:
            _log.warning("mutated model %d: %s", case, outcome)
    return outcomes


def run_cases(release: Path, folder: Path, seed: int, cases: range, reports: Connection) -> None:
    """Examine the cases in this process, which limits itself first, and report each before the next begins."""
    from agent.selftest.process_limits import limit_process  # noqa: PLC0415 - only here: the inspecting process does not load it

    with Path(os.devnull).open("wb") as nothing:  # the runtime prints what it could not decode of its own errors
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    limit_process(_LIMITS, parent=os.getppid())
    honest = OnnxModel.load(release)
    fresh = _unseen_images(honest, release, seed)
    for index in cases:
        reports.send(_run_selftest(release, _signed(release, folder, _case(release, seed, index)), honest, fresh))


def _run_selftest(release: Path, candidate: Path, honest: OnnxModel, fresh: Pixels) -> str:
    from agent.selftest.self_test import run_self_test  # noqa: PLC0415 - see work

    request = SelfTestRequest(
        candidate=candidate,
        champion=release,
        acceptance=None,
        limits=_LIMITS,
        parent=os.getppid(),
        scratch=candidate,
        max_batch=2,
    )
    try:
        run_self_test(request, lambda _: None)
        return _compare(OnnxModel.load(candidate), honest, fresh)
    except ReleaseRefusedError as error:
        return f"{error.gate}/{error.reason}"
    except (ReleaseError, InferenceError, MemoryError):
        return "self_test/inference_failed"


def _unseen_images(honest: OnnxModel, release: Path, seed: int) -> Pixels:
    """Images like the golden ones, which the examination does not know."""
    data = (release / manifests.GOLDEN_NAME).read_bytes()
    images = golden_set.read_golden_set(data, honest.manifest, source=str(release)).images[:_FRESH].astype(np.int16)
    noise = np.random.default_rng(seed).integers(-_NOISE, _NOISE + 1, images.shape, np.int16)
    pictures: Pixels = np.clip(images + noise, 0, 255).astype(np.uint8)
    return pictures


def _compare(model: OnnxModel, honest: OnnxModel, fresh: Pixels) -> str:
    difference = np.abs(model.infer(fresh).scores - honest.infer(fresh).scores).max()
    return "harmless" if difference <= _LIMITS.golden_difference else "different"


def _run_in_selftest_child(release: Path, folder: Path, seed: int, index: int) -> str:
    """As a device does it."""
    candidate = _signed(release, folder / "candidate", _case(release, seed, index))
    examiner = SelfTestClient(scratch=folder / "scratch", max_batch=2)
    try:
        examiner.run_self_test(
            SelfTestJob(
                candidate=candidate,
                champion=release,
                acceptance=None,
                limits=SelfTestLimits(),
                stop=threading.Event(),
            )
        )
    except ReleaseRefusedError as error:
        return f"{error.gate}/{error.reason}"
    except FetchError as error:
        return error.reason
    return "harmless"
