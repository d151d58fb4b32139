"""States of a lifecycle for the tests of reports, shadow, control socket and commands."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from agent.release_records import DesiredRelease, Gate, ModelStatus, Refusal, ReleaseRef
from agent.wire import ReportingAgent

REPORTER = ReportingAgent("thing-1", "line-1", 3)
UTC_NS = 1_790_000_000_000_000_000


def release(version: str, *, name: str = "parts", counter: int = 1) -> ReleaseRef:
    digest = f"{counter:x}".rjust(64, "a")
    return ReleaseRef(name, version, counter, digest, digest[::-1])


REFUSAL = Refusal(
    Gate.VERDICTS,
    "finds_fewer_defects",
    "The release saw 3 of 20 parts as defects that both should see; allowed are differences that chance explains.",
    {"e_value": 1_832.5, "only_champion": 17.0, "only_challenger": 0.0},
    {"e_value": 1_000.0},
)


def status(inspection: str = "surface", **changes: Any) -> ModelStatus:
    fields: dict[str, Any] = {
        "state": "IDLE",
        "since_utc_s": 1_790_000_000.25,
        "active": release("1.0.0"),
        "previous": None,
        "candidate": None,
        "desired": None,
        **changes,
    }
    return ModelStatus(inspection, **fields)


IN_TRIAL = status(
    state="TRIAL",
    previous=release("0.9.0"),
    candidate=release("1.1.0", counter=2),
    desired=DesiredRelease("parts/1.1.0", source="shadow"),
    share=0.25,
    progress={"parts": 120.0, "parts_wanted": 200.0, "e_value": 0.7},
    counter_floor=1,
)
ROLLED_BACK = status(refusal=REFUSAL, refused=release("1.1.0", counter=2), alarm="Too many rollbacks today.")

# --- for property tests -----------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["a", "surface", "Z-_9", "n" * 64])
_COUNTS = st.integers(0, 2**53 - 1)
_SHARES = st.floats(0.0, 1.0)
_RELEASES = st.builds(
    ReleaseRef, _NAMES, st.sampled_from(["1.0.0", "999999.999999.999999-" + "r" * 32]), _COUNTS,
    st.sampled_from(["a" * 64, "0" * 64]), st.sampled_from(["b" * 64]),
)  # fmt: skip
_FIGURE_NAMES = st.sampled_from([*(f"figure_{n}" for n in range(40)), *(f"{n:02}" * 32 for n in range(40))])
FIGURES = st.dictionaries(_FIGURE_NAMES, st.floats(-1e300, 1e300), max_size=70)
_FEW = st.dictionaries(_FIGURE_NAMES, st.floats(-1e300, 1e300), max_size=2)


def refusals(texts: st.SearchStrategy[str], figures: st.SearchStrategy[dict[str, float]]) -> st.SearchStrategy[Refusal]:
    return st.builds(Refusal, st.sampled_from(Gate), _NAMES, texts, figures, figures)


def statuses(texts: st.SearchStrategy[str], figures: st.SearchStrategy[dict[str, float]]) -> st.SearchStrategy[Any]:
    desired = st.builds(
        DesiredRelease, st.sampled_from(["parts/1.0.0", "n" * 64 + "/1.2.3"]), st.sampled_from(["release", "ab"]),
        _SHARES,
        st.sampled_from(["control", "shadow"]),
    )  # fmt: skip
    return st.builds(
        ModelStatus,
        inspection=_NAMES,
        state=st.sampled_from(["IDLE", "TRIAL", "NO_MODEL", "ROLLING_BACK"]),
        since_utc_s=st.integers(0, 2**31).map(float),
        active=st.none() | _RELEASES,
        previous=st.none() | _RELEASES,
        candidate=st.none() | _RELEASES,
        desired=st.none() | desired,
        share=_SHARES,
        progress=figures,
        refusal=st.none() | refusals(texts, figures),
        refused=st.none() | _RELEASES,
        alarm=st.none() | texts,
        counter_floor=_COUNTS,
    )


SHORT = statuses(st.text(max_size=20), _FEW)
ANY = statuses(st.text(max_size=400) | st.sampled_from(["é" * 3_000, "\ud800" * 2_000, '"\\' * 2_000]), FIGURES)
