"""A wish of the cloud's shadow that did not change is older than what a person asked for at the device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agent.model.desired import FILE_NAME, FollowedWishes
from agent.records import Desired
from tests import status_kit

if TYPE_CHECKING:
    from pathlib import Path

    from agent.records import ModelStatus

CLOUD = Desired("parts/1.1.0", source="shadow")
PERSON = Desired("parts/1.2.0", source="control")


def wants(desired: Desired | None) -> ModelStatus:
    return status_kit.status(desired=desired)


def test_the_first_wish_is_news(tmp_path: Path) -> None:
    assert FollowedWishes(tmp_path).is_news(CLOUD, wants(None))
    assert FollowedWishes(tmp_path).is_news(CLOUD, wants(PERSON))


def test_a_wish_that_is_followed_already_is_none(tmp_path: Path) -> None:
    assert not FollowedWishes(tmp_path).is_news(CLOUD, wants(CLOUD))


def test_an_old_wish_of_the_cloud_does_not_undo_a_persons_after_a_restart(tmp_path: Path) -> None:
    FollowedWishes(tmp_path).note(wants(CLOUD))
    again = FollowedWishes(tmp_path)
    assert not again.is_news(CLOUD, wants(PERSON))
    assert again.is_news(Desired("parts/1.3.0", source="shadow"), wants(PERSON))
    assert again.is_news(CLOUD, wants(None))  # the journal was lost: better an old wish than none


def test_a_wish_that_a_person_had_first_counts_as_followed(tmp_path: Path) -> None:
    wishes = FollowedWishes(tmp_path)
    assert not wishes.is_news(CLOUD, wants(Desired("parts/1.1.0", source="control")))
    assert not FollowedWishes(tmp_path).is_news(CLOUD, wants(PERSON))


def test_what_a_person_asks_for_is_not_noted_as_the_clouds(tmp_path: Path) -> None:
    FollowedWishes(tmp_path).note(wants(PERSON))
    assert not (tmp_path / FILE_NAME).exists()


def test_each_source_is_remembered_by_itself(tmp_path: Path) -> None:
    deployment = Desired("parts/1.0.5", source="deployment")
    wishes = FollowedWishes(tmp_path)
    assert wishes.is_news(deployment, wants(None))
    wishes.note(wants(deployment))
    assert wishes.is_news(CLOUD, wants(deployment))
    wishes.note(wants(CLOUD))
    again = FollowedWishes(tmp_path)  # at the next start both say again what they said before
    assert not again.is_news(deployment, wants(CLOUD))
    assert not again.is_news(CLOUD, wants(CLOUD))
    assert again.is_news(Desired("parts/1.0.6", source="deployment"), wants(CLOUD))


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
    wishes = FollowedWishes(tmp_path)
    assert wishes.is_news(CLOUD, wants(PERSON))
    wishes.note(wants(CLOUD))
    assert not FollowedWishes(tmp_path).is_news(CLOUD, wants(PERSON))


def test_a_disk_that_takes_no_file_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{FILE_NAME}.new").mkdir()
    wishes = FollowedWishes(tmp_path)
    wishes.note(wants(CLOUD))
    assert "cannot be written" in caplog.text
    assert not wishes.is_news(CLOUD, wants(PERSON))
