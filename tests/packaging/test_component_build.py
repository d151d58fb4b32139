"""scripts/build-component packs only locked wheels, the same bytes twice, with a bill of materials."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import parse_wheel_filename

from greengrass.packaging import archive, build, checks, contents, import_closure, recipe, size_report
from greengrass.packaging.__main__ import main
from greengrass.packaging.archive import ArchiveEntry
from greengrass.packaging.lock import (
    ARCHITECTURES,
    NOT_IMPORTED,
    PYTHONS,
    BuildTarget,
    PackagingError,
    component_pins,
    read_pins,
)
from greengrass.packaging.wheels import collect_wheels
from tests.kits.cloud.tuf_repository import RELEASE, SITE, Publisher
from tests.kits.greengrass.component_build import HERE, VERSION, inspector_plan, model_plan
from tests.kits.releases import write_release
from tests.kits.requirements import ROOT

if TYPE_CHECKING:
    from pathlib import Path


ALL = [BuildTarget(machine, python) for machine in ARCHITECTURES for python in PYTHONS]
NOW = dt.datetime.now(dt.UTC)


def built_inspector(out: Path) -> build.BuildResult:
    return build.build(inspector_plan(out), out)


# --- what is carried --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [build.INSPECTOR, build.MODEL], ids=lambda kind: kind.name)
def test_a_component_carries_what_the_device_imports_and_nothing_else(kind: build.ComponentKind) -> None:
    assert {pin.name for pin in component_pins(build.LOCK, HERE, kind.packages)} == import_closure.imported_packages(
        kind
    )


def test_the_model_component_does_without_the_inspectors_libraries() -> None:
    assert not {"numpy", "onnxruntime", "opencv-python-headless", "boto3"} & import_closure.imported_packages(
        build.MODEL
    )


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.archive)
def test_what_is_left_out_of_the_lock_has_a_reason(target: BuildTarget) -> None:
    locked = {pin.name for pin in read_pins(build.LOCK, target)}

    assert locked - {pin.name for pin in component_pins(build.LOCK, target)} == set(NOT_IMPORTED)


def test_a_package_that_is_not_locked_is_named() -> None:
    with pytest.raises(PackagingError, match="flask is not locked"):
        component_pins(build.LOCK, HERE, frozenset({"flask", "numpy"}))


@pytest.mark.parametrize("line", ["numpy==2.4.6", "numpy>=2 --hash=sha256:" + "0" * 64, "numpy"])
def test_a_lock_without_versions_or_hashes_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "lock.txt").write_text(f"# comment\n{line}\n", encoding="utf-8")

    with pytest.raises(PackagingError, match="is no pin with hashes"):
        read_pins(tmp_path / "lock.txt", HERE)


def test_a_marker_is_evaluated_for_the_device_and_not_for_this_machine(tmp_path: Path) -> None:
    digest = "--hash=sha256:" + "0" * 64
    lines = f"old==1 ; python_version < '3.12' \\\n    {digest}\narm==1 ; platform_machine == 'aarch64' {digest}\n"
    (tmp_path / "lock.txt").write_text(lines, encoding="utf-8")

    def names(target: BuildTarget) -> set[str]:
        return {pin.name for pin in read_pins(tmp_path / "lock.txt", target)}

    assert names(BuildTarget("x86_64", "3.11")) == {"old"}
    assert names(BuildTarget("aarch64", "3.13")) == {"arm"}


def test_a_wheel_with_another_digest_is_not_taken_from_the_store(tmp_path: Path) -> None:
    (pin,) = (pin for pin in component_pins(build.LOCK, HERE) if pin.name == "six")
    (tmp_path / f"six-{pin.version}-py2.py3-none-any.whl").write_bytes(b"not what was locked")

    (wheel,) = collect_wheels([pin], HERE, tmp_path)

    assert wheel.sha256 in pin.sha256
    assert hashlib.sha256(wheel.path.read_bytes()).hexdigest() == wheel.sha256


# --- archives ---------------------------------------------------------------------------------------------------------


def test_an_archive_has_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    entries = [ArchiveEntry("b", b"2"), ArchiveEntry("a/c", b"1" * 1_000)]

    archive.write(tmp_path / "one.zip", entries)
    archive.write(tmp_path / "two.zip", reversed(entries))

    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.zip", "two.zip"]


@pytest.mark.timeout(600)
def test_a_built_version_is_whole_and_built_twice_the_same(tmp_path: Path) -> None:
    first = built_inspector(tmp_path / "first")
    second = built_inspector(tmp_path / "second")

    for one, other in zip(
        sorted((tmp_path / "first").rglob("*")), sorted((tmp_path / "second").rglob("*")), strict=True
    ):
        assert one.is_dir() or one.read_bytes() == other.read_bytes(), f"{one.name} differs"
    with zipfile.ZipFile(first.artifacts[1]) as opened:
        names = opened.namelist()
        requirements = opened.read("requirements.txt").decode()
    wheels = {str(parse_wheel_filename(name.partition("/")[2])[0]) for name in names if name.endswith(".whl")}
    assert wheels == {pin.name for pin in component_pins(build.LOCK, HERE)} | {"kensa"}
    assert {"release/manifest.json", "release/model.onnx", "release/golden.npz", "imports.txt"} < set(names)
    assert requirements.count("--hash=sha256:") == len(wheels)
    assert "| opencv-python-headless |" in size_report.table([second.artifacts[1]])


@pytest.mark.timeout(600)
def test_recipe_bill_and_digests_list_the_same_files(tmp_path: Path) -> None:
    built = build.build(model_plan(), tmp_path)

    digests = dict(line.split("  ")[::-1] for line in built.digests.read_text(encoding="utf-8").splitlines())
    assert digests == {
        str(path.relative_to(tmp_path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (*built.artifacts, built.recipe, built.sbom)
    }
    made = recipe.parse(
        built.recipe.read_text(encoding="utf-8"), source="recipe", defaults=checks.DEFAULTS_CHECKS["com.kensa.Model"]
    )
    assert made.ComponentVersion == VERSION
    assert made.artifacts() == ["component.py", HERE.archive]
    assert made.Manifests[0].Artifacts[0].Uri == f"s3://BUCKET_NAME/com.kensa.Model/{VERSION}/component.py"
    assert made.ComponentConfiguration.DefaultConfiguration["release"] == "parts/7.8.9"

    text = built.sbom.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {part["name"]: part for part in bill["components"]}
    assert set(listed) == {*(build.MODEL.packages or ()), "kensa"}
    assert listed["awsiotsdk"]["purl"].startswith("pkg:pypi/awsiotsdk@")
    assert {h["content"] for part in bill["components"] for h in part["hashes"]} == {
        wheel.sha256 for wheel in built.wheels[HERE.archive]
    }
    (depends_on,) = (entry["dependsOn"] for entry in bill["dependencies"] if "dependsOn" in entry)
    assert set(depends_on) == {part["bom-ref"] for part in bill["components"]}
    assert bill["metadata"]["component"]["bom-ref"] == f"pkg:generic/com.kensa.Model@{VERSION}"


def test_the_bill_of_materials_has_the_same_bytes_in_any_order_and_with_any_hash_seed() -> None:
    program = (
        "from greengrass.packaging import sbom\n"
        "files = {{'release/model.onnx': 'a' * 64, 'release/golden.npz': 'b' * 64, '1.root.json': 'c' * 64}}\n"
        "order = {order}(files.items())\n"
        "print(sbom.render(component='com.kensa.Model', version='1.2.3', wheels={{}}, files=dict(order)))"
    )
    bills = {
        subprocess.run(
            [sys.executable, "-c", program.format(order=order)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed, order in (("1", "sorted"), ("2", "list"))
    }

    (bill,) = bills
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_there_are_wheels_of_the_lock_for_every_kind_of_device(tmp_path: Path) -> None:
    built = build.build(inspector_plan(tmp_path, *ALL), tmp_path / "out")

    assert [path.name for path in built.artifacts] == ["component.py", *(target.archive for target in ALL)]
    tree = yaml.safe_load(built.recipe.read_text(encoding="utf-8"))
    assert [len(manifest["Artifacts"]) for manifest in tree["Manifests"]] == [4, 4]


# --- contents ---------------------------------------------------------------------------------------------------------


def test_a_factory_release_is_what_its_manifest_lists(tmp_path: Path) -> None:
    release = write_release(tmp_path / "release")
    (release / "notes.txt").write_text("not listed", encoding="utf-8")

    names = {entry.name for entry in contents.factory_release(release)}

    assert names == {"release/manifest.json", "release/model.onnx", "release/golden.npz"}
    (release / "model.onnx").write_bytes(b"another")
    with pytest.raises(PackagingError, match=r"release/model.onnx is not the file that the manifest lists"):
        contents.factory_release(release)


def test_the_bundled_release_can_be_the_factory_release() -> None:
    assert contents.factory_release(ROOT / "releases" / "default")


def test_only_a_root_is_a_trust_anchor(tmp_path: Path) -> None:
    publisher = Publisher.start(tmp_path)

    assert contents.trust_anchor(publisher.root).name == "1.root.json"
    with pytest.raises(PackagingError, match="is no root metadata"):
        contents.trust_anchor(publisher.repository / "metadata" / "timestamp.json")


def test_a_signed_release_travels_with_the_metadata_that_a_device_asks_for(tmp_path: Path) -> None:
    publisher = Publisher.start(tmp_path)
    publisher.release()
    publisher.release("1.1.0")
    entries = contents.signed_release(publisher.repository, site=SITE, release_id=RELEASE, now=NOW)
    bundle = tmp_path / "bundle"
    for entry in entries:
        path = bundle / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.content)

    assert {entry.name.split("/")[0] for entry in entries} == {"repository"}
    assert len([entry for entry in entries if "1.1.0" in entry.name]) == 0
    assert len([entry for entry in entries if entry.name.startswith("repository/files/")]) == 2


@pytest.mark.parametrize(
    ("site", "release", "later", "message"),
    [
        ("elsewhere", RELEASE, 0.0, "has no site 'elsewhere'"),
        (SITE, "spots/9.9.9", 0.0, r"there are: spots/1\.0\.0"),
        (SITE, RELEASE, 2.0, "publish --refresh"),
    ],
)
def test_a_release_that_devices_would_refuse_is_not_packed(
    tmp_path: Path, site: str, release: str, later: float, message: str
) -> None:
    publisher = Publisher.start(tmp_path)
    publisher.release()

    with pytest.raises(PackagingError, match=message):
        contents.signed_release(publisher.repository, site=site, release_id=release, now=NOW + dt.timedelta(days=later))


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_missing_argument_is_named_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model"]) == 64
    assert "give --repository, --site and --release" in capsys.readouterr().err
    assert main(["inspector", "--release", str(tmp_path)]) == 2
    assert "is no release folder" in capsys.readouterr().err
    assert main(["inspector", "--version", "1.0"]) == 64
    assert "three numbers" in capsys.readouterr().err


def test_the_check_of_recipes_prints_nothing_without_problems(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out == ""
