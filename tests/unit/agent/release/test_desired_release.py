"""An unchanged desired release of the shadow is older than a request at the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.release.desired_release import FILE_NAME, DesiredReleaseTracker
from agent.release_records import DesiredRelease
from tests.kits import model_status

if TYPE_CHECKING:
    from pathlib import Path

    from agent.release_records import ModelStatus

CLOUD = DesiredRelease("parts/1.1.0", source="shadow")
PERSON = DesiredRelease("parts/1.2.0", source="control")


def wants(desired: DesiredRelease | None) -> ModelStatus:
    return model_status.status(desired=desired)


def test_the_first_wish_is_news(tmp_path: Path) -> None:
    assert DesiredReleaseTracker(tmp_path).is_newer(CLOUD, wants(None))
    assert DesiredReleaseTracker(tmp_path).is_newer(CLOUD, wants(PERSON))


def test_a_wish_that_is_followed_already_is_none(tmp_path: Path) -> None:
    assert not DesiredReleaseTracker(tmp_path).is_newer(CLOUD, wants(CLOUD))


def test_an_old_wish_of_the_cloud_does_not_undo_a_persons_after_a_restart(tmp_path: Path) -> None:
    DesiredReleaseTracker(tmp_path).mark_applied(wants(CLOUD))
    again = DesiredReleaseTracker(tmp_path)
    assert not again.is_newer(CLOUD, wants(PERSON))
    assert again.is_newer(DesiredRelease("parts/1.3.0", source="shadow"), wants(PERSON))
    assert again.is_newer(CLOUD, wants(None))  # the journal was lost: better an old wish than none


def test_a_wish_that_a_person_had_first_counts_as_followed(tmp_path: Path) -> None:
    wishes = DesiredReleaseTracker(tmp_path)
    assert not wishes.is_newer(CLOUD, wants(DesiredRelease("parts/1.1.0", source="control")))
    assert not DesiredReleaseTracker(tmp_path).is_newer(CLOUD, wants(PERSON))


def test_what_a_person_asks_for_is_not_noted_as_the_clouds(tmp_path: Path) -> None:
    DesiredReleaseTracker(tmp_path).mark_applied(wants(PERSON))
    assert not (tmp_path / FILE_NAME).exists()


def test_each_source_is_remembered_by_itself(tmp_path: Path) -> None:
    deployment = DesiredRelease("parts/1.0.5", source="deployment")
    wishes = DesiredReleaseTracker(tmp_path)
    assert wishes.is_newer(deployment, wants(None))
    wishes.mark_applied(wants(deployment))
    assert wishes.is_newer(CLOUD, wants(deployment))
    wishes.mark_applied(wants(CLOUD))
    again = DesiredReleaseTracker(tmp_path)  # at the next start both say again what they said before
    assert not again.is_newer(deployment, wants(CLOUD))
    assert not again.is_newer(CLOUD, wants(CLOUD))
    assert again.is_newer(DesiredRelease("parts/1.0.6", source="deployment"), wants(CLOUD))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[",
        b"[1]",
        b'[{"release":"parts/1.1.0"}]',
        b'{"surface":{"release":"parts/1.1.0"}}',
        b"\xff",
        b'[{"release":1,',
    ],
)
def test_a_damaged_file_only_makes_wishes_new_again(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    wishes = DesiredReleaseTracker(tmp_path)
    assert wishes.is_newer(CLOUD, wants(PERSON))
    wishes.mark_applied(wants(CLOUD))
    assert not DesiredReleaseTracker(tmp_path).is_newer(CLOUD, wants(PERSON))


def test_a_disk_that_takes_no_file_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{FILE_NAME}.new").mkdir()
    wishes = DesiredReleaseTracker(tmp_path)
    wishes.mark_applied(wants(CLOUD))
    assert "cannot be written" in caplog.text
    assert not wishes.is_newer(CLOUD, wants(PERSON))
