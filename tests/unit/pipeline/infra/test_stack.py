"""The stack matches the code: functions, tables, and a sound state machine."""

from __future__ import annotations

import copy
import importlib
import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agent.errors import KensaError, OperatorError
from agent.wire import encode_verdict, heartbeat_topic, model_topic, verdict_topic
from pipeline.analytics import lake_schema
from pipeline.cycle import state_machine
from pipeline.cycle.execution import CycleRequest
from pipeline.cycle.handlers import HANDLERS
from pipeline.cycle.settings import CycleSettings
from pipeline.infra import asl_lint, cost_estimate
from simulator.aws.iot_rules import select
from tests.kits.cloud import messages
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

INFRA = ROOT / "pipeline" / "infra"


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short tags as {tag: value}."""


def _tagged(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {suffix: value}


_Loader.add_multi_constructor("!", _tagged)


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    tree: dict[str, Any] = yaml.load((INFRA / "template.yaml").read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506
    return tree


def members(tree: Any, name: str) -> Iterator[Any]:
    """The values of all members `name` at any depth."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if key == name:
            yield value
        yield from members(value, name)


def subclasses(base: type) -> Iterator[type]:
    """All classes below `base` that are loaded."""
    below: list[type] = base.__subclasses__()
    for found in below:
        yield found
        yield from subclasses(found)


def of_type(template: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    return {name: one["Properties"] for name, one in template["Resources"].items() if one["Type"] == kind}


def test_the_state_machine_is_the_one_that_the_code_makes() -> None:
    assert (INFRA / "cycle.asl.json").read_text(encoding="utf-8") == state_machine.to_text(), (
        "python -m pipeline.cycle.state_machine > pipeline/infra/cycle.asl.json"
    )


def test_the_state_machine_is_sound() -> None:
    assert asl_lint.find_errors(state_machine.definition()) == []


def test_every_error_that_the_state_machine_names_is_a_class_or_of_a_service() -> None:
    named = {error for found in members(state_machine.definition(), "ErrorEquals") for error in found}
    ours = {error for error in named if "." not in error}  # those of services have a prefix, as `States.ALL`
    classes = {one.__name__ for one in subclasses(KensaError)}  # `HANDLERS` has imported every step
    assert {"AwsError", "StorageError"} <= ours <= classes


def test_every_substitution_of_the_state_machine_is_given(template: dict[str, Any]) -> None:
    given = of_type(template, "AWS::StepFunctions::StateMachine")["Cycle"]["DefinitionSubstitutions"]
    assert set(given) == {"TrainingRole", *(f"{name}Function" for name in HANDLERS)}
    assert all(f"${{{name}}}" in state_machine.to_text() for name in given)


def test_every_function_is_a_handler_that_there_is(template: dict[str, Any]) -> None:
    functions = of_type(template, "AWS::Lambda::Function")
    commands = {name: one["ImageConfig"]["Command"][0] for name, one in functions.items()}
    for command in commands.values():
        module, _, function = command.rpartition(".")
        assert callable(getattr(importlib.import_module(module), function)), command
    for name, handler in HANDLERS.items():
        assert commands[f"{name}Function"] == f"{handler.__module__}.{handler.__name__}"


def test_the_functions_of_the_cycle_get_settings_that_are_known(template: dict[str, Any]) -> None:
    known = {f"KENSA_{name.upper()}" for name in CycleSettings.model_fields}
    for name in HANDLERS:
        variables = of_type(template, "AWS::Lambda::Function")[f"{name}Function"]["Environment"]["Variables"]
        assert set(variables) <= known
        needed = {f"KENSA_{key.upper()}" for key, field in CycleSettings.model_fields.items() if field.is_required()}
        assert needed <= set(variables)


def test_the_glue_tables_have_the_columns_of_the_schema(template: dict[str, Any]) -> None:
    wanted = json.loads(lake_schema.glue_tables_json())
    found = {one["TableInput"]["Name"]: one["TableInput"] for one in of_type(template, "AWS::Glue::Table").values()}
    assert set(found) == set(wanted)
    for name, table in wanted.items():
        assert found[name]["StorageDescriptor"]["Columns"] == table["Columns"], name
        assert found[name]["PartitionKeys"] == table["PartitionKeys"]
        assert found[name]["Description"] == table["Description"]


def test_no_role_allows_everything(template: dict[str, Any]) -> None:
    alone = {"xray", "logs", "ecr", "cloudwatch"}  # services of which some actions know no resource
    for name, role in of_type(template, "AWS::IAM::Role").items():
        for policy in role.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                actions = statement["Action"]
                assert not any("*" in action for action in actions), (name, actions)
                if statement["Resource"] == "*":
                    assert {action.partition(":")[0] for action in actions} <= alone, (name, actions)


def test_every_bucket_is_private_encrypted_versioned_and_refuses_plain_http(template: dict[str, Any]) -> None:
    policies = of_type(template, "AWS::S3::BucketPolicy").values()
    guarded = {
        policy["Bucket"]["Ref"]
        for policy in policies
        if any(s.get("Sid") == "TlsOnly" and s["Effect"] == "Deny" for s in policy["PolicyDocument"]["Statement"])
    }
    buckets = of_type(template, "AWS::S3::Bucket")
    assert guarded == set(buckets)
    for bucket in buckets.values():
        assert all(bucket["PublicAccessBlockConfiguration"].values())
        assert bucket["VersioningConfiguration"]["Status"] == "Enabled"
        assert "BucketEncryption" in bucket


def test_every_log_group_forgets_and_is_encrypted(template: dict[str, Any]) -> None:
    for group in of_type(template, "AWS::Logs::LogGroup").values():
        assert group["RetentionInDays"] == {"Ref": "LogDays"}
        assert "KmsKeyId" in group


def test_every_parameter_is_described_and_used(template: dict[str, Any]) -> None:
    text = (INFRA / "template.yaml").read_text(encoding="utf-8")
    for name, parameter in template["Parameters"].items():
        assert parameter["Description"]
        assert f"!Ref {name}" in text or f"${{{name}}}" in text, name


def test_every_event_that_starts_a_cycle_makes_a_valid_input(template: dict[str, Any]) -> None:
    triggers = []
    for rule in of_type(template, "AWS::Events::Rule").values():
        for target in rule["Targets"]:
            if transformer := target.get("InputTransformer"):
                text = transformer["InputTemplate"]["Sub"].replace("<id>", "6d1b-42")
                for name, value in (("Site", "plant-a"), ("Model", "surface"), ("Inspection", "main")):
                    text = text.replace(f"${{{name}}}", value)
                triggers.append(CycleRequest.model_validate_json(text).trigger)
    assert sorted(triggers) == ["drift", "labels", "manual", "schedule"]


def test_the_rules_of_iot_core_take_what_a_device_says_of_itself_and_nothing_in_anothers_name(
    template: dict[str, Any],
) -> None:
    rules = of_type(template, "AWS::IoT::TopicRule")
    assert len(rules) == 4
    for name, rule in rules.items():
        topic = "kensa/t/model" if name == "reportsIotRule" else "kensa/t/verdicts/c"
        topic = "kensa/t/heartbeat" if name == "heartbeatsIotRule" else topic
        sql, said = rule["TopicRulePayload"]["Sql"], {"kind": "model", "thing": "t"}
        assert select(sql, topic, said) == said, name
        for other in ({"thing": "other"}, {"thing": ""}, {"thing": None}, {"thing": ["t"]}):
            assert select(sql, topic, {**said, **other}) is None, name
        assert select(sql, topic, {"kind": "model"}) is None, name


def test_the_rules_of_iot_core_take_every_message_that_a_device_writes(template: dict[str, Any]) -> None:
    rules = of_type(template, "AWS::IoT::TopicRule")
    thing = messages.ORIGIN.thing
    verdicts = [encode_verdict(messages.ok(1)), messages.envelope([messages.ok(1)]), messages.gap()]
    for rule, topic, expected in (
        ("verdictsIotRule", verdict_topic(thing, "top"), verdicts),
        ("liveIotRule", verdict_topic(thing, "top"), verdicts),
        ("heartbeatsIotRule", heartbeat_topic(thing), [messages.heartbeat()]),
        ("reportsIotRule", model_topic(thing), [messages.report()]),
    ):
        for message in expected:
            said = json.loads(message)
            assert select(rules[rule]["TopicRulePayload"]["Sql"], topic, said) == said, (rule, said)


def test_a_device_brings_frames_below_its_own_name_as_the_recipes_policy_says(template: dict[str, Any]) -> None:
    stack = of_type(template, "AWS::IAM::ManagedPolicy")["DevicePolicy"]["PolicyDocument"]["Statement"]
    text = (ROOT / "recipes" / "policies" / "token-exchange-role.json").read_text(encoding="utf-8")
    (frames,) = [one for one in json.loads(text)["Statement"] if one["Sid"] == "CollectedFrames"]
    (given,) = [one for one in stack if "collected" in str(one["Resource"])]
    assert set(given["Action"]) == set(frames["Action"])
    suffix = frames["Resource"].rpartition("/thing=")[2]
    assert given["Resource"]["Sub"].rpartition("/thing=")[2] == suffix.replace("${", "${!")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s: s["Begin"].update(Next="Nowhere"), "'Nowhere' is not a state"),
        (lambda s: s["Accepted"].pop("Default"), "has no Default"),
        (lambda s: s["Begin"].pop("Catch"), "does not catch States.ALL"),
        (lambda s: s["Begin"].pop("Retry"), "does not retry Lambda.TooManyRequestsException"),
        (lambda s: s["Choose"].pop("Retry"), "does not retry SageMaker.AmazonSageMakerException"),
        (lambda s: s["Begin"]["Catch"].reverse() or s["BuildDataset"]["Catch"].reverse(), "before other errors"),
        (lambda s: s["Done"].update(Type="Sucess"), "the type 'Sucess'"),
        (lambda s: s.update(Lost={"Type": "Succeed"}), "machine.Lost: cannot be reached"),
        (lambda s: s["Train"].pop("Next"), "needs either Next or End"),
        (lambda s: s["CanaryPause"].update(SecondsPath="rollout.poll_interval_s"), "is not a path"),
        (lambda s: s["CountModels"]["Parameters"].update({"x.$": "States.Sum($.a)"}), "there is no States.Sum"),
        (lambda s: s["Begin"]["Parameters"].update(state="$.x"), "lacks its .$"),
        (lambda s: s["Train"]["ItemProcessor"].update(StartAt="Other"), "is not one of its states"),
    ],
)
def test_a_broken_state_machine_is_found_out(change: Any, fault: str) -> None:
    broken = copy.deepcopy(state_machine.definition())
    change(broken["States"])
    assert any(fault in line for line in asl_lint.find_errors(broken)), asl_lint.find_errors(broken)


def test_the_bill_is_the_sum_of_its_lines_and_grows_with_the_plant() -> None:
    prices = cost_estimate.read_prices(cost_estimate.PRICES_PATH)
    small, large = (
        cost_estimate.cost_items(cost_estimate.CostInputs(), prices),
        cost_estimate.cost_items(cost_estimate.CostInputs(lines=10, live=True), prices),
    )
    total = sum(item.amount for item in small)
    assert f"**{total:.2f}**" in cost_estimate.cost_table(cost_estimate.CostInputs(), prices)
    assert sum(item.amount for item in large) > total
    assert {item.service for item in large} - {item.service for item in small} == {"Live view"}
    assert all(item.amount >= 0 for item in large)


def test_every_price_of_the_file_is_used() -> None:
    prices = cost_estimate.read_prices(cost_estimate.PRICES_PATH)
    before = sum(item.amount for item in cost_estimate.cost_items(cost_estimate.CostInputs(live=True), prices))
    for name in cost_estimate.Prices.model_fields:
        if isinstance(getattr(prices, name), float):
            changed = prices.model_copy(update={name: getattr(prices, name) * 1e6})
            assert (
                sum(item.amount for item in cost_estimate.cost_items(cost_estimate.CostInputs(live=True), changed))
                > before
            ), name


def test_a_price_that_is_missing_is_named(tmp_path: Any) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        cost_estimate.PRICES_PATH.read_text(encoding="utf-8").replace("kms_key:", "kms_kay:"), encoding="utf-8"
    )
    with pytest.raises(OperatorError, match="kms_key: Field required"):
        cost_estimate.read_prices(path)


def test_the_costs_in_the_documentation_are_those_of_the_command() -> None:
    text = (ROOT / "docs" / "cloud.md").read_text(encoding="utf-8")
    assert (
        cost_estimate.cost_table(
            cost_estimate.CostInputs(lines=4), cost_estimate.read_prices(cost_estimate.PRICES_PATH)
        )
        in text
    )
