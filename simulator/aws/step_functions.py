"""Step Functions as moto lacks them: `sagemaker:createTrainingJob.sync`, a configurable server port.

Used as `with patched():` around the whole life of the server; afterwards moto is as it was.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from botocore.exceptions import ClientError
from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import StatesErrorNameType
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import (
    state_task_service_unsupported as module,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.utils.boto_client import boto_client_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_Task: Final = module.StateTaskServiceUnsupported
_PATTERNS: Final = {ResourceCondition.WaitForTaskToken, ResourceCondition.Sync}


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Let `.sync` of SageMaker's training jobs work, with the errors that Step Functions names."""
    with contextlib.ExitStack() as stack:
        for name, value in {
            "_log_unsupported_warning": lambda _self: None,
            "_build_sync_resolver": _training_job,
            "_from_error": _from_error,
        }.items():
            stack.enter_context(mock.patch.object(_Task, name, value))
        stack.enter_context(mock.patch.object(module, "_SUPPORTED_INTEGRATION_PATTERNS", _PATTERNS))
        yield


def _training_job(
    task: Any, env: Any, resource_runtime_part: Any, normalised_parameters: dict[str, Any], state_credentials: Any
) -> Callable[[], dict[str, Any] | None]:
    """Return what asks whether the job has ended: its description then, or a failed task."""
    env.stack.pop()
    client = boto_client_for(
        service="sagemaker", region=resource_runtime_part.region, state_credentials=state_credentials
    )
    name = normalised_parameters["TrainingJobName"]

    def ask() -> dict[str, Any] | None:
        job: dict[str, Any] = client.describe_training_job(TrainingJobName=name)
        job.pop("ResponseMetadata", None)
        status = job["TrainingJobStatus"]
        if status == "Completed":
            told: dict[str, Any] = json.loads(json.dumps(job, default=str))
            return told
        if status in {"Failed", "Stopped"}:
            cause = json.dumps(job, default=str)
            error = StatesErrorName(typ=StatesErrorNameType.StatesTaskFailed)
            raise FailureEventException(_failed(task, env, error, "States.TaskFailed", cause))
        return None

    return ask


def _from_error(task: Any, env: Any, ex: Exception) -> Any:
    """Name a refused call as Step Functions does: `SageMaker.AmazonSageMakerException`."""
    if isinstance(ex, ClientError) and task.resource.service_name == "sagemaker":
        code = ex.response["Error"]["Code"]
        known = {"ResourceLimitExceeded": "ResourceLimitExceededException", "ResourceInUse": "ResourceInUseException"}
        error = f"SageMaker.{known.get(code, 'AmazonSageMakerException')}"
        cause = f"{ex.response['Error']['Message']} (Service: AmazonSageMaker; Error Code: {code})"
        return _failed(task, env, CustomErrorName(error), error, cause)
    return super(_Task, task)._from_error(env=env, ex=ex)


def _failed(task: Any, env: Any, name: Any, error: str, cause: str) -> Any:
    details = TaskFailedEventDetails(
        error=error, cause=cause, resource=task.resource.api_action, resourceType=task.resource.service_name
    )
    return FailureEvent(
        env=env,
        error_name=name,
        event_type=HistoryEventType.TaskFailed,
        event_details=EventDetails(taskFailedEventDetails=details),  # type: ignore[typeddict-item]  # moto's own way
    )
