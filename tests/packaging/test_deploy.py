"""scripts/deploy: the requests it sends, those it refuses to send, and its use of S3 and Greengrass."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.stub import Stubber

from greengrass.environment import MODEL_NAME
from greengrass.packaging import deploy, deployment_request, recipe
from greengrass.packaging.build import INSPECTOR
from greengrass.packaging.checks import DEFAULTS_CHECKS
from greengrass.packaging.deploy import GreengrassCloud
from greengrass.packaging.deployment_request import ComponentVersion, ConfigurationUpdate, DeployError, RolloutConfig
from simulator.doubles.clocks.manual_clock import ManualClock
from simulator.doubles.servers.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REGION, ACCOUNT, BUCKET = "eu-central-1", "123456789012", "components"
GROUP_ARN = f"arn:aws:iot:{REGION}:{ACCOUNT}:thinggroup/line-3"
THING_ARN = f"arn:aws:iot:{REGION}:{ACCOUNT}:thing/press-3"
VERSION_ARN = f"arn:aws:greengrass:{REGION}:{ACCOUNT}:components:{INSPECTOR.name}:versions:7.8.9"
KEYS = {"region_name": REGION, "aws_access_key_id": "x", "aws_secret_access_key": "x"}


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A version as scripts/build-component leaves it, with archives that hold nothing."""
    out = tmp_path / "built"
    source = (recipe.RECIPES / f"{INSPECTOR.name}.yaml").read_text(encoding="utf-8")
    inspected = recipe.parse(source, source="recipe", defaults=DEFAULTS_CHECKS[INSPECTOR.name])
    names = ["component.py", "kensa-x86_64-cp311.zip"]
    text = recipe.render(inspected, version="7.8.9", artifacts={"amd64": names}, configuration={}, bucket=None)
    (out / "recipes").mkdir(parents=True)
    (out / "recipes" / f"{INSPECTOR.name}-7.8.9.yaml").write_text(text, encoding="utf-8")
    folder = out / "artifacts" / INSPECTOR.name / "7.8.9"
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_bytes(name.encode() * 100)
    return out


@pytest.fixture
def version(built: Path) -> ComponentVersion:
    return deployment_request.read_version(built, INSPECTOR.name, None, bucket=BUCKET)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    """A client of an S3 on the loopback."""
    with S3Server(tmp_path / "s3") as server:
        client = boto3.client("s3", endpoint_url=server.url, config=Config(s3={"addressing_style": "path"}), **KEYS)
        yield client
        client.close()


@pytest.fixture
def greengrass() -> Iterator[tuple[Any, Stubber]]:
    """A client whose answers the test gives; what is sent is judged by botocore and by the test."""
    client = boto3.client("greengrassv2", **KEYS)
    with Stubber(client) as stubber:
        yield client, stubber
    client.close()


def cloud(store: Any, client: Any) -> GreengrassCloud:
    return GreengrassCloud(s3=store, greengrass=client, clock=ManualClock())


def asked(version: ComponentVersion, **given: Any) -> dict[str, Any]:
    """The request for one version with the defaults, changed by `given`."""
    parameters: dict[str, Any] = {
        "name": "kensa",
        "target_arn": GROUP_ARN,
        "components": {version.name: version.version},
        "changes": {},
        "current": {},
        "rollout": RolloutConfig(),
    }
    return deployment_request.create_deployment_request(**{**parameters, **given})


# --- the requests -----------------------------------------------------------------------------------------------------


def test_a_group_is_deployed_at_a_rate_with_a_limit_and_rolls_back(version: ComponentVersion, greengrass: Any) -> None:
    request = asked(
        version, rollout=RolloutConfig(per_minute=3, abort_percent=20.0, abort_after=2, notify_s=90, validate_s=70)
    )

    assert request["targetArn"] == GROUP_ARN
    assert request["components"] == {INSPECTOR.name: {"componentVersion": "7.8.9"}}
    assert request["iotJobConfiguration"]["jobExecutionsRolloutConfig"] == {"maximumPerMinute": 3}
    (criterion,) = request["iotJobConfiguration"]["abortConfig"]["criteriaList"]
    assert (criterion["thresholdPercentage"], criterion["minNumberOfExecutedThings"]) == (20.0, 2)
    assert request["deploymentPolicies"] == {
        "failureHandlingPolicy": "ROLLBACK",
        "componentUpdatePolicy": {"action": "NOTIFY_COMPONENTS", "timeoutInSeconds": 90},
        "configurationValidationPolicy": {"timeoutInSeconds": 70},
    }
    cloud(None, greengrass[0]).validate_parameters("CreateDeployment", request)


def test_a_single_thing_has_no_rate(version: ComponentVersion, greengrass: Any) -> None:
    request = asked(version, target_arn=THING_ARN)

    assert set(request["iotJobConfiguration"]) == {"timeoutConfig"}
    cloud(None, greengrass[0]).validate_parameters("CreateDeployment", request)


def test_what_the_target_has_besides_stays_as_it_is(version: ComponentVersion) -> None:
    other = {"componentVersion": "2.0.3", "configurationUpdate": {"merge": '{"a":1}'}}
    before = {"componentVersion": "7.8.8", "configurationUpdate": {"merge": '{"line":"press3","keep":{"frames":"9"}}'}}

    request = asked(
        version,
        current={"com.example.Other": other, INSPECTOR.name: before},
        changes={INSPECTOR.name: ConfigurationUpdate({"keep": {"max_per_s": "2"}}, ())},
    )

    assert request["components"]["com.example.Other"] == other
    assert request["components"][INSPECTOR.name]["componentVersion"] == "7.8.9"
    merged = json.loads(request["components"][INSPECTOR.name]["configurationUpdate"]["merge"])
    assert merged == {"line": "press3", "keep": {"frames": "9", "max_per_s": "2"}}


def test_a_reset_drops_what_was_merged_before(version: ComponentVersion) -> None:
    before = {"componentVersion": "7.8.8", "configurationUpdate": {"merge": '{"line":"press3"}'}}

    request = asked(
        version, current={INSPECTOR.name: before}, changes={INSPECTOR.name: ConfigurationUpdate({}, ("/line",))}
    )

    assert request["components"][INSPECTOR.name]["configurationUpdate"] == {"reset": ["/line"]}


def test_what_is_removed_leaves_and_the_rest_stays(version: ComponentVersion) -> None:
    present = {MODEL_NAME: {"componentVersion": "1.0.0"}, INSPECTOR.name: {"componentVersion": "1.0.0"}}
    request = asked(version, components={}, current=present, remove=[MODEL_NAME])
    assert request["components"] == {INSPECTOR.name: {"componentVersion": "1.0.0"}}


@pytest.mark.parametrize(("remove", "said"), [(MODEL_NAME, "not part of"), (INSPECTOR.name, "leave one of them out")])
def test_what_cannot_be_removed_is_refused(version: ComponentVersion, remove: str, said: str) -> None:
    with pytest.raises(DeployError, match=said):
        asked(version, current={}, remove=[remove])


def test_a_component_that_is_broken_on_the_device_and_stays_is_named_with_the_way_out(greengrass: Any) -> None:
    client, stubber = greengrass
    installed = [
        {"componentName": MODEL_NAME, "lifecycleState": "BROKEN", "lifecycleStateDetails": "startup failed"},
        {"componentName": INSPECTOR.name, "lifecycleState": "RUNNING"},
    ]
    stubber.add_response("list_deployments", {"deployments": [{"deploymentId": "d1"}]})
    present = {name: {"componentVersion": "1.0.0"} for name in (MODEL_NAME, INSPECTOR.name)}
    stubber.add_response("get_deployment", {"components": present})
    stubber.add_response("list_installed_components", {"installedComponents": installed})
    stubber.add_response("create_deployment", {"deploymentId": "d2"})
    done = deploy.run(
        cloud(None, client),
        name="kensa",
        target_arn=THING_ARN,
        versions=[],
        changes={INSPECTOR.name: ConfigurationUpdate({"heartbeat_s": "5"}, ())},
        rollout=RolloutConfig(),
        dry_run=False,
    )
    (warning,) = done["warnings"]
    assert f"{MODEL_NAME} is BROKEN on press-3 (startup failed)" in warning
    assert f"--remove {MODEL_NAME}" in warning


def test_a_configuration_for_what_is_not_there_is_refused(version: ComponentVersion) -> None:
    with pytest.raises(DeployError, match=r"com\.kensa\.Model is configured, but neither"):
        asked(version, changes={"com.kensa.Model": ConfigurationUpdate({}, ())})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"targetArn": 5}, "targetArn"),
        ({"componentz": {}}, "componentz"),
        ({"components": {"x": {}}}, "componentVersion"),
    ],
)
def test_a_request_that_the_cloud_would_not_take_is_not_sent(
    version: ComponentVersion, greengrass: Any, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(DeployError, match=said):
        cloud(None, greengrass[0]).validate_parameters("CreateDeployment", {**asked(version), **wrong})


@pytest.mark.parametrize(
    ("merge", "said"),
    [
        ({"heartbeats": "3"}, "Did you mean 'heartbeat_s'"),
        ({"inspections": {"main": {"cameras": {"cam1": {"kind": "rtsp"}}}}}, r"inspections\.main\.cameras\.cam1\.url"),
        ({"transport": {"kind": "none"}}, "Greengrass is the transport"),
    ],
)
def test_a_configuration_that_the_device_would_refuse_is_not_sent(merge: dict[str, Any], said: str) -> None:
    with pytest.raises(DeployError, match=said):
        deployment_request.validate_update(INSPECTOR.name, ConfigurationUpdate(merge, ()))


@pytest.mark.parametrize("path", sorted((recipe.RECIPES / "deployments").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_deployment_documents_are_accepted(path: Path) -> None:
    changes = deployment_request.read_configuration_updates(path)

    assert changes
    for name, change in changes.items():
        deployment_request.validate_update(name, change)


@pytest.mark.parametrize(
    "text", ["[]", "com.kensa.Inspector: {merges: {}}", "com.kensa.Inspector: {reset: [line]}", "a: 1"]
)
def test_a_wrong_deployment_document_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "deployment.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(DeployError, match=r"deployment\.yaml"):
        deployment_request.read_configuration_updates(tmp_path / "deployment.yaml")


# --- versions and artifacts -------------------------------------------------------------------------------------------


def test_a_version_is_read_with_the_bucket_filled_in(version: ComponentVersion) -> None:
    assert version.version == "7.8.9"
    assert f"s3://{BUCKET}/{INSPECTOR.name}/7.8.9/kensa-x86_64-cp311.zip" in version.recipe
    assert "BUCKET_NAME" not in version.recipe
    assert len(version.artifacts) == 2


def test_a_version_that_is_not_whole_is_refused(built: Path, version: ComponentVersion) -> None:
    version.artifacts[0].unlink()

    with pytest.raises(DeployError, match=r"component\.py is missing"):
        deployment_request.read_version(built, INSPECTOR.name, "7.8.9", bucket=BUCKET)
    with pytest.raises(DeployError, match="scripts/build-component"):
        deployment_request.read_version(built, INSPECTOR.name, "1.0.0", bucket=BUCKET)


def test_artifacts_are_uploaded_where_the_recipe_says(store: Any, greengrass: Any, version: ComponentVersion) -> None:
    uploaded = cloud(store, greengrass[0]).upload(version)

    assert {f"s3://{BUCKET}/{key}" in version.recipe for key in uploaded} == {True}
    for key, path in zip(uploaded, version.artifacts, strict=True):
        assert store.get_object(Bucket=BUCKET, Key=key)["Body"].read() == path.read_bytes()


def test_artifacts_of_a_version_never_change(store: Any, greengrass: Any, version: ComponentVersion) -> None:
    with Stubber(store) as stubber:
        stubber.add_response("head_object", {"ChecksumSHA256": "b3RoZXI="})
        with pytest.raises(DeployError, match="exists with other bytes"):
            cloud(store, greengrass[0]).upload(version)


def test_an_artifact_that_is_there_is_not_sent_again(store: Any, greengrass: Any, version: ComponentVersion) -> None:
    with Stubber(store) as stubber:
        for path in version.artifacts:
            stubber.add_response("head_object", {"ChecksumSHA256": deploy.s3_checksum(path)})
        assert cloud(store, greengrass[0]).upload(version) == []


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_deployment_uploads_registers_waits_and_deploys(
    store: Any, greengrass: Any, version: ComponentVersion
) -> None:
    client, stubber = greengrass
    stubber.add_response(
        "list_deployments", {"deployments": []}, {"targetArn": GROUP_ARN, "historyFilter": "LATEST_ONLY"}
    )
    stubber.add_response(
        "create_component_version",
        {
            "arn": VERSION_ARN,
            "componentName": version.name,
            "componentVersion": "7.8.9",
            "creationTimestamp": 0,
            "status": {},
        },
        version.creation_parameters(),
    )
    for state in ("REQUESTED", "DEPLOYABLE"):
        stubber.add_response("describe_component", {"status": {"componentState": state}}, {"arn": VERSION_ARN})
    stubber.add_response("create_deployment", {"deploymentId": "d-1"}, asked(version))

    done = deploy.run(
        cloud(store, client),
        name="kensa",
        target_arn=GROUP_ARN,
        versions=[version],
        changes={},
        rollout=RolloutConfig(),
        dry_run=False,
    )

    assert done["deployment_id"] == "d-1"
    assert done["registered"] == [VERSION_ARN]
    assert len(done["uploaded"]) == 2
    stubber.assert_no_pending_responses()


def test_a_version_that_exists_is_used_as_it_is(greengrass: Any, version: ComponentVersion) -> None:
    client, stubber = greengrass
    stubber.add_client_error("create_component_version", "ConflictException", http_status_code=409)

    assert cloud(None, client).register(version) == ""


def test_a_version_that_the_cloud_finds_wanting_fails_with_its_words(
    greengrass: Any, version: ComponentVersion
) -> None:
    client, stubber = greengrass
    stubber.add_response(
        "create_component_version",
        {"arn": VERSION_ARN, "componentName": "x", "componentVersion": "1", "creationTimestamp": 0, "status": {}},
    )
    failed = {"status": {"componentState": "FAILED", "message": "artifact not readable"}}
    stubber.add_response("describe_component", failed)

    with pytest.raises(DeployError, match="is FAILED: artifact not readable"):
        cloud(None, client).register(version)


def test_a_dry_run_prints_the_requests_and_speaks_to_nobody(
    built: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    arguments = ["--bucket", BUCKET, "--group", "line-3", "--component", INSPECTOR.name, "--built", str(built)]
    arguments += ["--dry-run", "--region", REGION]

    assert deploy.main(arguments) == 64
    assert "give --account" in capsys.readouterr().err
    assert deploy.main([*arguments, "--account", ACCOUNT]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["CreateDeployment"]["targetArn"] == GROUP_ARN
    assert printed["PutObject"][0] == f"s3://{BUCKET}/{INSPECTOR.name}/7.8.9/component.py"


def test_nothing_to_deploy_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert deploy.main(["--bucket", "b", "--thing", "t", "--dry-run", "--account", ACCOUNT, "--region", REGION]) == 64
    assert "nothing to deploy" in capsys.readouterr().err
