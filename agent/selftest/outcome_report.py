"""Turns every end of a self-test into one answer: passed, refused by a gate, or inconclusive."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, BinaryIO, Final

from agent.children.selftest_protocol import SelfTestInconclusive, SelfTestPassed, SelfTestRefused, SelfTestStage
from agent.errors import FetchError, InferenceError, ReleaseError, ReleaseRefusedError
from agent.release_records import Gate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.release_records import SelfTestResult

_OUT_OF_MEMORY: Final = re.compile(r"bad[_ ]alloc|allocat\w* memory|out of memory|cannot allocate", re.IGNORECASE)
_MAX_TEXT: Final = 4_000


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """Drop infinite figures, which JSON cannot hold; the text names them."""
    return {name: float(value) for name, value in figures.items() if abs(float(value)) < float("inf")}


def _refusal_from(error: ReleaseRefusedError) -> SelfTestRefused:
    return SelfTestRefused(
        gate=Gate(error.gate),
        reason=error.reason,
        text=str(error)[:_MAX_TEXT],
        figures=_finite(error.figures),
        limits=_finite(error.limits),
    )


def _memory_refusal(detail: str) -> SelfTestRefused:
    text = f"the model took more memory than the self-test allows: {detail}"
    return SelfTestRefused(gate=Gate.SELF_TEST, reason="memory", text=text[:_MAX_TEXT], figures={}, limits={})


def run_and_report(examination: Callable[[Callable[[str], None]], SelfTestResult], answers: BinaryIO) -> bytes:
    """Run `examination`, writing its stages to `answers` as they begin; returns the line of the result."""

    def announce(stage: str) -> None:
        answers.write(SelfTestStage.model_validate({"stage": stage}).model_dump_json().encode() + b"\n")

    result: SelfTestPassed | SelfTestRefused | SelfTestInconclusive
    try:
        passed = examination(announce)
        result = SelfTestPassed(
            figures=_finite(passed.figures),
            optimised=None if passed.optimised is None else passed.optimised.name,
            optimised_sha256=passed.optimised_sha256,
        )
    except ReleaseRefusedError as error:
        result = _refusal_from(error)
    except FetchError as error:
        result = SelfTestInconclusive(reason=error.reason, text=str(error)[:_MAX_TEXT])
    except MemoryError as error:
        result = _memory_refusal(str(error) or "an array could not be made")
    except (InferenceError, ReleaseError) as error:
        if _OUT_OF_MEMORY.search(str(error)):
            result = _memory_refusal(str(error))
        else:
            text = f"the model failed during the self-test: {error}"[:_MAX_TEXT]
            result = SelfTestRefused(gate=Gate.SELF_TEST, reason="inference_failed", text=text, figures={}, limits={})
    return result.model_dump_json().encode() + b"\n"
