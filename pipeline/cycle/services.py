"""Factories of the services that the steps of an execution use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pipeline.cloud import aws_clients
from pipeline.cycle.deployment.deployments import Deployments
from pipeline.cycle.deployment.publisher import Publisher
from pipeline.cycle.locks import CycleLocks
from pipeline.selection.registry.registry_location import open_registry

if TYPE_CHECKING:
    from pipeline.cycle.execution import Execution
    from pipeline.cycle.settings import CycleSettings
    from pipeline.selection.registry.model_registry import ModelRegistry

_MAX_SUBJECT: Final = 100  # characters, the limit of SNS
_ENDED_STATUSES: Final = frozenset({"FAILED", "TIMED_OUT", "ABORTED", "SUCCEEDED"})


def registry_of(execution: Execution) -> ModelRegistry:
    """The registry of candidates, in the data storage."""
    uri = execution.uri("registry")
    if not uri.startswith("s3://"):
        return open_registry(uri)
    return open_registry(uri, sagemaker=aws_clients.client("sagemaker"), s3=aws_clients.client("s3"))


def publisher_of(execution: Execution) -> Publisher:
    """The publisher on its storage."""
    return Publisher(aws_clients.storage(execution.settings.publisher))


def deployments_of() -> Deployments:
    """The Greengrass deployments of this account."""
    return Deployments(greengrass=aws_clients.client("greengrassv2"), iot=aws_clients.client("iot"))


def locks_of(execution: Execution) -> CycleLocks:
    """The locks of the data storage."""
    return CycleLocks(execution.data, is_running=is_running)


def is_running(execution_arn: str) -> bool:
    """Whether an execution still runs; an unknown one ended long ago. Raises AwsError."""
    states = aws_clients.client("stepfunctions")
    try:
        with aws_clients.translate_aws_errors(f"the execution {execution_arn}"):
            return str(states.describe_execution(executionArn=execution_arn)["status"]) not in _ENDED_STATUSES
    except aws_clients.AwsError as error:
        if error.code in {"ExecutionDoesNotExist", "InvalidArn"}:
            return False
        raise


def publish_notification(settings: CycleSettings, subject: str, text: str) -> None:
    """Publish a message to the topic, if one is set. Raises AwsError."""
    if settings.topic is None:
        return
    with aws_clients.translate_aws_errors(f"a message to {settings.topic}"):
        aws_clients.client("sns").publish(TopicArn=settings.topic, Subject=subject[:_MAX_SUBJECT], Message=text)
