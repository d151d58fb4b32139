"""The folders of a SageMaker training job, or of a local training with the same layout.

input/config/hyperparameters.json    {name: text}
input/data/CHANNEL/                  one folder per channel
model/                               the results: SageMaker packs them as model.tar.gz
output/failure                       why it failed: the beginning becomes the job's FailureReason
checkpoints/                         survives interruptions of spot machines
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import OperatorError
from pipeline.strict_json import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT_VARIABLE: Final = "SM_ROOT"
DEFAULT_ROOT: Final = "/opt/ml"
TRAINING_CHANNEL: Final = "training"
CANDIDATES_CHANNEL: Final = "candidates"
CHAMPION_CHANNEL: Final = "champion"
ANCHOR_PREFIX: Final = "anchor"
RELEASE: Final = "release"  # below model/
MAX_FAILURE_CHARS: Final = 1024  # what SageMaker shows
_MAX_HYPERPARAMETER_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class JobLayout:
    """The folders of one job; see the module."""

    root: Path

    @classmethod
    def from_environment(cls) -> JobLayout:
        """The layout of the current job: SM_ROOT, or /opt/ml."""
        return cls(Path(os.environ.get(ROOT_VARIABLE, DEFAULT_ROOT)))

    @property
    def model_folder(self) -> Path:
        """The folder of the results."""
        return self.root / "model"

    @property
    def release_folder(self) -> Path:
        """The release folder among the results."""
        return self.model_folder / RELEASE

    @property
    def failure_file(self) -> Path:
        """The file with the reason of a failure."""
        return self.root / "output" / "failure"

    @property
    def checkpoints_folder(self) -> Path:
        """The folder that survives interruptions, if the job has one."""
        return self.root / "checkpoints"

    def channel(self, name: str) -> Path:
        """A channel's folder. Raises OperatorError when the job has no such channel."""
        folder = self.root / "input" / "data" / name
        if not folder.is_dir():
            held = sorted(p.name for p in folder.parent.glob("*")) if folder.parent.is_dir() else []
            raise OperatorError(f"{folder} does not exist: the job needs the channel {name}, it has {held}.")
        return folder

    def channels_with_prefix(self, prefix: str) -> list[Path]:
        """The folders of all channels with this prefix, in order."""
        return sorted((self.root / "input" / "data").glob(f"{prefix}*"))

    def hyperparameters(self) -> dict[str, str]:
        """The hyperparameters of the job. Raises PlanError."""
        path = self._hyperparameters
        try:
            with path.open("rb") as file:
                tree = json.loads(file.read(_MAX_HYPERPARAMETER_BYTES))
        except OSError as error:
            raise PlanError(f"{path} cannot be read: {error.strerror}.") from error
        except ValueError as error:
            raise PlanError(f"{path} is not JSON: {error}.") from error
        if not isinstance(tree, dict) or not all(isinstance(value, str) for value in tree.values()):
            raise PlanError(f"{path} must be one object whose values are texts.")
        return tree

    def prepare(self, hyperparameters: Mapping[str, str], channels: Mapping[str, Path]) -> None:
        """Create the folders of a job on this machine; channels are links."""
        data = self.root / "input" / "data"
        data.mkdir(parents=True, exist_ok=True)
        self._hyperparameters.parent.mkdir(parents=True, exist_ok=True)
        self.model_folder.mkdir(exist_ok=True)
        self.failure_file.parent.mkdir(exist_ok=True)
        self.failure_file.unlink(missing_ok=True)
        self._hyperparameters.write_text(json.dumps(dict(hyperparameters), indent=2, sort_keys=True), encoding="utf-8")
        for name, target in channels.items():
            link = data / name
            link.unlink(missing_ok=True)
            link.symlink_to(target.resolve(), target_is_directory=True)

    @property
    def _hyperparameters(self) -> Path:
        return self.root / "input" / "config" / "hyperparameters.json"
