"""Checks a state machine for errors that cfn-lint and CloudFormation do not detect.

    python -m pipeline.infra.asl_lint pipeline/infra/cycle.asl.json

Every target of Next, Default and Catch exists and every state is reachable; the machine can end; a Choice has a
Default; a Task catches all errors and retries its service's throttling; paths are JSONPath, and intrinsic functions are
known.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: Final = frozenset({"Task", "Pass", "Choice", "Wait", "Succeed", "Fail", "Parallel", "Map"})
_ENDS: Final = frozenset({"Succeed", "Fail"})
# The error of a throttled call in each service's integration.
_THROTTLED: Final = {"lambda": "Lambda.TooManyRequestsException", "sagemaker": "SageMaker.AmazonSageMakerException"}
_PATH: Final = re.compile(r"\$\$?(\.[A-Za-z_][\w-]*|\[(\d+|\*)\])*")
_INTRINSIC: Final = re.compile(r"States\.(\w+)\((.*)\)", re.DOTALL)
_FUNCTIONS: Final = frozenset(
    [
        "Format",
        "StringToJson",
        "JsonToString",
        "Array",
        "ArrayPartition",
        "ArrayContains",
        "ArrayRange",
        "ArrayGetItem",
        "ArrayLength",
        "ArrayUnique",
        "Base64Encode",
        "Base64Decode",
        "Hash",
        "JsonMerge",
        "MathRandom",
        "MathAdd",
        "StringSplit",
        "UUID",
    ]
)
_PATHS_OF_STATES: Final = ("InputPath", "OutputPath", "ItemsPath", "ResultPath", "SecondsPath", "TimeoutSecondsPath")


def find_errors(machine: dict[str, Any], where: str = "machine") -> list[str]:
    """All errors, one line each; empty for a sound machine."""
    states = machine.get("States")
    if not isinstance(states, dict) or machine.get("StartAt") not in states:
        return [f"{where}: StartAt {machine.get('StartAt')!r} is not one of its states"]
    found: list[str] = []
    for name, state in states.items():
        found += [f"{where}.{name}: {fault}" for fault in _check_state(state, states)]
        for inner in _nested_machines(state):
            found += find_errors(inner, f"{where}.{name}")
    reached = _reached(machine["StartAt"], states)
    found += [f"{where}.{name}: cannot be reached" for name in states if name not in reached]
    if not any(_ends(states[name]) for name in reached):
        found.append(f"{where}: no path ends")
    return found


def _nested_machines(state: dict[str, Any]) -> list[dict[str, Any]]:
    processor = state.get("ItemProcessor")
    return [*([processor] if processor else []), *state.get("Branches", [])]


def _ends(state: dict[str, Any]) -> bool:
    return state.get("Type") in _ENDS or bool(state.get("End"))


def _targets(state: dict[str, Any]) -> Iterator[str]:
    for key in ("Next", "Default"):
        if key in state:
            yield state[key]
    for entry in (*state.get("Choices", []), *state.get("Catch", [])):
        if "Next" in entry:
            yield entry["Next"]


def _reached(start: str, states: dict[str, Any]) -> set[str]:
    reached, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in reached and name in states:
            reached.add(name)
            waiting.extend(_targets(states[name]))
    return reached


def _check_state(state: dict[str, Any], states: dict[str, Any]) -> Iterator[str]:
    kind = state.get("Type")
    if kind not in _TYPES:
        yield f"the type {kind!r} is none of {', '.join(sorted(_TYPES))}"
        return
    yield from (f"{target!r} is not a state" for target in _targets(state) if target not in states)
    if kind == "Choice":
        if "Default" not in state:
            yield "has no Default: an execution that matches no choice fails"
        yield from ("a choice has no Next" for choice in state.get("Choices", []) if "Next" not in choice)
    elif kind not in _ENDS and ("Next" in state) == bool(state.get("End")):
        yield "needs either Next or End"
    if kind == "Task":
        yield from _check_task(state)
    for key in _PATHS_OF_STATES:
        if isinstance(state.get(key), str):
            yield from _check_path(state[key], key)
    for key in ("Parameters", "ItemSelector", "ResultSelector"):
        yield from _check_template(state.get(key), key)
    for choice in state.get("Choices", []):
        yield from _check_path(choice.get("Variable", ""), "Variable")


def _check_task(state: dict[str, Any]) -> Iterator[str]:
    resource = str(state.get("Resource", ""))
    if not resource.startswith("arn:"):
        yield f"the resource {resource!r} is not an ARN"
    caught = {error for catch in state.get("Catch", []) for error in catch["ErrorEquals"]}
    if "States.ALL" not in caught:
        yield "does not catch States.ALL"
    for catch in state.get("Catch", [])[:-1]:
        if "States.ALL" in catch["ErrorEquals"]:
            yield "catches States.ALL before other errors, which then are never caught"
    service = resource.removeprefix("arn:aws:states:::").partition(":")[0]
    retried = {error for retry in state.get("Retry", []) for error in retry["ErrorEquals"]}
    if service in _THROTTLED and _THROTTLED[service] not in retried:
        yield f"does not retry {_THROTTLED[service]}"


def _check_template(tree: Any, key: str) -> Iterator[str]:
    """Check that exactly the members `name.$` hold a path or an intrinsic function."""
    if isinstance(tree, list):
        for entry in tree:
            yield from _check_template(entry, key)
    if not isinstance(tree, dict):
        return
    for name, value in tree.items():
        if name.endswith(".$"):
            yield from _check_path(value, f"{key}.{name}")
        elif isinstance(value, str) and value.startswith(("$.", "$$.", "States.")):
            yield f"{key}.{name} is {value!r} literally: the name lacks its .$"
        else:
            yield from _check_template(value, f"{key}.{name}")


def _check_path(text: str, key: str) -> Iterator[str]:
    if match := _INTRINSIC.fullmatch(text):
        if match[1] not in _FUNCTIONS:
            yield f"{key}: there is no States.{match[1]}"
        for argument in re.split(r",\s*(?![^()]*\))", match[2]):
            if argument.startswith("$"):
                yield from _check_path(argument.strip(), key)
    elif not _PATH.fullmatch(text):
        yield f"{key}: {text!r} is not a path"


def main(argv: list[str]) -> int:
    """Print the errors of the files; returns 1 if there are any."""
    found = [fault for name in argv for fault in find_errors(json.loads(Path(name).read_text(encoding="utf-8")), name)]
    sys.stdout.writelines(f"{fault}\n" for fault in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
