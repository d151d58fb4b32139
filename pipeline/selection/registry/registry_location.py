"""Opens the registry at a location: a folder, or s3://bucket/prefix.

In S3 SageMaker's model registry mirrors the status.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import UsageError
from pipeline.cloud.storage import FolderStorage
from pipeline.selection.registry.model_registry import StorageRegistry, utc_now
from pipeline.selection.registry.sagemaker_registry import SageMakerRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.comparison.comparison_result import CandidateChoice
    from pipeline.selection.candidate_record import RegistryEntry
    from pipeline.selection.registry.model_registry import ModelRegistry


class LocalRegistry(StorageRegistry):
    """A registry in a folder, which the first candidate creates."""

    def __init__(self, folder: Path, *, now: Callable[[], str] = utc_now) -> None:
        """See `StorageRegistry`."""
        super().__init__(FolderStorage(folder), now=now)
        self._folder = folder

    def list(self, name: str | None = None) -> list[RegistryEntry]:
        """See `ModelRegistry.list`; a folder that does not exist yet is empty."""
        return super().list(name) if self._folder.is_dir() else []

    def list_choices(self, name: str) -> tuple[CandidateChoice, ...]:
        """See `ModelRegistry.list_choices`; likewise."""
        return super().list_choices(name) if self._folder.is_dir() else ()


def open_registry(where: str | Path, *, sagemaker: Any = None, s3: Any = None) -> ModelRegistry:
    """The registry at a folder, or at s3://bucket/prefix with SageMaker's as its mirror. Raises UsageError."""
    text = str(where)
    if "://" not in text:
        return LocalRegistry(Path(text))
    if not text.startswith("s3://") or not text.removeprefix("s3://"):
        raise UsageError(f"{text!r} is no registry: give a folder, or s3://bucket/prefix.")
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    return SageMakerRegistry(sagemaker, bucket, prefix=prefix, s3=s3)
