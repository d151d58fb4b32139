"""Permissions, recipes and configuration of the simulated nucleus, without a nucleus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.doubles.network.topic_filter import topic_matches
from simulator.nucleus.config_store import ConfigStore
from simulator.nucleus.deployments import recipe
from simulator.nucleus.deployments.recipe import RecipeError, RecipeVariables
from simulator.nucleus.ipc import access_control
from simulator.nucleus.ipc.ipc_errors import ServiceError
from simulator.nucleus.limits import CLASSIC, LITE

RECIPE: dict[str, Any] = {
    "RecipeFormatVersion": "2020-01-25",
    "ComponentName": "com.example.Cam",
    "ComponentVersion": "1.0.0",
    "Manifests": [
        {
            "Platform": {"os": "linux", "runtime": "*"},
            "Lifecycle": {
                "Setenv": {"A": "1", "B": "2"},
                "install": {"Script": "true", "Timeout": "300"},
                "run": {"Script": "true", "Setenv": {"B": "3"}},
            },
        }
    ],
}


@pytest.mark.parametrize(
    ("pattern", "topic", "covered"),
    [
        ("a/b", "a/b", True),
        ("a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/+/c", "a/b/c", True),
        ("a/#", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "b", False),
        ("a/+", "a/+", True),
        ("a/+", "a/#", False),
        ("a/b", "a/+", False),
        ("a/#", "a/#", True),
        ("#", "a/+/c", True),
    ],
)
def test_a_filter_covers_topics_and_narrower_filters(pattern: str, topic: str, covered: bool) -> None:  # noqa: FBT001
    assert topic_matches(pattern, topic) is covered


def test_a_policy_needs_service_operation_and_resource() -> None:
    access = {access_control.PUBSUB: {"p": {"operations": ["aws.greengrass#PublishToTopic"], "resources": ["local/*"]}}}

    def may(service: str, operation: str, resource: str) -> bool:
        return access_control.is_allowed(access, service=service, operation=operation, resource=resource)

    assert may(access_control.PUBSUB, "PublishToTopic", "local/a/b")
    assert not may(access_control.PUBSUB, "PublishToTopic", "other/a")
    assert not may(access_control.PUBSUB, "SubscribeToTopic", "local/a")
    assert not may(access_control.MQTT, "PublishToTopic", "local/a")
    assert not access_control.is_allowed(
        None, service=access_control.PUBSUB, operation="PublishToTopic", resource="local/a"
    )


def test_steps_inherit_the_environment_of_the_lifecycle_and_have_their_own_time() -> None:
    parsed = recipe.parse_recipe(RECIPE, lite=True)
    assert parsed.scripts["run"].environment == {"A": "1", "B": "3"}
    assert (parsed.scripts["install"].timeout_s, parsed.scripts["run"].timeout_s) == (300.0, 120.0)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"RecipeFormatVersion": "2020-01-26"}, "RecipeFormatVersion"),
        ({"ComponentVersion": "one"}, "ComponentVersion"),
        ({"Manifests": []}, "manifest"),
        ({"Manifests": [{"Platform": {"os": "windows", "runtime": "*"}}]}, "manifest"),
        ({"Manifests": [{"Platform": {"os": "linux", "runtime": "*"}, "Lifecycle": {"run": {}}}]}, "Script"),
    ],
)
def test_a_recipe_that_cannot_be_deployed_says_why(change: dict[str, Any], names: str) -> None:
    with pytest.raises(RecipeError, match=names):
        recipe.parse_recipe({**RECIPE, **change}, lite=True)


def test_only_lite_insists_on_a_runtime_and_on_the_spelling_of_steps() -> None:
    manifest: dict[str, Any] = {"Platform": {"os": "linux"}, "Lifecycle": {"Run": "true"}}
    content = {**RECIPE, "Manifests": [manifest]}
    assert set(recipe.parse_recipe(content, lite=False).scripts) == {"run"}
    with pytest.raises(RecipeError, match="manifest"):
        recipe.parse_recipe(content, lite=True)
    manifest["Platform"]["runtime"] = "*"
    assert not recipe.parse_recipe(content, lite=True).scripts


def test_a_recipe_over_sixteen_thousand_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("x: " + "y" * 16_000)
    with pytest.raises(RecipeError, match="16000"):
        recipe.read_recipe(path, lite=True)


def variables(mode: Any) -> RecipeVariables:
    return RecipeVariables(
        mode=mode,
        root=Path("/gg"),
        component="Cam",
        version="1.0.0",
        thing="line1",
        version_of=lambda _name: "7.0.0",
        configuration=lambda _name, pointer: {"/a/b": "x", "/n": 5}.get(pointer),
    )


def test_lite_fills_in_its_own_variables_with_a_slash_after_paths_and_knows_no_others() -> None:
    lite = variables("lite")
    assert lite.fill("{work:path}x {artifacts:path}y") == "/gg/work/Cam/x /gg/packages/artifacts/Cam/1.0.0/y"
    assert lite.fill("{iot:thingName} {configuration:/a/b} {configuration:/n}") == "line1 x 5"
    for text in ("${HOME}", "{Model:artifacts:path}", "{configuration:/none}", "{x}", "{}"):
        with pytest.raises(RecipeError, match="variable"):
            lite.fill(text)


def test_classic_fills_in_those_of_dependencies_too_and_leaves_alone_what_it_does_not_know() -> None:
    classic = variables("classic")
    assert classic.fill("{work:path}/x {Model:artifacts:path}") == "/gg/work/Cam/x /gg/packages/artifacts/Model/7.0.0"
    assert classic.fill("${HOME} {x} {configuration:/none}") == "${HOME} {x} {configuration:/none}"


TREES: Any = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda below: st.dictionaries(st.sampled_from("abc"), below, max_size=3),
    max_leaves=6,
).filter(lambda tree: isinstance(tree, dict))


def leaves(tree: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {at: tree}
    return {path: value for key, below in tree.items() for path, value in leaves(below, (*at, key)).items()}


@given(st.lists(st.tuples(TREES, st.integers(0, 5)), max_size=6))
def test_each_leaf_has_the_newest_value_that_was_written_and_every_change_was_told(writes: list[Any]) -> None:
    settings = ConfigStore(limits=LITE, replaces=False)
    newest: dict[tuple[str, ...], tuple[int, Any]] = {}
    for tree, at_ms in writes:
        before = leaves(settings.find("c") or {})
        try:
            told = {change.path for change in settings.merge("c", (), tree, at_ms=at_ms)}
        except ServiceError:  # a map where a value is, or the other way round
            assert leaves(settings.find("c") or {}) == before
            continue
        for path, value in leaves(tree).items():
            if path not in newest or newest[path][0] <= at_ms:
                newest[path] = (at_ms, value)
        after = leaves(settings.find("c") or {})
        assert {path: value for path, (_, value) in newest.items()} == after
        assert told == {path for path in after if path not in before or before[path] != after[path]}


@given(TREES, TREES)
def test_a_reset_of_everything_gives_the_defaults_back(defaults: Any, merged: Any) -> None:
    settings = ConfigStore(limits=CLASSIC, replaces=True)
    settings.merge("c", (), defaults, at_ms=0)
    settings.merge("c", (), merged, at_ms=5)
    settings.reset("c", [()], defaults)
    assert leaves(settings.get("c")) == leaves(defaults)
