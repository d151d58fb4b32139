"""Recipes, GDK projects and policies of the checkout pass their checks; typical mistakes are named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agent.errors import ConfigError
from agent.wire import heartbeat_topic, model_topic, shadow_topic, verdict_topic
from greengrass.ipc.transport import echo_topic
from greengrass.packaging import checks, recipe
from greengrass.release_sources.release_hints import hint_topic, status_topic
from simulator.nucleus.ipc import access_control

if TYPE_CHECKING:
    from pathlib import Path


INSPECTOR = (recipe.RECIPES / "com.kensa.Inspector.yaml").read_text(encoding="utf-8")
MODEL = (recipe.RECIPES / "com.kensa.Model.yaml").read_text(encoding="utf-8")


def judge(text: str) -> recipe.Recipe:
    return recipe.parse(text, source="recipe.yaml", defaults=checks.check_inspector_defaults)


def refusal(text: str) -> str:
    with pytest.raises(recipe.RecipeError) as caught:
        judge(text)
    return str(caught.value)


def changed(path: str, value: object) -> str:
    """The inspector's recipe with one value set, or taken out when it is None; `path` as in error messages."""
    tree = yaml.safe_load(INSPECTOR)
    node: Any = tree
    *folders, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    for part in folders:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return yaml.safe_dump(tree, sort_keys=False)


DEFAULTS = "ComponentConfiguration/DefaultConfiguration"
POLICY = f"{DEFAULTS}/accessControl/aws.greengrass.ipc.mqttproxy/com.kensa.Inspector:mqttproxy:1"
STARTUP = "Manifests/0/Lifecycle/startup"


def test_everything_in_the_checkout_agrees() -> None:
    assert checks.find_problems() == []


def test_both_recipes_serve_both_architectures_on_both_nuclei() -> None:
    for text, defaults in ((INSPECTOR, checks.check_inspector_defaults), (MODEL, checks.check_model_defaults)):
        inspected = recipe.parse(text, source="recipe", defaults=defaults)
        assert {manifest.Platform.architecture for manifest in inspected.Manifests} == {"amd64", "aarch64"}
        assert {manifest.Platform.runtime for manifest in inspected.Manifests} == {"*"}
        assert {d.DependencyType for d in inspected.ComponentDependencies.values()} == {"SOFT"}
        assert len(text.encode()) < recipe.MAX_BYTES


THING = "line1-cam"
SHADOW = shadow_topic(THING, "update/delta")


@pytest.mark.parametrize(
    ("service", "operation", "resource"),
    [
        (access_control.PUBSUB, "SubscribeToTopic", hint_topic("main")),
        (access_control.PUBSUB, "PublishToTopic", status_topic("main")),
        (access_control.PUBSUB, "SubscribeToTopic", SHADOW),  # where classic's shadow manager tells of a change
        (access_control.MQTT, "SubscribeToIoTCore", SHADOW),
        (access_control.MQTT, "PublishToIoTCore", shadow_topic(THING, "get")),
        (access_control.MQTT, "PublishToIoTCore", heartbeat_topic(THING)),
        (access_control.MQTT, "SubscribeToIoTCore", verdict_topic(THING, "cam1")),
        (access_control.MQTT, "SubscribeToIoTCore", model_topic(THING)),
        (access_control.MQTT, "SubscribeToIoTCore", echo_topic(THING)),
    ],
)
def test_the_inspectors_recipe_allows_what_the_component_does(service: str, operation: str, resource: str) -> None:
    access = judge(INSPECTOR).ComponentConfiguration.DefaultConfiguration["accessControl"]
    filled_in = json.loads(json.dumps(access).replace("{iot:thingName}", THING))
    assert access_control.is_allowed(filled_in, service=service, operation=operation, resource=resource)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("ComponentVersions", "1.0.0", "ComponentVersions: unknown key"),
        ("ComponentVersion", "1.0", "ComponentVersion"),
        ("ComponentType", None, "ComponentType: is required"),
        ("Manifests/0/Platform/runtime", None, "Manifests.0.Platform.runtime: is required"),
        ("Manifests/1/Platform/architecture", "arm64", "'amd64' or 'aarch64'"),
        ("Manifests/0/Lifecycle/Install", {"Script": "x", "Timeout": 1}, "Manifests.0.Lifecycle.Install: unknown key"),
        ("Manifests/0/Lifecycle/shutdown", {"Script": "x", "Timeout": 1}, "shutdown: unknown key"),
        (f"{STARTUP}/RequiresPrivilege", "true", "RequiresPrivilege: unknown key"),
        (f"{STARTUP}/Script", "exec ${PYTHON} x", "${...}"),
        (f"{STARTUP}/Script", "exec x {configuration:/line}", "{configuration:/line} is no recipe variable"),
        (f"{STARTUP}/Script", "exec x {com.kensa.Model:artifacts:path}", "is no recipe variable"),
        (f"{STARTUP}/Script", "for i in 1 2\ndo x\ndone", "more than one line"),
        (f"{STARTUP}/Timeout", 100_000, "Timeout"),
        ("Manifests/0/Artifacts/0/Unarchive", "ZIP", "Unarchive"),
        ("Manifests/0/Artifacts/0/Uri", "https://x/y", "Uri"),
        ("ComponentDependencies/aws.greengrass.TokenExchangeService/DependencyType", "HARD", "SOFT"),
        (f"{DEFAULTS}/heartbeat_s", 10, "DefaultConfiguration.heartbeat_s: 10 must be text"),
        (f"{DEFAULTS}/heartbeat_s", "0.1", "heartbeat_s: given"),
        (f"{DEFAULTS}/hartbeat_s", "10", "Did you mean 'heartbeat_s'?"),
        (f"{DEFAULTS}/line", "x" * 1_100, "nucleus lite takes 1022"),
        (f"{DEFAULTS}/inspections", {f"i{n}": {} for n in range(100)}, "100 keys; nucleus lite takes 99"),
        (f"{POLICY}/resources", ["*"], "no * and no #"),
        (f"{POLICY}/resources", ["kensa/+/#"], "no * and no #"),
        (f"{POLICY}/resources", ["kensa/line+/heartbeat"], "one whole level"),
        (f"{POLICY}/resources", ["kensa/{thing}/heartbeat"], "{iot:thingName} is the only variable"),
        (f"{POLICY}/resources", ["factory/heartbeat"], "must begin with kensa/"),
        (f"{POLICY}/operations", ["*"], "is not among"),
        (f"{POLICY}/operations", None, "operations: is required"),
        (f"{POLICY}/resource", ["kensa/x"], "resource: unknown key"),
        (f"{DEFAULTS}/accessControl/aws.greengrass.Cli", {}, "unknown service"),
    ],
)
def test_a_wrong_recipe_is_refused_by_the_path_of_its_key(path: str, value: object, said: str) -> None:
    assert said in refusal(changed(path, value))


def test_a_key_given_twice_is_refused() -> None:
    assert "line: given twice" in refusal(INSPECTOR.replace("    line: line1", "    line: line1\n    line: line2"))


def test_a_policy_is_named_after_its_component() -> None:
    assert "must be named com.kensa.Inspector:" in refusal(INSPECTOR.replace("Inspector:shadow:1", "Camera:shadow:1"))


def test_a_recipe_beyond_what_the_cloud_takes_is_refused() -> None:
    assert "at most 16000" in refusal(INSPECTOR + "# " + "x" * 16_000)


def test_no_yaml_is_no_recipe() -> None:
    assert "is not valid YAML" in refusal("a: [")


def test_the_topics_of_the_model_component_follow_its_inspection() -> None:
    tree = yaml.safe_load(MODEL)["ComponentConfiguration"]["DefaultConfiguration"]
    checks.check_model_defaults(tree)

    with pytest.raises(ConfigError, match="kensa/model/top/status"):
        checks.check_model_defaults({**tree, "inspection": "top"})


@pytest.mark.parametrize("path", sorted((recipe.RECIPES / "policies").glob("*.json")), ids=lambda path: path.stem)
def test_policies_name_what_they_allow(path: Path) -> None:
    document = json.loads(path.read_bytes())

    assert document["Version"] == "2012-10-17"
    assert checks.policy_problems(document) == []
    for statement in document["Statement"]:
        assert checks.policy_problems({"Statement": [{**statement, "Action": "s3:*"}]})
        assert checks.policy_problems({"Statement": [{**statement, "Action": "s3:GetObject", "Resource": "*"}]})
