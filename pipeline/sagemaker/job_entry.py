"""The program of a training job: `python -m pipeline.sagemaker.job_entry`.

step=train trains the plan in the hyperparameters and leaves `release/`. step=choose compares the candidates (releases,
or the model.tar.gz of trainings, anywhere below their channel) with the champion's and leaves `choice.json`, the model
card and the proposed candidate as `release/`, if there is one.

It works on the folders of `job_layout`. Promise: a job that fails writes the reason to output/failure, in sentences,
and exits with a code other than 0; a job that was interrupted after its training and is started again does not train
twice. Local searches run the same program.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agent.errors import KensaError
from agent.release.manifest import MANIFEST_NAME, read_manifest
from pipeline import release_writer
from pipeline.comparison import selection_policy
from pipeline.sagemaker.job_layout import (
    ANCHOR_PREFIX,
    CANDIDATES_CHANNEL,
    CHAMPION_CHANNEL,
    MAX_FAILURE_CHARS,
    TRAINING_CHANNEL,
    JobLayout,
)
from pipeline.sagemaker.job_request import METRIC_PREFIX, REPORTED_METRICS
from pipeline.selection import candidate_choice
from pipeline.selection.choice_folder import write_choice
from pipeline.selection.training_plan import TrainingPlan
from pipeline.strict_json import PlanError, json_or_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_TOOLKIT_PREFIX: Final = "sagemaker_"  # hyperparameters of script mode
_MAX_ARCHIVE_BYTES: Final = 2 << 30
_MAX_CANDIDATES: Final = 256
_JOB_NAME_VARIABLE: Final = "TRAINING_JOB_NAME"  # set in every SageMaker job


def main() -> int:
    """Do the job's step; returns the exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    layout = JobLayout.from_environment()
    try:
        _run_step(layout)
    except KensaError as error:
        _fail(layout, str(error))
        return error.exit_code
    except Exception as error:
        _fail(layout, f"{type(error).__name__}: {error}")
        raise  # a bug: its traceback belongs in the log
    return 0


def _fail(layout: JobLayout, text: str) -> None:
    logging.getLogger(__name__).error("%s", text)
    layout.failure_file.parent.mkdir(parents=True, exist_ok=True)
    layout.failure_file.write_text(text[:MAX_FAILURE_CHARS], encoding="utf-8")


def _run_step(layout: JobLayout) -> None:
    given = {key: value for key, value in layout.hyperparameters().items() if not key.startswith(_TOOLKIT_PREFIX)}
    step = json_or_text(given.pop("step", "train"))
    if step == "train":
        _train(layout, given)
    elif step == "choose":
        _choose(layout, given)
    else:
        raise PlanError(f"the hyperparameter step is {step!r}; it must be train or choose.")


def log_progress(step: str, done: int, total: int, note: str = "") -> None:
    """A `Progress` for a log: ten lines a step, and the loss as a metric."""
    if done == total or done % max(1, total // 10) == 0:
        logging.getLogger(__name__).info("%s: %d/%d %s", step, done, total, note)
        if note.startswith("loss "):
            _log_metric("loss", float(note.split()[1]))


def _log_metric(name: str, value: float) -> None:
    sys.stdout.write(f"{METRIC_PREFIX} {name}={value:.6g}\n")
    sys.stdout.flush()


# --- step=train ---------------------------------------------------------------------------------------------------


def _train(layout: JobLayout, given: Mapping[str, str]) -> None:
    plan = TrainingPlan.from_hyperparameters(given)
    data = layout.channel(TRAINING_CHANNEL)
    kept = layout.checkpoints_folder / plan.digest
    if (kept / MANIFEST_NAME).is_file():
        logging.getLogger(__name__).info("trained before the interruption: %s", kept)
        shutil.copytree(kept, layout.release_folder, dirs_exist_ok=True)
    else:
        from pipeline.selection.trainer import train_plan  # noqa: PLC0415 - loads torch

        files = train_plan(plan, data, progress=log_progress, training_job=os.environ.get(_JOB_NAME_VARIABLE))
        if layout.checkpoints_folder.is_dir():
            release_writer.write_release(kept, files)
        release_writer.write_release(layout.release_folder, files)
    metrics = read_manifest(layout.release_folder).metrics
    for name in REPORTED_METRICS:
        value = metrics["int8"].get(name, metrics.get(name))
        if isinstance(value, float):
            _log_metric(name, value)


# --- step=choose --------------------------------------------------------------------------------------------------


def _choose(layout: JobLayout, given: Mapping[str, str]) -> None:
    tree: Any = json_or_text(given.get("policy", "null"))
    policy = selection_policy.read_policy(tree, "the hyperparameter policy")
    with tempfile.TemporaryDirectory(prefix="kensa-candidates-") as folder:
        room = Path(folder)
        candidates = _find_releases(layout.channel(CANDIDATES_CHANNEL), room / "candidates")
        champions = [
            found
            for channel in layout.channels_with_prefix(CHAMPION_CHANNEL)
            for found in _find_releases(channel, room / CHAMPION_CHANNEL)
        ]
        if len(champions) > 1:
            raise PlanError(f"the channel {CHAMPION_CHANNEL} holds {len(champions)} releases; it must hold one.")
        made = candidate_choice.choose_candidate(
            candidates,
            champions[0] if champions else None,
            layout.channel(TRAINING_CHANNEL),
            policy,
            anchors=layout.channels_with_prefix(ANCHOR_PREFIX),
            progress=log_progress,
        )
        write_choice(made, layout.model_folder)
        if made.proposed is not None:
            _log_metric("objective", made.proposed.objective)


def _find_releases(folder: Path, room: Path) -> list[Path]:
    """Every release folder below `folder`, with archives unpacked below `room`, in the order of their paths."""
    room.mkdir(parents=True, exist_ok=True)
    for number, archive in enumerate(sorted(folder.rglob("*.tar.gz"))):
        _unpack(archive, room / f"{number:04d}-{archive.parent.name}")
    found = sorted(path.parent for place in (folder, room) for path in place.rglob(MANIFEST_NAME))
    if len(found) > _MAX_CANDIDATES:
        raise PlanError(f"{folder} holds {len(found)} releases; at most {_MAX_CANDIDATES} are compared.")
    return found


def _unpack(archive: Path, into: Path) -> None:
    """Unpack plain files and folders only. Raises PlanError for damaged, too large or escaping archives."""
    try:
        with tarfile.open(archive, "r:gz") as packed:
            members = packed.getmembers()
            if sum(member.size for member in members) > _MAX_ARCHIVE_BYTES:
                raise PlanError(f"{archive} unpacks to more than {_MAX_ARCHIVE_BYTES:,} bytes.")
            packed.extractall(into, members=members, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise PlanError(f"{archive} cannot be unpacked: {error}.") from error


if __name__ == "__main__":
    sys.exit(main())
