"""Generates the state machine of the cycle in the Amazon States Language.

    python -m pipeline.cycle.state_machine > pipeline/infra/cycle.asl.json       a test compares them

    Begin -> BuildDataset -> PlanTraining -> Train (a map of jobs) -> Choose (a job) -> ReadChoice -> Register
    -> AskApproval -> Release -> DeployCanary -> Monitor ... -> Promote -> MonitorFleet ... -> Notify -> End

Every function receives {"execution", "state"}; its result is stored in the state as STEP.answer. Every task catches all
errors: expected ones have outcomes of their own, all others become `broken`; from DeployCanary on an error leads to
RollBack first. Every path except that of an ignored trigger passes Notify and End, which releases the lock.

${...} are the DefinitionSubstitutions of template.yaml: NAMEFunction is a function's ARN, TrainingRole a role's.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

State = dict[str, Any]

# https://docs.aws.amazon.com/step-functions/latest/dg/sfn-best-practices.html lists the Lambda errors to retry
_LAMBDA_RETRY: Final = {
    "ErrorEquals": [
        "Lambda.ServiceException",
        "Lambda.AWSLambdaException",
        "Lambda.SdkClientException",
        "Lambda.TooManyRequestsException",
        "Lambda.ClientExecutionTimeoutException",
    ],
    "IntervalSeconds": 1,
    "MaxAttempts": 6,
    "BackoffRate": 2,
    "MaxDelaySeconds": 60,
    "JitterStrategy": "FULL",
}
_KENSA_RETRY: Final = {  # transient errors, by class name: of pipeline.cloud and pipeline.cycle
    "ErrorEquals": ["StorageError", "AwsError", "PublisherBusyError"],
    "IntervalSeconds": 2,
    "MaxAttempts": 6,
    "BackoffRate": 2,
    "MaxDelaySeconds": 120,
    "JitterStrategy": "FULL",
}
_JOB_RETRY: Final = [
    {
        "ErrorEquals": ["SageMaker.AmazonSageMakerException", "SageMaker.ResourceLimitExceededException"],
        "IntervalSeconds": 1,
        "MaxAttempts": 8,
        "BackoffRate": 2.5,
        "MaxDelaySeconds": 900,
        "JitterStrategy": "FULL",
    }
]
_TIMEOUT_S: Final = 900  # of a function
_OUTCOMES: Final = {
    "Poisoned": "poisoned",
    "NothingNew": "nothing_new",
    "TrainingFailed": "training_failed",
    "NoneBetter": "none_better",
    "Denied": "denied",
    "ApprovalTimedOut": "approval_timed_out",
    "RolledBack": "rolled_back",
    "Promoted": "promoted",
    "Broken": "broken",
    "RollBackFailed": "roll_back_failed",
}


def _catch(error: str, then: str) -> State:
    return {"ErrorEquals": [error], "Next": then, "ResultPath": "$.error"}


def _lambda_task(
    name: str, step: str, then: str, *, caught: dict[str, str] | None = None, broken: str = "Broken"
) -> State:
    """A task that calls a function; its result becomes `$.step.answer`. `caught`: error -> state."""
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::lambda:invoke",
        "Parameters": {
            "FunctionName": f"${{{name}Function}}",
            "Payload": {"execution.$": "$$.Execution.Id", "state.$": "$"},
        },
        "ResultSelector": {"answer.$": "$.Payload"},
        "ResultPath": f"$.{step}",
        "TimeoutSeconds": _TIMEOUT_S,
        "Retry": [_LAMBDA_RETRY, _KENSA_RETRY],
        "Catch": [*(_catch(error, to) for error, to in (caught or {}).items()), _catch("States.ALL", broken)],
        "Next": then,
    }


def _training_job_task(request: str, common: str, **more: Any) -> State:
    """A task that runs a training job to its end. `request`, `common`: paths of the job request's two halves."""
    shared = ("AlgorithmSpecification", "InputDataConfig", "OutputDataConfig", "ResourceConfig", "StoppingCondition")
    return {
        "Type": "Task",
        "Resource": "arn:aws:states:::sagemaker:createTrainingJob.sync",
        "Parameters": {
            "TrainingJobName.$": f"States.Format('{{}}-{{}}', {request}.TrainingJobName, $$.State.RetryCount)",
            "HyperParameters.$": f"{request}.HyperParameters",
            **{f"{name}.$": f"{common}.{name}" for name in (*shared, "EnableManagedSpotTraining", "Tags")},
            "RoleArn": "${TrainingRole}",
        },
        "Retry": _JOB_RETRY,
        **more,
    }


def _choice(*branches: State, otherwise: str) -> State:
    return {"Type": "Choice", "Choices": list(branches), "Default": otherwise}


def _equals(variable: str, value: str, then: str) -> State:
    return {"Variable": variable, "StringEquals": value, "Next": then}


def _is_true(variable: str, then: str) -> State:
    return {"Variable": variable, "BooleanEquals": True, "Next": then}


def _training_states() -> dict[str, State]:
    """From the trigger to the models."""
    return {
        "Begin": _lambda_task("Begin", "begin", "Accepted"),
        "Accepted": _choice(_is_true("$.begin.answer.accepted", "BuildDataset"), otherwise="Ignored"),
        "Ignored": {"Type": "Succeed"},
        "BuildDataset": _lambda_task(
            "BuildDataset",
            "dataset",
            "PlanTraining",
            caught={"PoisonedDatasetError": "Poisoned", "NothingNewError": "NothingNew"},
        ),
        "PlanTraining": _lambda_task("PlanTraining", "plan", "Train"),
        "Train": _training_map("CountModels"),
        "CountModels": {
            "Type": "Pass",
            "Parameters": {"any.$": "States.ArrayContains($.trained[*].ok, true)"},
            "ResultPath": "$.models",
            "Next": "AnyModel",
        },
        "AnyModel": _choice(_is_true("$.models.any", "Choose"), otherwise="TrainingFailed"),
        "Choose": _training_job_task(
            "$.plan.answer.choice",
            "$.plan.answer.choice",
            ResultSelector={"answer": {"artifacts.$": "$.ModelArtifacts.S3ModelArtifacts"}},
            ResultPath="$.chosen",
            Catch=[_catch("States.ALL", "Broken")],
            Next="ReadChoice",
        ),
    }


def _training_map(then: str) -> State:
    """All training jobs, eight at a time; a job that failed becomes an entry with `ok` false."""
    one_job = _training_job_task(
        "$.job",
        "$.common",
        ResultSelector={"ok": True, "job.$": "$.TrainingJobName"},
        Catch=[_catch("States.ALL", "OneFailed")],
        End=True,
    )
    failed = {
        "Type": "Pass",
        "Parameters": {"ok": False, "job.$": "$.job.TrainingJobName", "cause.$": "$.error.Cause"},
        "End": True,
    }
    return {
        "Type": "Map",
        "ItemsPath": "$.plan.answer.jobs",
        "ItemSelector": {"job.$": "$$.Map.Item.Value", "common.$": "$.plan.answer.common"},
        "MaxConcurrency": 8,
        "ItemProcessor": {
            "ProcessorConfig": {"Mode": "INLINE"},
            "StartAt": "TrainOne",
            "States": {"TrainOne": one_job, "OneFailed": failed},
        },
        "ResultPath": "$.trained",
        "Catch": [_catch("States.ALL", "Broken")],
        "Next": then,
    }


def _approval_states() -> dict[str, State]:
    """From the models to an approved candidate."""
    ask = _lambda_task("AskApproval", "approval", "Answered", caught={"States.Timeout": "ApprovalTimedOut"})
    ask |= {
        "Resource": "arn:aws:states:::lambda:invoke.waitForTaskToken",
        "Parameters": {
            "FunctionName": "${AskApprovalFunction}",
            "Payload": {"execution.$": "$$.Execution.Id", "state.$": "$", "token.$": "$$.Task.Token"},
        },
        "ResultSelector": {"answer.$": "$"},
        "TimeoutSecondsPath": "$.begin.answer.approval_s",
    }
    del ask["TimeoutSeconds"]
    return {
        "ReadChoice": _lambda_task("Choose", "choice", "Proposed"),
        "Proposed": _choice(_is_true("$.choice.answer.proposed", "Register"), otherwise="NoneBetter"),
        "Register": _lambda_task("Register", "registered", "CheckApprovalPolicy"),
        "CheckApprovalPolicy": _choice(_equals("$.choice.answer.approval", "auto", "Approve"), otherwise="AskApproval"),
        "Approve": _lambda_task("Approve", "approval", "Release"),
        "AskApproval": ask,
        "Answered": _choice(_is_true("$.approval.answer.approved", "Release"), otherwise="Denied"),
    }


def _rollout_states() -> dict[str, State]:
    """From the approved candidate to the fleet, or back."""

    def pause(then: str) -> State:
        return {"Type": "Wait", "SecondsPath": "$.rollout.answer.poll_interval_s", "Next": then}

    def decided(again: str, then: State) -> State:
        return _choice(_equals("$.monitor.answer.action", "wait", again), then, otherwise="RollBack")

    back = _lambda_task("RollBack", "roll_back", "CheckRollBackCause", broken="RollBackFailed")
    broken = _choice({"Variable": "$.error", "IsPresent": True, "Next": "Broken"}, otherwise="RolledBack")
    return {
        "Release": _lambda_task("Release", "released", "DeployCanary"),
        "DeployCanary": _lambda_task("DeployCanary", "rollout", "CanaryPause", broken="RollBack"),
        "CanaryPause": pause("Monitor"),
        "Monitor": _lambda_task("Monitor", "monitor", "CanaryDecided", broken="RollBack"),
        "CanaryDecided": decided("CanaryPause", _equals("$.monitor.answer.action", "promote", "Promote")),
        "Promote": _lambda_task("Promote", "rollout", "FleetPause", broken="RollBack"),
        "FleetPause": pause("MonitorFleet"),
        "MonitorFleet": _lambda_task("Monitor", "monitor", "FleetDecided", broken="RollBack"),
        "FleetDecided": decided("FleetPause", _equals("$.monitor.answer.action", "done", "Promoted")),
        "RollBack": back,
        "CheckRollBackCause": broken,
    }


def _completion_states() -> dict[str, State]:
    """Outcomes, notification and end, which every path except that of an ignored trigger passes."""
    outcomes = {
        name: {"Type": "Pass", "Result": {"answer": {"result": result}}, "ResultPath": "$.outcome", "Next": "Notify"}
        for name, result in _OUTCOMES.items()
    }
    notify = _lambda_task("Notify", "notified", "End", broken="End")
    notify["Catch"] = [{**_catch("States.ALL", "End"), "ResultPath": "$.notify_error"}]
    end = _lambda_task("End", "ended", "CheckResult", broken="Failed")
    return {
        **outcomes,
        "Notify": notify,
        "End": end,
        "CheckResult": _choice(
            _equals("$.outcome.answer.result", "broken", "Failed"),
            _equals("$.outcome.answer.result", "roll_back_failed", "Failed"),
            otherwise="Done",
        ),
        "Done": {"Type": "Succeed"},
        "Failed": {
            "Type": "Fail",
            "Error": "CycleBroken",
            "Cause": "See the record of this execution in cycle/v1/executions, and docs/cloud.md",
        },
    }


def definition() -> State:
    """The whole machine."""
    return {
        "Comment": "From a trigger to a model that the fleet runs. Generated by python -m pipeline.cycle.state_machine",
        "StartAt": "Begin",
        "States": {**_training_states(), **_approval_states(), **_rollout_states(), **_completion_states()},
    }


def to_text() -> str:
    """The content of pipeline/infra/cycle.asl.json."""
    return json.dumps(definition(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(to_text())
