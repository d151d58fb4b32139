"""A component's configuration is parsed from strings; invalid ones are refused."""

from __future__ import annotations

from copy import deepcopy
from datetime import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigError
from agent.release_records import DesiredRelease
from greengrass.deployment import component_config
from greengrass.deployment.component_config import ComponentConfig, GreengrassSettings
from simulator.bench.greengrass.rejected_configurations import BAD_CONFIGURATIONS

WORK = Path("/work-folder")
BASE = Path("/unpacked")


def tree() -> dict[str, Any]:
    """As nucleus lite delivers it: every scalar is a string."""
    return {
        "accessControl": {"aws.greengrass.ipc.mqttproxy": {}},
        "line": "press3",
        "inspections": {
            "top": {
                "release": "releases/default",
                "roi": ["512", "92", "896", "896"],
                "thresholds": {"scratch": "0.5"},
                "unsure_band": "0.1",
                "intake": {"capacity": "4"},
                "cameras": {
                    "cam": {"kind": "folder", "path": "images", "fps": "30", "loop": "true"},
                    "sim": {"kind": "plugin", "source": "simulated", "options": {"fps": "30", "seed": "7", "x": "a b"}},
                },
                "desired": {"release": "parts/1.1.0", "mode": "ab", "share": "0.25"},
            }
        },
        "updates": {
            "repository": "https://example.com/tuf",
            "root": "1.root.json",
            "site": "hall-1",
            "shadow": "false",
        },
        "workers": "2",
        "heartbeat_s": "5",
        "greengrass": {"confirm": "echo", "defer_s": "60", "shifts": ["06:00-14:00", "22:00-02:00"]},
    }


def read(given: object, thing: str | None = "line1-cam") -> ComponentConfig:
    return component_config.read(given, thing=thing, work=WORK, base=BASE)


def test_strings_become_what_the_agent_expects() -> None:
    found = read(tree())
    config = found.config
    top = config.inspections["top"]
    assert (config.thing, config.state_dir, config.workers, config.heartbeat_s) == ("line1-cam", WORK / "state", 2, 5.0)
    assert (top.roi, top.thresholds, top.unsure_band) == ((512, 92, 896, 896), {"scratch": 0.5}, 0.1)
    assert top.release == BASE / "releases/default"
    assert config.updates is not None
    assert config.updates.shadow is False
    assert config.model_dump(mode="json")["inspections"]["top"]["cameras"]["cam"]["loop"] is True
    assert found.settings.defer_s == 60.0
    assert found.desired_releases == {"top": DesiredRelease("parts/1.1.0", "ab", 0.25, "deployment")}


def test_options_of_a_plugin_camera_get_the_types_that_yaml_gives_them() -> None:
    options = read(tree()).config.model_dump(mode="json")["inspections"]["top"]["cameras"]["sim"]["options"]
    assert options == {"fps": 30, "seed": 7, "x": "a b"}


def test_typed_json_says_the_same_as_strings() -> None:
    typed = tree()
    top = typed["inspections"]["top"]
    top |= {"roi": [512.0, 92, 896, 896], "unsure_band": 0.1, "thresholds": {"scratch": 0.5}, "intake": {"capacity": 4}}
    top["cameras"]["cam"] |= {"fps": 30, "loop": True}
    typed |= {"workers": 2.0, "heartbeat_s": 5}  # classic may deliver every number as a float
    assert read(typed).config.digest() == read(tree()).config.digest()


@pytest.mark.parametrize("nothing", [None, "", {}])
def test_a_deployment_may_desire_nothing(nothing: object) -> None:
    given = tree()
    given["inspections"]["top"]["desired"] = nothing
    assert read(given).desired_releases == {}


@pytest.mark.parametrize(
    ("path", "value", "named"),
    BAD_CONFIGURATIONS,
    ids=[f"{path}={value!r:.20}" for path, value, _ in BAD_CONFIGURATIONS],
)
def test_a_wrong_key_is_refused_by_its_path(path: str, value: object, named: str) -> None:
    given = deepcopy(tree())
    *parents, last = path.split(".")
    holder: Any = given
    for parent in parents:
        holder = holder.setdefault(parent, {})
    if value is None:
        holder.pop(last, None)
    else:
        holder[last] = value
    with pytest.raises(ConfigError) as refused:
        read(given)
    assert any(line.strip().startswith(f"{named}") for line in str(refused.value).splitlines()[1:]), refused.value


def test_every_wrong_key_is_named_at_once() -> None:
    given = tree()
    given["workers"] = "two"
    given["greengrass"]["confirm"] = "maybe"
    given["inspections"]["top"]["desired"]["share"] = "2"
    with pytest.raises(ConfigError) as refused:
        read(given)
    for path in ("workers", "greengrass.confirm", "inspections.top.desired"):
        assert path in str(refused.value)


@pytest.mark.parametrize("given", [None, [], "text", 1])
def test_what_is_no_mapping_is_refused(given: object) -> None:
    with pytest.raises(ConfigError, match="mapping"):
        read(given)


def test_a_tree_without_end_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50_000):
        deep = {"a": deep}
    with pytest.raises(ConfigError, match="nested"):
        read(deep)


def test_without_a_core_device_the_thing_must_be_named() -> None:
    with pytest.raises(ConfigError, match="thing: is required"):
        read(tree(), thing=None)


def test_a_shift_may_run_past_midnight() -> None:
    settings = GreengrassSettings(shifts=("06:00-14:00", "22:00-02:00"))
    assert [hour for hour in range(24) if settings.in_shift(time(hour))] == [0, 1, *range(6, 14), 22, 23]
