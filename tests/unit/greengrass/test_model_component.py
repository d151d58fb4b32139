"""The model component: what a status means for its release, and its configuration."""

from __future__ import annotations

from typing import Any, cast

import pytest

from agent.errors import ConfigError
from greengrass import model_component
from greengrass.release_sources.release_hints import ReleaseStatus


def status(**members: str | None) -> ReleaseStatus:
    fields = dict.fromkeys(ReleaseStatus.__slots__) | {"state": "idle", "desired": "parts/1.1.0"} | members
    return ReleaseStatus(**cast("dict[str, Any]", fields))


@pytest.mark.parametrize(
    ("received", "waited_s", "accepted"),
    [
        (status(active="parts/1.1.0"), 0.0, True),
        (status(active="parts/1.1.0", desired="parts/1.2.0"), 0.0, True),
        (status(active="parts/1.0.0", state="trial", candidate="parts/1.1.0"), 1_000.0, None),
        (status(active="parts/1.1.0", state="committed"), 0.0, None),
        (status(refused="parts/1.1.0", reason="golden: x", text="why"), 0.0, False),
        (status(refused="parts/1.1.0", candidate="parts/1.1.0", state="selftest"), 0.0, None),
        (status(desired="parts/1.2.0"), 1.0, None),
        (status(desired="parts/1.2.0"), 11.0, True),
        (status(desired=None), 1.0, None),
    ],
)
def test_the_agents_status_decides_the_handover(
    received: ReleaseStatus,
    waited_s: float,
    accepted: bool | None,  # noqa: FBT001
) -> None:
    result = model_component.evaluate_status(received, "parts/1.1.0", waited_s=waited_s)
    assert (None if result is None else result.is_accepted) == accepted


@pytest.mark.parametrize(
    "tree", [None, {}, {"inspection": "top"}, {"inspection": "a/b", "release": "parts/1.1.0"}, {"release": "parts"}]
)
def test_an_incomplete_configuration_is_refused(tree: object) -> None:
    with pytest.raises(ConfigError):
        model_component.read_model_config(tree)


def test_strings_are_read_as_nucleus_lite_delivers_them() -> None:
    tree = {"inspection": "top", "release": "parts/1.1.0", "timeout_s": "60", "accessControl": {}}
    assert model_component.read_model_config(tree).timeout_s == 60.0
