"""Deployments on the simulated nucleus, as measured on lite and documented of classic."""

from __future__ import annotations

import io
import os
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from greengrass.environment import MODEL_STARTUP_SUFFIX
from simulator.nucleus import NucleusBehaviour
from tests.kits.greengrass.nucleus_components import NAME, QUICK, STAYS, device, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from simulator.nucleus.limits import Mode

BOTH = pytest.mark.parametrize("mode", ["lite", "classic"])


@BOTH
def test_a_component_is_installed_then_run_and_all_of_it_ends_with_the_nucleus(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        install = "echo installed > {work:path}/installed"
        outcome = site.deploy(site.shop.offer("1.0.0", {"install": install, "run": "sleep 1000 &\n" + STAYS}))
        assert outcome.succeeded, outcome
        component = site.nucleus.component(NAME)
        assert (component.state, component.starts) == ("RUNNING", 1)
        assert site.work("installed").read_text() == "installed\n"
        wait_until(lambda: "started" in site.nucleus.log(NAME), "the component's output")
        assert component.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(component.pid, 0)


@BOTH
def test_a_component_finds_the_environment_that_it_was_measured_to_have(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": "env > {work:path}/env"}))
        wait_until(lambda: site.nucleus.component(NAME).state == "FINISHED", "the end")
        found = dict(line.split("=", 1) for line in site.work("env").read_text().splitlines() if "=" in line)
        assert found["AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"] == str(site.nucleus.socket_path)
        assert found["AWS_IOT_THING_NAME"] == "line1-cam"
        assert {"SVCUID", "AWS_REGION", "GG_ROOT_CA_PATH", "GGC_VERSION"} <= set(found)


@BOTH
def test_three_starts_in_an_hour_and_then_broken(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": "exit 3"}))
        wait_until(lambda: site.nucleus.component(NAME).state == "BROKEN", "BROKEN")
        component = site.nucleus.component(NAME)
        assert (component.starts, component.exit_codes) == (3, (3, 3, 3))


@BOTH
def test_who_exits_with_0_is_not_started_again(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": "exit 0"}))
        wait_until(lambda: site.nucleus.component(NAME).state == "FINISHED", "the end")
        assert site.nucleus.component(NAME).starts == 1


@BOTH
def test_a_startup_that_fails_makes_the_deployment_fail(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        outcome = site.deploy(site.shop.offer("1.0.0", {"startup": "false || exit 1"}))
        assert outcome.status == ("FAILED" if mode == "lite" else "FAILED_ROLLBACK_COMPLETE")
        assert "BROKEN" in outcome.reason


def test_on_lite_a_failure_at_the_end_of_a_startup_script_goes_unnoticed(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        assert site.deploy(site.shop.offer("1.0.0", {"startup": "false"})).succeeded
        assert not site.deploy(site.shop.offer("1.1.0", {"startup": "exec true"})).succeeded


def test_a_datagram_to_the_notify_socket_says_that_a_startup_is_up(tmp_path: Path) -> None:
    says = "s.socket(s.AF_UNIX, s.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
    with device("lite", tmp_path) as site:
        script = f'python3 -c "import os, socket as s; {says}"\nexec sleep 1000'
        assert site.deploy(site.shop.offer("1.0.0", {"startup": script})).succeeded
        assert site.nucleus.component(NAME).pid is not None


def test_lite_installs_the_new_version_beside_the_old_one_and_then_swaps(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}))
        site.deploy(site.shop.offer("2.0.0", {"install": "true", "run": STAYS}))
        happened = site.what_happened()
        assert happened[happened.index("install") :] == [
            "install", "install", "STOPPING", "SIGTERM", "INSTALLED", "stopped", "STARTING", "run", "RUNNING",
        ]  # fmt: skip


def test_classic_stops_the_old_version_before_it_installs_the_new_one(tmp_path: Path) -> None:
    with device("classic", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}))
        site.deploy(site.shop.offer("2.0.0", {"install": "true", "run": STAYS}))
        happened = site.what_happened()
        assert happened.index("SIGTERM") < happened.index("install") < len(happened) - 1


@BOTH
def test_a_merge_alone_restarts_nothing(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        components = site.shop.offer("1.0.0", {"run": STAYS}, configuration={"model": {"version": "v1"}})
        site.deploy(components)
        before = site.nucleus.component(NAME)
        assert site.deploy(components, merge={"model": {"version": "v2"}}).succeeded
        assert site.nucleus.component(NAME) == before
        assert site.nucleus.configuration(NAME)["model"] == {"version": "v2"}
        assert site.deploy(components, reset=["/model"]).succeeded
        assert site.nucleus.configuration(NAME)["model"] == {"version": "v1"}


def test_classic_restarts_a_component_whose_script_quotes_what_was_merged(tmp_path: Path) -> None:
    script = "echo {configuration:/model}\n" + STAYS
    for mode, restarts in (("classic", True), ("lite", False)):
        with device(mode, tmp_path / mode) as site:  # type: ignore[arg-type]
            components = site.shop.offer("1.0.0", {"run": script}, configuration={"model": "v1"})
            site.deploy(components)
            before = site.nucleus.component(NAME).pid
            site.deploy(components, merge={"model": "v2"})
            assert (site.nucleus.component(NAME).pid != before) is restarts


def test_new_defaults_reach_what_nobody_set_and_only_there(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        first = site.shop.offer("1.0.0", {"run": STAYS}, configuration={"a": "1", "b": "1"})
        site.deploy(first, merge={"a": "mine"})
        site.deploy(site.shop.offer("2.0.0", {"run": STAYS}, configuration={"a": "2", "b": "2", "c": "2"}))
        assert site.nucleus.configuration(NAME) == {"a": "mine", "b": "2", "c": "2"}


def test_yaml_scalars_are_text_on_lite_and_json_keeps_its_types(tmp_path: Path) -> None:
    tree = {"threshold": 0.5, "count": 8, "on": True}
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}, configuration=tree))
        assert site.nucleus.configuration(NAME) == {"threshold": "0.5", "count": "8", "on": "true"}
        other = "com.example.Json"
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}, name=other, configuration=tree, as_json=True))
        assert site.nucleus.configuration(other) == tree


def test_a_brace_that_is_no_variable_breaks_a_component_on_lite_only(tmp_path: Path) -> None:
    for mode, fine in (("lite", False), ("classic", True)):
        with device(mode, tmp_path / mode) as site:  # type: ignore[arg-type]
            outcome = site.deploy(site.shop.offer("1.0.0", {"run": "echo ${HOME}\n" + STAYS}))
            assert outcome.succeeded is fine


def test_archives_are_not_unpacked_by_local_deployments_on_lite(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside.txt", "x")
    script = "find {artifacts:path} {artifacts:decompressedPath} -type f > {work:path}/found"
    for local, expected in ((True, {"app.zip"}), (False, {"app.zip", "inside.txt"})):
        with device("lite", tmp_path / str(local)) as site:
            site.deploy(site.shop.offer("1.0.0", {"run": script}, files={"app.zip": packed.getvalue()}), local=local)
            wait_until(lambda: site.nucleus.component(NAME).starts, "the start")
            wait_until(lambda: site.nucleus.component(NAME).state in ("FINISHED", "BROKEN"), "the end")
            found = site.work("found").read_text().splitlines()
            assert {line.rsplit("/", 1)[-1] for line in found} == expected


def test_after_an_update_only_the_new_version_s_artifacts_are_left_and_the_work_folder_stays(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": "echo kept > mine\n" + STAYS}, files={"a": b"1"}))
        wait_until(site.work("mine").is_file, "the component's file")
        site.deploy(site.shop.offer("2.0.0", {"run": STAYS}, files={"a": b"2"}))
        artifacts = site.root / "packages" / "artifacts" / NAME
        assert [path.name for path in artifacts.iterdir()] == ["2.0.0"]
        assert site.work("mine").read_text() == "kept\n"


def test_classic_rolls_back_and_lite_does_not(tmp_path: Path) -> None:
    for mode, version in (("classic", "1.0.0"), ("lite", "2.0.0")):
        with device(mode, tmp_path / mode) as site:  # type: ignore[arg-type]
            site.deploy(site.shop.offer("1.0.0", {"startup": "true"}, configuration={"a": "1"}))
            bad = site.shop.offer("2.0.0", {"startup": "exit 1"}, configuration={"a": "1", "b": "2"})
            assert not site.deploy(bad).succeeded
            component = site.nucleus.component(NAME)
            assert (component.version, component.state == "BROKEN") == (version, mode == "lite")
            assert ("b" in site.nucleus.configuration(NAME)) is (mode == "lite")


@BOTH
def test_a_hard_dependency_restarts_its_dependent_and_a_soft_one_does_not(mode: Mode, tmp_path: Path) -> None:
    for kind in ("HARD", "SOFT"):
        with device(mode, tmp_path / kind) as site:
            model = "com.example.Model"
            needs: dict[str, Any] = {
                "ComponentDependencies": {model: {"VersionRequirement": ">=1.0.0", "DependencyType": kind}}
            }
            camera = site.shop.offer("1.0.0", {"run": STAYS}, **needs)
            assert site.deploy({**camera, **site.shop.offer("1.0.0", {"startup": "true"}, name=model)}).succeeded
            before = site.nucleus.component(NAME).pid
            assert site.deploy({**camera, **site.shop.offer("1.1.0", {"startup": "true"}, name=model)}).succeeded
            assert (site.nucleus.component(NAME).pid != before) is (kind == "HARD")


@BOTH
def test_what_is_no_longer_deployed_is_stopped_and_forgotten(mode: Mode, tmp_path: Path) -> None:
    with device(mode, tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}, configuration={"a": "1"}))
        other = site.shop.offer("1.0.0", {"run": STAYS}, name="com.example.Other")
        assert site.deploy(other).succeeded
        assert site.nucleus.configuration(NAME) is None
        assert "SIGTERM" in site.what_happened()


def test_who_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    with device("lite", tmp_path, behaviour=NucleusBehaviour(kill_after_s=0.3, update_gap_s=0.0)) as site:
        script = "trap '' TERM\ntouch ready\nwhile true; do sleep 0.05; done"
        site.deploy(site.shop.offer("1.0.0", {"run": script}))
        wait_until(site.work("ready").exists, "the trap")
        pid = site.nucleus.component(NAME).pid
        assert pid is not None
        assert site.deploy(site.shop.offer("2.0.0", {"run": STAYS})).succeeded
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


@pytest.mark.parametrize("missing", ["recipe", "artifact", "platform"])
def test_what_cannot_be_deployed_changes_nothing_and_is_named(missing: str, tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}))
        before = site.nucleus.component(NAME)
        components = site.shop.offer("2.0.0", {"run": STAYS}, files={"a": b""})
        if missing == "recipe":
            components = {NAME: "3.0.0"}
        elif missing == "artifact":
            (site.shop.folder / "artifacts" / NAME / "2.0.0" / "a").unlink()
        else:
            site.shop.offer("2.0.0", {}, Manifests=[{"Platform": {"os": "linux"}, "Lifecycle": {"run": "true"}}])
        outcome = site.deploy(components)
        assert outcome.status == "FAILED_NO_STATE_CHANGE"
        assert NAME in outcome.reason
        assert site.nucleus.component(NAME) == before


COMES_TO_ITS_END = "echo done"
PROVEN = f"true {MODEL_STARTUP_SUFFIX}"


@pytest.mark.parametrize(
    ("systemd", "script", "ends"),
    [(252, COMES_TO_ITS_END, "BROKEN"), (252, PROVEN, "RUNNING"), (255, COMES_TO_ITS_END, "RUNNING")]
    + [(255, PROVEN, "RUNNING")],
)
def test_what_lite_appends_to_a_startup_script_breaks_it_on_an_old_systemd(
    systemd: int, script: str, ends: str, tmp_path: Path
) -> None:
    with device("lite", tmp_path, behaviour=replace(QUICK, systemd=systemd)) as site:
        site.deploy(site.shop.offer("1.0.0", {"startup": script}))
        wait_until(lambda: site.nucleus.component(NAME).exit_codes, "the script's end")
        wait_until(lambda: site.nucleus.component(NAME).state == ends, ends)
        assert site.nucleus.component(NAME).starts == (3 if ends == "BROKEN" else 1)
        assert ("unrecognized option '--stopping'" in site.nucleus.log(NAME)) is (ends == "BROKEN")


def test_lite_installs_new_versions_of_several_components_at_once(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        script = "touch {work:path}/here; until test -e ../%s/here; do sleep 0.02; done"
        one = site.shop.offer("1.0.0", {"install": script % "com.example.Other", "run": STAYS})
        other = site.shop.offer("1.0.0", {"install": script % NAME, "run": STAYS}, name="com.example.Other")
        assert site.deploy({**one, **other}).succeeded


def test_every_deployment_of_lite_tries_a_broken_component_again_and_fails_with_it(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        broken = site.shop.offer("1.0.0", {"run": "echo tried; exit 3"}, name="com.example.Other")
        site.deploy(broken)
        wait_until(lambda: site.nucleus.component("com.example.Other").state == "BROKEN", "BROKEN")
        outcome = site.deploy({**broken, **site.shop.offer("1.0.0", {"run": STAYS})})
        assert site.nucleus.component("com.example.Other").starts > 3
        assert outcome.status in ("FAILED", "SUCCEEDED")
        wait_until(lambda: site.nucleus.component("com.example.Other").starts == 6, "three more tries")
        assert site.deploy(site.shop.offer("1.0.0", {"run": STAYS})).succeeded  # without it


def test_the_work_folder_of_a_removed_component_stays_on_lite(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": "echo kept > {work:path}/kept; " + STAYS}))
        wait_until(site.work("kept").exists, "the file")
        assert site.deploy(site.shop.offer("1.0.0", {"run": STAYS}, name="com.example.Other")).succeeded
        assert site.work("kept").read_text() == "kept\n"


def test_lite_counts_starts_over_its_own_restart(tmp_path: Path) -> None:
    with device("lite", tmp_path) as site:
        site.deploy(site.shop.offer("1.0.0", {"run": STAYS}))
        for _ in range(2):
            site.nucleus.restart()
            wait_until(lambda: site.nucleus.component(NAME).state == "RUNNING", "the start")
        site.nucleus.restart()
        wait_until(lambda: site.nucleus.component(NAME).state == "BROKEN", "BROKEN")
