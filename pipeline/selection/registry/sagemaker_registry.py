"""A registry in S3 that is mirrored to SageMaker's model registry.

The record and the history in the bucket are authoritative; the model package shows them in the SageMaker console, and
its approval status follows. SageMaker numbers its packages 1, 2, 3 ...: `package.json` beside the record holds the ARN.

A package must name an inference container. This one is never deployed to an endpoint: devices take signed releases.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

from pipeline.cloud.storage import ObjectMissingError, S3Storage, StorageError
from pipeline.selection.candidate_record import CandidateStatus
from pipeline.selection.registry.model_registry import StorageRegistry, utc_now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pipeline.selection.candidate_record import CandidateRecord, RegistryEntry

APPROVAL: Final[dict[CandidateStatus, str]] = {
    CandidateStatus.PENDING: "PendingManualApproval",
    CandidateStatus.APPROVED: "Approved",
    CandidateStatus.REJECTED: "Rejected",
    CandidateStatus.RELEASED: "Approved",
    CandidateStatus.ROLLED_BACK: "Rejected",
}
_PACKAGE: Final = "package.json"
_MAX_PACKAGE_BYTES: Final = 4096
_MAX_DESCRIPTION: Final = 1024
# The public image of the multi-model server's base: never started; see the module.
_IMAGE: Final = "public.ecr.aws/docker/library/python:3.11-slim"


class SageMakerRegistry(StorageRegistry):
    """A `ModelRegistry` at s3://`bucket`/`prefix`, with model packages in the group kensa-NAME.

    Needs s3:GetObject, PutObject, ListBucket there, and sagemaker:CreateModelPackageGroup, CreateModelPackage,
    UpdateModelPackage.
    """

    def __init__(
        self,
        sagemaker: Any,
        bucket: str,
        *,
        prefix: str = "registry",
        s3: Any = None,
        image: str = _IMAGE,
        now: Callable[[], str] = utc_now,
    ) -> None:
        """Open the registry.

        Args:
            sagemaker: boto3 client; None makes one from the environment.
            bucket: of the records and release folders.
            prefix: of their keys.
            s3: boto3 client; None makes one from the environment.
            image: inference container that the packages name.
            now: gives the times of changes.
        """
        self._files = S3Storage(bucket, prefix.strip("/"), client=s3)
        super().__init__(self._files, now=now)
        import boto3  # noqa: PLC0415 - S3Storage has reported it if it is missing
        import botocore.exceptions  # noqa: PLC0415

        self._errors = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
        with self._storage_errors("SageMaker"):
            self._sagemaker = sagemaker or boto3.client("sagemaker")
        self._image = image

    def register(
        self, record: CandidateRecord, release: Path, *, by: str, why: str, cards: dict[str, str] | None = None
    ) -> RegistryEntry:
        """See `ModelRegistry.register`."""
        entry = super().register(record, release, by=by, why=why, cards=cards)
        self._mirror(entry)
        return entry

    def set_status(self, name: str, version: str, status: CandidateStatus, *, by: str, why: str) -> RegistryEntry:
        """See `ModelRegistry.set_status`. The mirror follows, even when an earlier failure left it behind."""
        entry = super().set_status(name, version, status, by=by, why=why)
        self._mirror(entry)
        return entry

    def package_arn(self, name: str, version: str) -> str | None:
        """The mirroring package's ARN."""
        try:
            data = self._files.read(f"{name}/{version}/{_PACKAGE}", limit=_MAX_PACKAGE_BYTES)
        except ObjectMissingError:
            return None
        return str(json.loads(data)["arn"])

    def _mirror(self, entry: RegistryEntry) -> None:
        record = entry.record
        arn = self.package_arn(record.name, record.version)
        if arn is None:
            arn = self._create(record)
            self._files.write(f"{record.release_id}/{_PACKAGE}", json.dumps({"arn": arn}).encode())
        last = entry.history[-1]
        with self._storage_errors(arn):
            self._sagemaker.update_model_package(
                ModelPackageArn=arn,
                ModelApprovalStatus=APPROVAL[last.status],
                ApprovalDescription=f"{last.status} by {last.by}: {last.why}"[:_MAX_DESCRIPTION],
            )

    def _create(self, record: CandidateRecord) -> str:
        group = f"kensa-{record.name.replace('_', '-')}"
        self._ensure_group(group)
        source = {"S3Uri": f"{record.artifacts_uri}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        with self._storage_errors(group):
            made = self._sagemaker.create_model_package(
                ModelPackageGroupName=group,
                ModelPackageDescription=f"{record.release_id}: {' '.join(record.decision.reasons)}"[:_MAX_DESCRIPTION],
                InferenceSpecification={
                    "Containers": [{"Image": self._image, "ModelDataSource": {"S3DataSource": source}}],
                    "SupportedContentTypes": ["application/octet-stream"],
                    "SupportedResponseMIMETypes": ["application/json"],
                },
                ModelApprovalStatus=APPROVAL[CandidateStatus.PENDING],
                CustomerMetadataProperties={
                    "version": record.version,
                    "model_sha256": record.model_sha256,
                    "dataset_digest": record.dataset_digest,
                    "decision": record.decision.outcome,
                    "record": f"{self._files.uri}/{record.release_id}/record.json",
                },
                ClientToken=record.model_sha256[:36],  # a repeated request creates one package
            )
        return str(made["ModelPackageArn"])

    def _ensure_group(self, group: str) -> None:
        try:
            with self._storage_errors(group):
                self._sagemaker.create_model_package_group(
                    ModelPackageGroupName=group, ModelPackageGroupDescription="Candidates of the improvement cycle"
                )
        except StorageError as error:
            if "already exist" not in str(error).lower():
                raise

    @contextlib.contextmanager
    def _storage_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise StorageError(f"{what}: {error}. Check region, credentials and the role's permissions.") from error
