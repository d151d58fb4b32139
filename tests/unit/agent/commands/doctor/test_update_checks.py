"""The doctor checks trust anchor, repository and model state without changing them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.commands.doctor.check_result import CheckStatus
from agent.lifecycle.state.journal import Journal, LifecycleRecord
from tests.kits.cloud.tuf_repository import SITE, Device, Publisher
from tests.kits.doctor_site import findings, healthy_site


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    return healthy_site(tmp_path)


@pytest.fixture
def updating(tmp_path: Path, site: dict[str, Any]) -> dict[str, Any]:
    """A configuration that follows a real repository."""
    publisher = Publisher.start(tmp_path)
    site["updates"] = {"repository": str(publisher.repository), "root": str(publisher.root), "site": SITE}
    return site


def test_a_site_with_updates_is_looked_at_without_touching_it(tmp_path: Path, updating: dict[str, Any]) -> None:
    found = findings(tmp_path, updating)

    assert {check: finding.status for check, finding in found.items() if "updates" in check} == {
        "updates root": CheckStatus.OK,
        "updates trust": CheckStatus.OK,
        "updates repository": CheckStatus.OK,
    }
    assert "1.root.json: version 1, expires 20" in found["updates root"].seen
    assert f"the metadata of {SITE} verify, signed" in found["updates repository"].seen
    assert "0 releases are revoked" in found["updates repository"].seen
    assert found["release top"].status is CheckStatus.OK
    assert "the factory release, which no signature vouches for" in found["release top"].seen
    assert "idle, active the factory release, desired nothing" in found["model top"].seen
    assert not (tmp_path / "state").exists()


def test_what_an_agent_accepted_is_judged_by_and_left_alone(tmp_path: Path, updating: dict[str, Any]) -> None:
    trust = tmp_path / "state" / "trust"
    timestamp = tmp_path / "repository" / "metadata" / "timestamp.json"
    old = timestamp.read_bytes()
    Publisher(tmp_path).open().publish(refresh=True)
    Device(tmp_path / "state", Path(updating["updates"]["root"]), updating["updates"]["repository"]).refresh()
    before = {path: path.lstat().st_mtime_ns for path in trust.rglob("*")}
    timestamp.write_bytes(old)

    found = findings(tmp_path, updating)["updates repository"]

    assert found.status is CheckStatus.WARN
    assert "metadata_rollback" in str(found.remedy)
    assert {path: path.lstat().st_mtime_ns for path in trust.rglob("*")} == before


@pytest.mark.parametrize(
    ("key", "value", "check", "status", "says"),
    [
        ("root", "nowhere.json", "updates root", CheckStatus.FAIL, "No such file"),
        ("root", "kensa.yaml", "updates root", CheckStatus.FAIL, "is no root metadata"),
        ("root", "repository/metadata/timestamp.json", "updates root", CheckStatus.FAIL, "role timestamp, not root"),
        ("site", "plant-z", "updates repository", CheckStatus.FAIL, "has no site plant-z"),
        ("repository", "/nowhere/releases", "updates repository", CheckStatus.WARN, "/nowhere/releases: "),
    ],
)
def test_updates_that_cannot_work_are_named(
    tmp_path: Path, updating: dict[str, Any], key: str, value: str, check: str, status: CheckStatus, says: str
) -> None:
    updating["updates"][key] = str(tmp_path / value) if key == "root" else value

    found = findings(tmp_path, updating)[check]

    assert (found.status, says in found.seen) == (status, True), found
    assert found.remedy


def test_a_model_that_waits_for_a_person_is_a_warning(tmp_path: Path, updating: dict[str, Any]) -> None:
    journal = Journal(tmp_path / "state" / "models" / "top", checkpoint=lambda _: None)
    journal.save(LifecycleRecord(halted=True, rollbacks_utc_s=(1.0, 2.0, 3.0)))

    found = findings(tmp_path, updating)["model top"]

    assert found.status is CheckStatus.WARN
    assert "3 automatic rollbacks within a day" in found.seen
